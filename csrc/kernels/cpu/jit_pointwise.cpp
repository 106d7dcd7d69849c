// Compiles pointwise programs to loops over vectors: every value in a register, inputs read once, outputs written once.
#include <mutex>
#include <string>
#include <unordered_map>

#include "kernels/cpu/jit.h"
#include "kernels/cpu/jit_memory.h"

#if defined(ORTMOD_XBYAK) && (defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2))
#include "kernels/cpu/jit_program.h"

namespace ortmod::cpu {
namespace {

template <class V>
class Loop : public Instructions<V> {
  using I = Instructions<V>;
  using I::bytes;
  using I::d_;
  using I::f64_;
  using I::is_mask;
  using I::kWide;
  using I::val;
  using typename I::Address;
  using typename I::Kind;
  using typename I::Opmask;
  using typename I::Temp;
  using typename I::Val;
  using typename I::X;
  using Reg64 = Xbyak::Reg64;

 public:
  Loop(const PwDesc& d, bool f64, uint8_t* buffer) : I(f64, buffer) { this->begin(d); }
  size_t generate();

 private:
  bool dense(int input) const { return d_->in[input].strides[0] != 0; }
  Address at(int operand, int size) { return this->ptr[pointer_[static_cast<size_t>(operand)] + X::rax * size]; }
  void pass(bool tail);
  void load(int v, bool tail);
  void store(int o, bool tail);

