// Emits the instructions of a PwDesc, one vector of elements at a time; loads and stores are left to what derives from
// this.
#pragma once
#include <array>

#include "kernels/cpu/jit_emit.h"

namespace ortmod::cpu {

/// The floating type of a program, kNone when there is none.
inline Elem floating_type(const PwDesc& d) {
  for (int i = 0; i < d.n_inst; ++i)
    for (Elem e : {d.inst[i].type, d.inst[i].out})
      if (e == Elem::kF32 || e == Elem::kF64) return e;
  return Elem::kNone;
}

template <class V>
class Instructions : public Emitter<V> {
 protected:
  using E = Emitter<V>;
  using E::bytes;
  using E::f64_;
  using E::kWide;
  using Address = Xbyak::Address;
  using Opmask = Xbyak::Opmask;
  using Temp = typename E::Temp;
  using X = Xbyak::CodeGenerator;
  static constexpr size_t kMaxBytes = 64 << 10;

  Instructions(bool f64, uint8_t* buffer) : E(f64, buffer, kMaxBytes) {}

  enum class Kind : uint8_t { kNone, kVector, kMask, kConst };
  struct Val {
    Kind kind = Kind::kNone;
    int reg = -1;
    int last_use = -1;
    bool kept = false;  // its register is not given back after the last use
  };
  int first() const { return d_->n_in + d_->n_const; }
  bool is_mask(int v) const {
    return v < d_->n_in ? d_->in[v].type == Elem::kBool : v >= first() && d_->inst[v - first()].out == Elem::kBool;
  }
  Val& val(int v) { return val_[static_cast<size_t>(v)]; }

  /// Starts with a program: which instruction reads a value last.
  void begin(const PwDesc& d) {
    d_ = &d;
    val_ = {};
    for (int k = 0; k < d.n_inst; ++k)
      for (int s : d.inst[k].src)
        if (s >= 0) val(s).last_use = k;
    for (int o = 0; o < d.n_out; ++o)
      if (d.out[o].value < first()) throw CannotEmit{};
    for (int i = 0; i < d.n_const; ++i) val(d.n_in + i).kind = Kind::kConst;
  }
  void emit(int k);
  void release(int v, int k);

  /// The value in a register; constants are brought into `t`.
  V reg(int v, std::deque<Temp>& t) {
    if (val(v).kind == Kind::kVector) return V(val(v).reg);
    t.emplace_back(*this);
    this->splat(t.back(), number(v));
    return t.back();
  }
  double number(int v) const { return d_->consts[v - d_->n_in].value; }
  bool constant(int v) const { return v >= d_->n_in && v < first(); }
  template <class F>
  void binary(const PwInst& i, const V& d, F f) {
    std::deque<Temp> t;
    const V a = reg(i.src[0], t);
    if (constant(i.src[1])) {
      f(d, a, this->constant_memory(number(i.src[1])));
    } else {
      f(d, a, reg(i.src[1], t));
    }
  }

