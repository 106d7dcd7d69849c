// Emits vector code for the instructions of a pointwise program; what surrounds it is the business of who derives from
// this.
#pragma once
#include <xbyak/xbyak.h>

#include <bit>
#include <deque>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "kernels/cpu/pointwise.h"

namespace ortmod::cpu {

/// Thrown while emitting: an unsupported instruction, or no register left. Does not leave the compiler.
struct CannotEmit {};

template <class V>
class Emitter : public Xbyak::CodeGenerator {
 public:
  static constexpr bool kWide = std::is_same_v<V, Xbyak::Zmm>;

 protected:
  ~Emitter() = default;
  using Operand = Xbyak::Operand;
  using Address = Xbyak::Address;
  using Opmask = Xbyak::Opmask;

  Emitter(bool f64, uint8_t* buffer, size_t bytes) : CodeGenerator(bytes, buffer), f64_(f64) {
    // The last vector register (or mask) is that of the tail.
    for (int i = kWide ? 31 : 14; i >= 0; --i) free_.push_back(i);
    if (kWide)
      for (int i = 6; i >= 1; --i) free_masks_.push_back(i);
  }

  int lanes() const { return (kWide ? 64 : 32) / bytes(); }
  int bytes() const { return f64_ ? 8 : 4; }

  virtual int take() {
    if (free_.empty()) throw CannotEmit{};
    const int r = free_.back();
    free_.pop_back();
    return r;
  }
  void give(int r) { free_.push_back(r); }
  int take_mask() {
    if (!kWide) return take();
    if (free_masks_.empty()) throw CannotEmit{};
    const int r = free_masks_.back();
    free_masks_.pop_back();
    return r;
  }
  void give_mask(int r) { (kWide ? free_masks_ : free_).push_back(r); }
  /// A register for the length of a block.
  struct Temp {
    explicit Temp(Emitter& e) : e(e), r(e.take()) {}
    ~Temp() { e.give(r); }
    Temp(const Temp&) = delete;
    Temp& operator=(const Temp&) = delete;
    operator V() const { return V(r); }
    Emitter& e;
    int r;
  };