  typename I::Values start_{};
  std::array<Reg64, PwDesc::kMaxIn + PwDesc::kMaxOut> pointer_;
  int tail_ = kWide ? 7 : 15;
};

template <class V>
void Loop<V>::load(int v, bool tail) {
  Val& x = val(v);
  if (x.kind != Kind::kNone) return;
  if (!is_mask(v)) {
    x.kind = Kind::kVector;
    x.reg = this->take();
    const V r(x.reg);
    const Address a = at(v, bytes());
    if (!tail) {
      f64_ ? this->vmovupd(r, a) : this->vmovups(r, a);
    } else if constexpr (kWide) {
      f64_ ? this->vmovupd(r | Opmask(tail_) | X::T_z, a) : this->vmovups(r | Opmask(tail_) | X::T_z, a);
    } else {
      f64_ ? this->vmaskmovpd(r, V(tail_), a) : this->vmaskmovps(r, V(tail_), a);
    }
    return;
  }
  if constexpr (kWide) {
    x.kind = Kind::kMask;
    x.reg = this->take_mask();
    Temp t(*this);
    const V r(t.r);
    const Address a = at(v, 1);
    if (f64_) {
      tail ? this->vpmovzxbq(r | Opmask(tail_) | X::T_z, a) : this->vpmovzxbq(r, a);
      this->vptestmq(Opmask(x.reg), r, r);
    } else {
      tail ? this->vpmovzxbd(r | Opmask(tail_) | X::T_z, a) : this->vpmovzxbd(r, a);
      this->vptestmd(Opmask(x.reg), r, r);
    }
  } else {
    throw CannotEmit{};
  }
}

template <class V>
void Loop<V>::store(int o, bool tail) {
  const int v = d_->out[o].value, alias = d_->out[o].alias;
  if (alias >= 0 && dense(alias) && val(alias).last_use >= v - this->first()) load(alias, tail);
  const Val& x = val(v);
  if (x.kind == Kind::kVector) {
    const V r(x.reg);
    const Address a = at(d_->n_in + o, bytes());
    if (!tail) {
      f64_ ? this->vmovupd(a, r) : this->vmovups(a, r);
    } else if constexpr (kWide) {
      f64_ ? this->vmovupd(a | Opmask(tail_), r) : this->vmovups(a | Opmask(tail_), r);
    } else {
      f64_ ? this->vmaskmovpd(a, V(tail_), r) : this->vmaskmovps(a, V(tail_), r);
    }
    return;
  }
  if constexpr (kWide) {
    Temp t(*this);
    const V r(t.r);
    this->splat_bits(t, 1);
    const Address a = at(d_->n_in + o, 1);
    f64_ ? this->vmovdqa64(r | Opmask(x.reg) | X::T_z, r) : this->vmovdqa32(r | Opmask(x.reg) | X::T_z, r);
    if (f64_) {
      tail ? this->vpmovqb(a | Opmask(tail_), r) : this->vpmovqb(a, r);
    } else {
      tail ? this->vpmovdb(a | Opmask(tail_), r) : this->vpmovdb(a, r);
    }
  } else {
    throw CannotEmit{};
  }
}

template <class V>
void Loop<V>::pass(bool tail) {
  const auto free = this->free_, free_masks = this->free_masks_;
  this->val_ = start_;
  for (int k = 0; k < d_->n_inst; ++k) {
    const PwInst& i = d_->inst[k];
    for (int s : i.src)
      if (s >= 0 && s < d_->n_in) load(s, tail);
    this->emit(k);
    for (int o = 0; o < d_->n_out; ++o)
      if (d_->out[o].value == this->first() + k) store(o, tail);
    for (int s : i.src) this->release(s, k);
    this->release(this->first() + k, k);
  }
  this->free_ = free;
  this->free_masks_ = free_masks;
}

template <class V>
size_t Loop<V>::generate() {
  const Reg64 saved[] = {X::rbx, X::rbp, X::r12, X::r13, X::r14, X::r15};
  const Reg64 regs[] = {X::rcx, X::r8, X::r9, X::r10, X::r11, X::rbx, X::rbp, X::r12, X::r13, X::r14, X::r15, X::rdi};
  size_t n_regs = 0, n_saved = 0;
  std::vector<int> dense_operands;
  for (int i = 0; i < d_->n_in + d_->n_out; ++i) {
    if (i < d_->n_in && (!dense(i) || val(i).last_use < 0)) continue;
    if (n_regs == std::size(regs)) throw CannotEmit{};
    pointer_[static_cast<size_t>(i)] = regs[n_regs++];
    dense_operands.push_back(i);
  }
  n_saved = std::min(std::size(saved), n_regs > 5 ? n_regs - 5 : 0);
  for (size_t i = 0; i < n_saved; ++i) this->push(saved[i]);
  for (int i = 0; i < d_->n_in; ++i) {
    Val& x = val(i);
    if (dense(i) || x.last_use < 0) continue;
    if (is_mask(i)) throw CannotEmit{};
    x.kind = Kind::kVector;
    x.reg = this->take();
    x.kept = true;
    this->mov(X::rax, this->ptr[X::rdi + 8 * i]);
    this->broadcast(V(x.reg), this->ptr[X::rax]);
  }
  for (int i : dense_operands) this->mov(pointer_[static_cast<size_t>(i)], this->ptr[X::rdi + 8 * i]);
  start_ = this->val_;
  Xbyak::Label main, tail, end;
  const int w = this->lanes();
  this->xor_(X::eax, X::eax);
  this->sub(X::rsi, w);
  this->jl(tail, X::T_NEAR);
  this->align(32);
  this->L(main);
  pass(false);
  this->X::add(X::rax, w);
  this->sub(X::rsi, w);
  this->jge(main, X::T_NEAR);
  this->L(tail);
  this->X::add(X::rsi, w);
  this->jz(end, X::T_NEAR);
  Xbyak::Label ones;
  if constexpr (kWide) {
    this->mov(X::edx, -1);
    this->bzhi(X::edx, X::edx, X::esi);
    this->kmovw(Opmask(tail_), X::edx);
  } else {
    this->lea(X::rdx, this->ptr[this->rip + ones]);
    this->shl(X::rsi, f64_ ? 3 : 2);
    this->sub(X::rdx, X::rsi);
    this->vmovups(V(tail_), this->ptr[X::rdx + 32]);
  }
  pass(true);
  this->L(end);
  this->vzeroupper();
  for (size_t i = n_saved; i-- > 0;) this->pop(saved[i]);
  this->ret();
  this->emit_pool();
  if constexpr (!kWide) {
    this->L(ones);
    for (int i = 0; i < 8; ++i) this->dq(i < 4 ? ~uint64_t{0} : 0);
  }
  return this->getSize();
}

template <class V>
JitFn compile(const PwDesc& d, bool f64) {
  static thread_local std::vector<uint8_t> buffer(64 << 10);
  try {
    Loop<V> loop(d, f64, buffer.data());
    const size_t size = loop.generate();
    return reinterpret_cast<JitFn>(const_cast<void*>(make_executable(buffer.data(), size)));
  } catch (const CannotEmit&) {
  } catch (const Xbyak::Error&) {
  }
  return nullptr;
}

/// What the code depends on.
std::string key_of(const PwDesc& d) {
  std::string k;
  const auto put = [&](const auto& x) { k.append(reinterpret_cast<const char*>(&x), sizeof x); };
  put(std::array{d.n_in, d.n_const, d.n_inst, d.n_out});
  for (int i = 0; i < d.n_in; ++i)
    k += static_cast<char>(2 * static_cast<int>(d.in[i].type) + (d.in[i].strides[0] != 0));
  for (int i = 0; i < d.n_const; ++i) put(d.consts[i].value);
  for (int i = 0; i < d.n_inst; ++i) {
    const PwInst& n = d.inst[i];
    k += static_cast<char>(n.op);
    k += static_cast<char>(static_cast<int>(n.type) * 16 + static_cast<int>(n.out));
    for (int16_t s : n.src) put(s);
    for (double x : n.imm) put(x);
  }
  for (int o = 0; o < d.n_out; ++o) {
    k += static_cast<char>(d.out[o].type);
    put(d.out[o].value);
    put(d.out[o].alias);
  }
  return k;
}

}  // namespace

bool jit_supported(const PwDesc& d, const PwInst& i) {
  const JitLevel level = jit_level();
  if (level == JitLevel::kOff) return false;
  const bool wide = level == JitLevel::kAvx512;
  for (Elem e : {i.type, i.out})
    if (e != Elem::kF32 && e != Elem::kF64 && e != Elem::kBool) return false;
  switch (i.op) {
    case Pw::kExp:
    case Pw::kSigmoid:
    case Pw::kTanh:
    case Pw::kErf:
    case Pw::kSwish:
    case Pw::kGelu:
      return wide && i.type == Elem::kF32;
    case Pw::kPow: {
      const int c = i.src[1] - d.n_in;
      if (c < 0 || c >= d.n_const) return false;
      const double e = d.consts[c].value;
      return e == 1 || e == 2 || e == 3 || e == -1 || e == 0.5;
    }
    case Pw::kIdentity:
    case Pw::kWhere:
      return i.type != Elem::kBool;
    case Pw::kCast:
      return (i.type == Elem::kBool) != (i.out == Elem::kBool);
    case Pw::kAdd:
    case Pw::kSub:
    case Pw::kMul:
    case Pw::kDiv:
    case Pw::kMax:
    case Pw::kMin:
    case Pw::kPRelu:
    case Pw::kEqual:
    case Pw::kLess:
    case Pw::kGreater:
    case Pw::kLessOrEqual:
    case Pw::kGreaterOrEqual:
    case Pw::kAnd:
    case Pw::kOr:
    case Pw::kXor:
    case Pw::kNot:
    case Pw::kIsNaN:
    case Pw::kNeg:
    case Pw::kAbs:
    case Pw::kSign:
    case Pw::kReciprocal:
    case Pw::kSqrt:
    case Pw::kFloor:
    case Pw::kCeil:
    case Pw::kRound:
    case Pw::kRelu:
    case Pw::kLeakyRelu:
    case Pw::kThresholdedRelu:
    case Pw::kHardSigmoid:
    case Pw::kHardSwish:
    case Pw::kSoftsign:
      return true;
    default:
      return false;
  }
}

JitFn jit_pointwise(const PwDesc& d) {
  static std::mutex mutex;
  static std::unordered_map<std::string, JitFn> known;
  const Elem type = floating_type(d);
  if (type == Elem::kNone) return nullptr;
  std::string key = key_of(d);
  const std::lock_guard lock(mutex);
  const auto [it, fresh] = known.try_emplace(std::move(key), nullptr);
  if (fresh)
    it->second = jit_level() == JitLevel::kAvx512 ? compile<Xbyak::Zmm>(d, type == Elem::kF64)
                                                  : compile<Xbyak::Ymm>(d, type == Elem::kF64);
  return it->second;
}

}  // namespace ortmod::cpu

#else

namespace ortmod::cpu {
bool jit_supported(const PwDesc&, const PwInst&) { return false; }
JitFn jit_pointwise(const PwDesc&) { return nullptr; }
}  // namespace ortmod::cpu

#endif
