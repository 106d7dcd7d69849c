// The register side of compiled chains: pieces of operands, what registers hold, sums over lanes. Included by
// jit_chain.cpp only.
#pragma once
#include "kernels/cpu/chain.h"
#include "kernels/cpu/jit_program.h"

namespace ortmod::cpu {
namespace {

template <class V>
class ChainCode : public Instructions<V> {
  using I = Instructions<V>;
  using I::bytes;
  using I::d_;
  using I::f64_;
  using I::kWide;
  using I::val;
  using typename I::Address;
  using typename I::Kind;
  using typename I::Temp;
  using typename I::Val;
  using typename I::X;
  using Reg64 = Xbyak::Reg64;
  using Xmm = Xbyak::Xmm;
  using Ymm = Xbyak::Ymm;
  using Zmm = Xbyak::Zmm;

 public:
  ChainCode(bool f64, uint8_t* buffer) : I(f64, buffer) {
    if (!kWide) this->give(15);  // no tails here
  }
  size_t generate(std::span<const ChainOp* const> ops);

 private:
  struct Piece {
    int64_t begin;
    int count;
  };
  std::vector<Piece> pieces(int64_t n) const {
    std::vector<Piece> r;
    for (int64_t at = 0; at < n;) {
      int c = this->lanes();
      while (c > n - at) c /= 2;
      r.push_back({at, c});
      at += c;
    }
    return r;
  }
  PwPlace moved(const PwPlace& p, int64_t elements) const { return {p.index, p.offset + elements * bytes()}; }

  // What registers hold: elements of a place, or one of them in all lanes.
  struct Held {
    PwPlace at;
    int count;
    bool splat;
    int reg;
    int used;
    bool pinned;
  };
  int take() override;
  int load(const PwPlace& at, int count);
  int load_splat(const PwPlace& at);
  Held* find(const PwPlace& at, int count, bool splat);
  /// Stores a register, which is then held.
  void store(const PwPlace& at, int count, int reg);
  void unpin() {
    for (Held& h : held_) h.pinned = false;
    ++clock_;
  }
  Address memory(const PwPlace& at);

  void pointwise(const ChainOp& o);
  void product(const ChainOp& o);
  void flat_product(const ChainOp& o);
  void flat_outer(const ChainOp& o);
  void reduce_op(const ChainOp& o);
  /// The first `from` lanes of a register are added up until `to` are left.
  void fold(int reg, int from, int to);
  void finish(const ChainOp& o, int reg, const PwPlace& bias, int count, bool splat_bias);
  /// d: lanes index[0], index[1], ... of a.
  void permute(const V& d, const V& a, const std::vector<int>& index);