  const PwDesc* d_ = nullptr;
  using Values = std::array<Val, PwDesc::kMaxIn + PwDesc::kMaxConst + PwDesc::kMaxInst>;
  Values val_{};
};

template <class V>
void Instructions<V>::emit(int k) {
  const PwInst& i = d_->inst[k];
  Val& y = val_[static_cast<size_t>(first() + k)];
  std::deque<Temp> t;
  const bool mask_in = i.type == Elem::kBool && i.op != Pw::kWhere;
  const auto mask_of = [&](int s) { return val_[static_cast<size_t>(i.src[s])].reg; };
  y.kind = i.out == Elem::kBool ? Kind::kMask : Kind::kVector;
  y.reg = y.kind == Kind::kMask ? this->take_mask() : this->take();
  const auto compare = [&](uint8_t how) {
    const V a = reg(i.src[0], t);
    if (constant(i.src[1])) return E::compare(y.reg, a, this->constant_memory(number(i.src[1])), how);
    E::compare(y.reg, a, reg(i.src[1], t), how);
  };
  /// The larger or smaller one; NaN of either.
  const auto extreme = [&](bool larger) {
    const V d(y.reg), a = reg(i.src[0], t), b = reg(i.src[1], t);
    const int nan = this->take_mask();
    E::compare(nan, a, a, E::kUnordered);
    larger ? this->max_(d, a, b) : this->min_(d, a, b);
    this->select(d, nan, a, d);
    this->give_mask(nan);
  };
  const V d(y.reg);
  switch (i.op) {
    case Pw::kAdd:
      return binary(i, d, [&](const V& r, const V& a, const Xbyak::Operand& b) { this->add(r, a, b); });
    case Pw::kSub:
      return binary(i, d, [&](const V& r, const V& a, const Xbyak::Operand& b) { this->sub_(r, a, b); });
    case Pw::kMul:
      return binary(i, d, [&](const V& r, const V& a, const Xbyak::Operand& b) { this->mul_(r, a, b); });
    case Pw::kDiv:
      return binary(i, d, [&](const V& r, const V& a, const Xbyak::Operand& b) { this->div_(r, a, b); });
    case Pw::kMax:
      return extreme(true);
    case Pw::kMin:
      return extreme(false);
    case Pw::kPRelu: {
      const V a = reg(i.src[0], t), b = reg(i.src[1], t);
      t.emplace_back(*this);
      const V zero = t.back();
      this->vxorps(zero, zero, zero);
      const int negative = this->take_mask();
      E::compare(negative, a, zero, E::kLt);
      this->mul_(zero, a, b);
      this->select(d, negative, zero, a);
      return this->give_mask(negative);
    }
    case Pw::kPow: {
      if (!constant(i.src[1])) throw CannotEmit{};
      const V a = reg(i.src[0], t);
      const double e = number(i.src[1]);
      if (e == 1) return this->move(d, a);
      if (e == 0.5) return this->sqrt_(d, a);
      if (e == -1) {
        t.emplace_back(*this);
        this->splat(t.back(), 1.0);
        return this->div_(d, t.back(), a);
      }
      if (e != 2 && e != 3) throw CannotEmit{};
      this->mul_(d, a, a);
      if (e == 3) this->mul_(d, d, a);
      return;
    }
    case Pw::kEqual:
      if (mask_in) {
        this->combine_masks(Pw::kXor, y.reg, mask_of(0), mask_of(1));
        return this->negate_mask(y.reg, y.reg);
      }
      return compare(E::kEq);
    case Pw::kLess:
      return compare(E::kLt);
    case Pw::kGreater:
      return compare(E::kGt);
    case Pw::kLessOrEqual:
      return compare(E::kLe);
    case Pw::kGreaterOrEqual:
      return compare(E::kGe);
    case Pw::kAnd:
    case Pw::kOr:
    case Pw::kXor:
      return this->combine_masks(i.op, y.reg, mask_of(0), mask_of(1));
    case Pw::kNot:
      return this->negate_mask(y.reg, mask_of(0));
    case Pw::kIsNaN: {
      const V a = reg(i.src[0], t);
      return E::compare(y.reg, a, a, E::kUnordered);
    }
    case Pw::kWhere: {
      if (i.type == Elem::kBool) throw CannotEmit{};
      const V a = reg(i.src[1], t), b = reg(i.src[2], t);
      return this->select(d, mask_of(0), a, b);
    }
    case Pw::kCast:
      if (mask_in && i.out != Elem::kBool) return this->select_constant(d, mask_of(0), 1.0);
      if (!mask_in && i.out == Elem::kBool)
        return E::compare(y.reg, reg(i.src[0], t), this->constant_memory(0.0), E::kNe);
      throw CannotEmit{};
    default:
      if (mask_in || i.out == Elem::kBool) throw CannotEmit{};
      return this->unary(i, d, reg(i.src[0], t));
  }
}

template <class V>
void Instructions<V>::release(int v, int k) {
  if (v < 0) return;
  Val& x = val_[static_cast<size_t>(v)];
  if (x.kind == Kind::kConst || x.kept || x.last_use > k || x.reg < 0) return;
  x.kind == Kind::kMask ? this->give_mask(x.reg) : this->give(x.reg);
  x.reg = -1;
}

}  // namespace ortmod::cpu