  // Constants: one element each, repeated where there is no broadcast from memory.
  uint64_t bits(double x) const {
    if (f64_) return std::bit_cast<uint64_t>(x);
    return std::bit_cast<uint32_t>(static_cast<float>(x));
  }
  Address constant_bits(uint64_t b) {
    size_t k = 0;
    while (k < pool_.size() && pool_[k].bits != b) ++k;
    if (k == pool_.size()) pool_.push_back({b, Xbyak::Label()});
    if constexpr (kWide) return ptr_b[rip + pool_[k].label];
    return ptr[rip + pool_[k].label];
  }
  Address constant_memory(double x) { return constant_bits(bits(x)); }
  void splat(const V& d, double x) { splat_bits(d, bits(x)); }
  void splat_bits(const V& d, uint64_t b) {
    constant_bits(b);
    size_t k = 0;
    while (pool_[k].bits != b) ++k;
    broadcast(d, ptr[rip + pool_[k].label]);
  }
  void broadcast(const V& d, const Address& from) { f64_ ? vbroadcastsd(d, from) : vbroadcastss(d, from); }
  Address sign_bit() { return constant_bits(f64_ ? uint64_t{1} << 63 : uint64_t{1} << 31); }
  void emit_pool() {
    align(64);
    for (auto& c : pool_) {
      L(c.label);
      for (int i = 0; i < (kWide ? 1 : lanes()); ++i) f64_ ? dq(c.bits) : dd(static_cast<uint32_t>(c.bits));
    }
  }

#define ORTMOD_BINARY(name, op) \
  void name(const V& d, const V& a, const Operand& b) { f64_ ? op##pd(d, a, b) : op##ps(d, a, b); }
  ORTMOD_BINARY(add, vadd)
  ORTMOD_BINARY(sub_, vsub)
  ORTMOD_BINARY(mul_, vmul)
  ORTMOD_BINARY(div_, vdiv)
  ORTMOD_BINARY(max_, vmax)
  ORTMOD_BINARY(min_, vmin)
  ORTMOD_BINARY(and_bits, vand)
  ORTMOD_BINARY(or_bits, vor)
  ORTMOD_BINARY(xor_bits, vxor)
  ORTMOD_BINARY(fma213, vfmadd213)    // d = a * d + b
  ORTMOD_BINARY(fma231, vfmadd231)    // d = a * b + d
  ORTMOD_BINARY(fnma231, vfnmadd231)  // d = -(a * b) + d
#undef ORTMOD_BINARY
  /// d = |x|; another register than x.
  void magnitude(const V& d, const V& x) {
    splat(d, -0.0);
    f64_ ? vandnpd(d, d, x) : vandnps(d, d, x);
  }
  void move(const V& d, const V& a) { f64_ ? vmovapd(d, a) : vmovaps(d, a); }
  void sqrt_(const V& d, const V& a) { f64_ ? vsqrtpd(d, a) : vsqrtps(d, a); }
  void round_(const V& d, const V& a, uint8_t way) {
    if constexpr (kWide) {
      f64_ ? vrndscalepd(d, a, way) : vrndscaleps(d, a, way);
    } else {
      f64_ ? vroundpd(d, a, way) : vroundps(d, a, way);
    }
  }
  static constexpr uint8_t kEq = 0, kUnordered = 3, kNe = 4, kLt = 17, kLe = 18, kNotGe = 25, kGe = 29, kGt = 30;
  void compare(int mask, const V& a, const Operand& b, uint8_t how) {
    if constexpr (kWide) {
      f64_ ? vcmppd(Opmask(mask), a, b, how) : vcmpps(Opmask(mask), a, b, how);
    } else {
      f64_ ? vcmppd(V(mask), a, b, how) : vcmpps(V(mask), a, b, how);
    }
  }
  /// d = mask ? a : b
  void select(const V& d, int mask, const V& a, const V& b) {
    if constexpr (kWide) {
      f64_ ? vblendmpd(d | Opmask(mask), b, a) : vblendmps(d | Opmask(mask), b, a);
    } else {
      f64_ ? vblendvpd(d, b, a, V(mask)) : vblendvps(d, b, a, V(mask));
    }
  }
  /// d = mask ? x : 0
  void select_constant(const V& d, int mask, double x) {
    if constexpr (kWide) {
      splat(d, x);
      move_zero(d, mask, d);
    } else {
      and_bits(d, V(mask), constant_memory(x));
    }
  }
  /// d = mask ? a : 0
  void move_zero(const V& d, int mask, const V& a) {
    if constexpr (kWide) {
      f64_ ? vmovapd(d | Opmask(mask) | T_z, a) : vmovaps(d | Opmask(mask) | T_z, a);
    } else {
      and_bits(d, V(mask), a);
    }
  }
  void combine_masks(Pw op, int d, int a, int b) {
    if constexpr (kWide) {
      const Opmask kd(d), ka(a), kb(b);
      op == Pw::kAnd ? kandw(kd, ka, kb) : op == Pw::kOr ? korw(kd, ka, kb) : kxorw(kd, ka, kb);
    } else {
      const V vd(d), va(a), vb(b);
      op == Pw::kAnd ? vandps(vd, va, vb) : op == Pw::kOr ? vorps(vd, va, vb) : vxorps(vd, va, vb);
    }
  }
  void negate_mask(int d, int a) {
    if constexpr (kWide) {
      knotw(Opmask(d), Opmask(a));
    } else {
      Temp ones(*this);
      vpcmpeqd(V(ones.r), V(ones.r), V(ones.r));
      vxorps(V(d), V(a), V(ones.r));
    }
  }

  // Functions of vmath.h; d may be x.
  void exp_(const V& d, const V& x);
  void sigmoid_(const V& d, const V& x);
  void tanh_(const V& d, const V& x);
  void erf_(const V& d, const V& x);
  void polynomial(const V& p, const V& x, std::initializer_list<float> c) {
    auto k = c.begin();
    splat(p, *k);
    for (++k; k != c.end(); ++k) fma213(p, x, constant_memory(*k));
  }
  void blend_small(const V& d, const V& x, const V& a, const V& small, const V& large, float limit);

  /// One floating instruction without masks or constants among the operands: x0 and x1 are registers.
  void unary(const PwInst& i, const V& d, const V& x);

  bool f64_;
  std::vector<int> free_, free_masks_;
  struct Constant {
    uint64_t bits;
    Xbyak::Label label;
  };
  std::deque<Constant> pool_;
};

template <class V>
void Emitter<V>::exp_(const V& d, const V& x) {
  if constexpr (kWide) {
    Temp v(*this), n(*this), p(*this), t(*this);
    splat(v, -105.0f);
    max_(v, v, x);
    splat(n, 89.0f);
    min_(v, n, v);
    mul_(n, v, constant_memory(1.44269504f));
    round_(n, n, 8);
    fnma231(v, n, constant_memory(0.693359375f));
    fnma231(v, n, constant_memory(-2.12194440e-4f));
    polynomial(p, v, {0.0013951476f, 0.008369595f, 0.04166619f, 0.16666512f, 0.5f});
    mul_(t, v, V(v));
    fma213(p, t, V(v));
    add(p, p, constant_memory(1.0));
    vscalefps(d, V(p), V(n));
  } else {
    throw CannotEmit{};
  }
}

template <class V>
void Emitter<V>::sigmoid_(const V& d, const V& x) {
  Temp e(*this), one(*this);
  xor_bits(e, x, sign_bit());
  exp_(e, e);
  add(e, e, constant_memory(1.0));
  splat(one, 1.0);
  div_(d, one, V(e));
}

/// d = a < limit ? small : large with the sign of x; small where a is NaN
template <class V>
void Emitter<V>::blend_small(const V& d, const V& x, const V& a, const V& small, const V& large, float limit) {
  Temp sign(*this);
  and_bits(sign, x, sign_bit());
  or_bits(large, large, V(sign));
  const int mask = take_mask();
  compare(mask, a, constant_memory(limit), kNotGe);
  select(d, mask, small, large);
  give_mask(mask);
}

template <class V>
void Emitter<V>::tanh_(const V& d, const V& x) {
  Temp a(*this), s(*this), p(*this), e(*this);
  magnitude(a, x);
  mul_(s, x, x);
  polynomial(p, s, {0.0020317186f, -0.008053903f, 0.021650132f, -0.05393746f, 0.13333133f, -0.33333328f});
  mul_(p, p, V(s));
  fma213(p, x, x);
  if constexpr (kWide) {  // exp(2 a), beyond 9.1 of no effect, with as few operations after each other as possible
    Temp r(*this), n(*this), t(*this), r2(*this), u(*this), w(*this);
    splat(r, 9.1);
    min_(r, r, V(a));
    // n is rounded by adding 1.5 * 2^23; as its last bits it is then added to the exponent.
    splat(n, 12582912.0);
    fma231(n, r, constant_memory(2.88539008));
    vpslld(V(t), V(n), 23);
    sub_(n, n, constant_memory(12582912.0));
    fnma231(r, n, constant_memory(0.34657359028));
    mul_(r2, r, V(r));
    splat(u, 8 * 0.16666512);
    fma213(u, r, constant_memory(4 * 0.5));
    splat(w, 32 * 0.008369595);
    fma213(w, r, constant_memory(16 * 0.04166619));
    fma231(w, r2, constant_memory(64 * 0.0013951476));
    fma213(w, r2, V(u));
    add(e, r, V(r));
    fma231(e, w, V(r2));
    add(e, e, constant_memory(1.0));
    vpaddd(V(e), V(e), V(t));
  } else {
    throw CannotEmit{};
  }
  add(e, e, constant_memory(1.0));
  splat(s, 2.0);
  div_(e, s, V(e));
  splat(s, 1.0);
  sub_(e, s, V(e));
  blend_small(d, x, a, p, e, 0.64f);
}

template <class V>
void Emitter<V>::erf_(const V& d, const V& x) {
  Temp a(*this), s(*this), p(*this), e(*this);
  magnitude(a, x);
  mul_(s, x, x);
  polynomial(p, s,
             {8.345224e-05f, -0.00081374374f, 0.0052006342f, -0.02685927f, 0.11283694f, -0.37612635f, 0.12837917f});
  fma213(p, x, x);
  splat(s, 4.0);
  min_(s, s, V(a));
  polynomial(e, s,
             {-2.1161071e-05f, 0.00043520838f, -0.0041745896f, 0.025128482f, -0.10829373f, -0.6333349f, -1.1295208f,
              0.00017585659f});
  exp_(e, e);
  splat(s, 1.0);
  sub_(e, s, V(e));
  blend_small(d, x, a, p, e, 0.925f);
}

template <class V>
void Emitter<V>::unary(const PwInst& i, const V& d, const V& x) {
  switch (i.op) {
    case Pw::kIdentity:
      return move(d, x);
    case Pw::kNeg:
      return xor_bits(d, x, sign_bit());
    case Pw::kAbs:
      return magnitude(d, x);
    case Pw::kSign: {
      Temp t(*this);
      const int mask = take_mask();
      Temp zero(*this);
      vxorps(V(zero), V(zero), V(zero));
      compare(mask, x, V(zero), kLt);
      select_constant(t, mask, -1.0);
      compare(mask, x, V(zero), kGt);
      select_constant(zero, mask, 1.0);
      or_bits(d, t, V(zero));
      return give_mask(mask);
    }
    case Pw::kReciprocal: {
      Temp t(*this);
      splat(t, 1.0);
      return div_(d, t, x);
    }
    case Pw::kSqrt:
      return sqrt_(d, x);
    case Pw::kFloor:
      return round_(d, x, 9);
    case Pw::kCeil:
      return round_(d, x, 10);
    case Pw::kRound:
      return round_(d, x, 8);
    case Pw::kRelu: {  // the operand order keeps NaN
      Temp zero(*this);
      vxorps(V(zero), V(zero), V(zero));
      return max_(d, zero, x);
    }
    case Pw::kLeakyRelu: {
      Temp t(*this), zero(*this);
      const int mask = take_mask();
      vxorps(V(zero), V(zero), V(zero));
      compare(mask, x, V(zero), kLt);
      mul_(t, x, constant_memory(i.imm[0]));
      select(d, mask, t, x);
      return give_mask(mask);
    }
    case Pw::kThresholdedRelu: {
      Temp zero(*this);
      const int mask = take_mask();
      vxorps(V(zero), V(zero), V(zero));
      compare(mask, x, constant_memory(i.imm[0]), kLe);
      select(d, mask, zero, x);
      return give_mask(mask);
    }
    case Pw::kHardSigmoid:
    case Pw::kHardSwish: {
      const bool swish = i.op == Pw::kHardSwish;
      Temp t(*this), limit(*this);
      splat(t, swish ? 0.5 : i.imm[1]);
      fma231(t, x, constant_memory(swish ? 1.0 / 6 : i.imm[0]));
      vxorps(V(limit), V(limit), V(limit));
      max_(t, limit, V(t));
      splat(limit, 1.0);
      min_(t, limit, V(t));
      return swish ? mul_(d, x, V(t)) : move(d, t);
    }
    case Pw::kSoftsign: {
      Temp t(*this);
      magnitude(t, x);
      add(t, t, constant_memory(1.0));
      return div_(d, x, V(t));
    }
    default:
      break;
  }
  if (f64_ || !kWide) throw CannotEmit{};
  switch (i.op) {
    case Pw::kExp:
      return exp_(d, x);
    case Pw::kSigmoid:
      return sigmoid_(d, x);
    case Pw::kTanh:
      return tanh_(d, x);
    case Pw::kErf:
      return erf_(d, x);
    case Pw::kSwish: {
      Temp t(*this);
      mul_(t, x, constant_memory(i.imm[0]));
      sigmoid_(t, t);
      return mul_(d, x, V(t));
    }
    case Pw::kGelu: {
      Temp t(*this);
      if (i.imm[0] != 0) {
        mul_(t, x, constant_memory(0.044715));
        mul_(t, t, x);
        fma213(t, x, x);
        mul_(t, t, constant_memory(0.79788456080286535588));
        tanh_(t, t);
      } else {
        mul_(t, x, constant_memory(0.70710678118654752440));
        erf_(t, t);
      }
      add(t, t, constant_memory(1.0));
      Temp half(*this);
      mul_(half, x, constant_memory(0.5));
      return mul_(d, half, V(t));
    }
    default:
      throw CannotEmit{};
  }
}

}  // namespace ortmod::cpu