  std::vector<Held> held_;
  int clock_ = 0;
  struct Base {
    int index = -1, used = 0;
  };
  Base bases_[5];
  struct Table {
    std::vector<int> index;
    Xbyak::Label label;
  };
  std::deque<Table> tables_;
};

template <class V>
auto ChainCode<V>::memory(const PwPlace& at) -> Address {
  const Reg64 regs[] = {X::rax, X::rcx, X::rdx, X::r8, X::r9};
  int k = -1, oldest = 0;
  for (int i = 0; i < 5; ++i) {
    if (bases_[i].index == at.index) k = i;
    if (bases_[i].used < bases_[oldest].used) oldest = i;
  }
  if (k < 0) {
    k = oldest;
    bases_[k].index = at.index;
    this->mov(regs[k], this->ptr[X::rsi + 8 * at.index]);
  }
  bases_[k].used = ++clock_;
  if (at.offset > INT32_MAX) throw CannotEmit{};
  return this->ptr[regs[k] + static_cast<int>(at.offset)];
}

template <class V>
int ChainCode<V>::take() {
  if (this->free_.empty()) {
    int oldest = -1;
    for (size_t i = 0; i < held_.size(); ++i)
      if (!held_[i].pinned && (oldest < 0 || held_[i].used < held_[static_cast<size_t>(oldest)].used))
        oldest = static_cast<int>(i);
    if (oldest < 0) throw CannotEmit{};
    this->give(held_[static_cast<size_t>(oldest)].reg);
    held_.erase(held_.begin() + oldest);
  }
  return I::take();
}

template <class V>
auto ChainCode<V>::find(const PwPlace& at, int count, bool splat) -> Held* {
  for (Held& h : held_)
    if (h.at.index == at.index && h.at.offset == at.offset && h.count == count && h.splat == splat) {
      h.used = ++clock_;
      h.pinned = true;
      return &h;
    }
  return nullptr;
}

template <class V>
int ChainCode<V>::load(const PwPlace& at, int count) {
  if (const Held* h = find(at, count, false)) return h->reg;
  const int r = take();
  const Address a = memory(at);
  switch (count * bytes()) {
    case 64:
      this->vmovups(Zmm(r), a);
      break;
    case 32:
      this->vmovups(Ymm(r), a);
      break;
    case 16:
      this->vmovups(Xmm(r), a);
      break;
    case 8:
      this->vmovsd(Xmm(r), a);
      break;
    default:
      this->vmovss(Xmm(r), a);
      break;
  }
  held_.push_back({at, count, false, r, ++clock_, true});
  return r;
}

template <class V>
int ChainCode<V>::load_splat(const PwPlace& at) {
  if (const Held* h = find(at, 1, true)) return h->reg;
  const int r = take();
  if (const Held* h = find(at, 1, false)) {
    f64_ ? this->vbroadcastsd(V(r), Xmm(h->reg)) : this->vbroadcastss(V(r), Xmm(h->reg));
  } else {
    this->broadcast(V(r), memory(at));
  }
  held_.push_back({at, 1, true, r, ++clock_, true});
  return r;
}

template <class V>
void ChainCode<V>::store(const PwPlace& at, int count, int r) {
  const Address a = memory(at);
  switch (count * bytes()) {
    case 64:
      this->vmovups(a, Zmm(r));
      break;
    case 32:
      this->vmovups(a, Ymm(r));
      break;
    case 16:
      this->vmovups(a, Xmm(r));
      break;
    case 8:
      this->vmovsd(a, Xmm(r));
      break;
    default:
      this->vmovss(a, Xmm(r));
      break;
  }
  const int64_t end = at.offset + count * bytes();
  for (size_t i = held_.size(); i-- > 0;) {
    const Held& h = held_[i];
    if (h.at.index != at.index || h.at.offset >= end || h.at.offset + h.count * bytes() <= at.offset) continue;
    if (h.pinned) {  // still read by this step; never found again
      held_[i].at.index = -1;
    } else {
      this->give(h.reg);
      held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  held_.push_back({at, count, false, r, ++clock_, true});
}

template <class V>
void ChainCode<V>::fold(int r, int from, int to) {
  Temp t(*this);
  for (int w = from; w > to; w /= 2) {
    switch (w * bytes()) {
      case 64:
        this->vextractf64x4(Ymm(t.r), Zmm(r), 1);
        break;
      case 32:
        this->vextractf128(Xmm(t.r), Ymm(r), 1);
        break;
      case 16:
        this->vunpckhpd(Xmm(t.r), Xmm(r), Xmm(r));
        break;
      default:
        this->vmovshdup(Xmm(t.r), Xmm(r));
        break;
    }
    if (w * bytes() == 64) {
      f64_ ? this->vaddpd(Ymm(r), Ymm(r), Ymm(t.r)) : this->vaddps(Ymm(r), Ymm(r), Ymm(t.r));
    } else {
      f64_ ? this->vaddpd(Xmm(r), Xmm(r), Xmm(t.r)) : this->vaddps(Xmm(r), Xmm(r), Xmm(t.r));
    }
  }
}

/// alpha, bias, relu; the register holds `count` elements.
template <class V>
void ChainCode<V>::finish(const ChainOp& o, int r, const PwPlace& bias, int count, bool splat_bias) {
  const V v(r);
  if (o.alpha != 1) this->mul_(v, v, this->constant_memory(o.alpha));
  if (o.bias.index >= 0) {
    const int b = splat_bias && count > 1 ? load_splat(bias) : load(bias, count);
    if (o.bias_scale == 1) {
      this->add(v, v, V(b));
    } else {
      Temp t(*this);
      this->mul_(t, V(b), this->constant_memory(o.bias_scale));
      this->add(v, v, V(t));
    }
  }
  if (o.relu) {
    Temp zero(*this);
    this->vxorps(V(zero), V(zero), V(zero));
    this->max_(v, zero, v);
  }
}

template <class V>
void ChainCode<V>::permute(const V& d, const V& a, const std::vector<int>& index) {
  if constexpr (kWide) {
    size_t k = 0;
    while (k < tables_.size() && tables_[k].index != index) ++k;
    if (k == tables_.size()) tables_.push_back({index, Xbyak::Label()});
    Temp i(*this);
    this->vmovups(V(i), this->ptr[this->rip + tables_[k].label]);
    f64_ ? this->vpermpd(d, V(i), a) : this->vpermps(d, V(i), a);
  } else {
    throw CannotEmit{};
  }
}

}  // namespace
}  // namespace ortmod::cpu
