// Programs over a few elements: each value has one slot of a vector's size, and instructions go from slots to slots.
#include "kernels/cpu/pointwise_small.h"

#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "kernels/cpu/pointwise_tile.h"
#include "kernels/cpu/tail.h"

namespace ortmod::cpu {
namespace {

constexpr int kSlot = 64, kMaxSlots = PwDesc::kMaxIn + PwDesc::kMaxConst + PwDesc::kMaxInst;
constexpr int64_t kMaxBlocks = 4;

enum class Code : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kMax,
  kMin,
  kNeg,
  kAbs,
  kSqrt,
  kRelu,
  kIdentity,
  kCall,  // by its tile function
  // An operand is the result of the instruction before, still in a register.
  kAddLast,
  kMulLast,
  kSubLast,  // it is the first operand
  kLastSub,  // it is the second one
};

Code code_of(const PwInst& i, Elem t) {
  if (i.type != t || i.out != t) return Code::kCall;
  switch (i.op) {
    case Pw::kAdd:
      return Code::kAdd;
    case Pw::kSub:
      return Code::kSub;
    case Pw::kMul:
      return Code::kMul;
    case Pw::kDiv:
      return Code::kDiv;
    case Pw::kMax:
      return Code::kMax;
    case Pw::kMin:
      return Code::kMin;
    case Pw::kNeg:
      return Code::kNeg;
    case Pw::kAbs:
      return Code::kAbs;
    case Pw::kSqrt:
      return Code::kSqrt;
    case Pw::kRelu:
      return Code::kRelu;
    case Pw::kIdentity:
      return Code::kIdentity;
    default:
      return Code::kCall;
  }
}

enum class Way : uint8_t { kFull, kOne, kTable };

}  // namespace

struct PwSmall {
  struct Load {
    PwPlace from;
    int32_t slot;
    Way way;
    uint8_t bytes;
    const int32_t* table;  // elements of the operand, in order
  };
  struct Inst {
    Code code;
    int32_t dst, a, b;
    TileFn call;
    int32_t c;
    const double* imm;
  };
  struct Store {
    PwPlace to;
    int32_t slot;
    Way way;  // kFull, or kTable: by bytes
    uint8_t bytes;
  };
  struct Const {
    int32_t slot;
    double value;
  };
  Elem type;
  int32_t n = 0, lanes = 0;
  int n_loads = 0, n_consts = 0, n_inst = 0, n_stores = 0;
  Load* loads = nullptr;
  Const* consts = nullptr;
  Inst* inst = nullptr;
  Store* stores = nullptr;
  void (*run)(const PwSmall&, char* const*) = nullptr;
};

namespace {

template <class T>
T* at(char* slots, int32_t offset) {
  return reinterpret_cast<T*>(slots + offset);
}

template <class T>
struct Many {
  using V = Vec<T>;
  Tail<T> tail;
  explicit Many(int n) : tail(n) {}
  V load(const T* p) const { return tail.load(p); }
  void store(const V& v, T* p) const { tail.store(v, p); }
  static V splat(T x) { return V(x); }
  static V get(const T* p) { return V::loadu(p); }
  static void put(const V& v, T* p) { v.store(p); }
  static V max(const V& a, const V& b) { return at::vec::maximum(a, b); }
  static V min(const V& a, const V& b) { return at::vec::minimum(a, b); }
  static V neg(const V& a) { return a.neg(); }
  static V abs(const V& a) { return a.abs(); }
  static V sqrt(const V& a) { return a.sqrt(); }
  static V relu(const V& a) { return V::blendv(a, V(T(0)), a < V(T(0))); }
};

/// One element: plain numbers, a slot is one of them.
template <class T>
void run_one(const PwSmall& p, char* const* base) {
  T v[kMaxSlots];
  for (const PwSmall::Load *l = p.loads, *e = l + p.n_loads; l != e; ++l) {
    const char* from = base[l->from.index] + l->from.offset;
    if (l->way == Way::kTable) {
      *reinterpret_cast<char*>(v + l->slot) = *from;
    } else {
      v[l->slot] = *reinterpret_cast<const T*>(from);
    }
  }
  for (const PwSmall::Const *c = p.consts, *e = c + p.n_consts; c != e; ++c) v[c->slot] = static_cast<T>(c->value);
  T last(0);
  for (const PwSmall::Inst *i = p.inst, *e = i + p.n_inst; i != e; ++i) {
    switch (i->code) {
      case Code::kAdd:
        last = v[i->a] + v[i->b];
        break;
      case Code::kSub:
        last = v[i->a] - v[i->b];
        break;
      case Code::kMul:
        last = v[i->a] * v[i->b];
        break;
      case Code::kDiv:
        last = v[i->a] / v[i->b];
        break;
      case Code::kMax:
        last = v[i->a] > v[i->b] || v[i->a] != v[i->a] ? v[i->a] : v[i->b];
        break;
      case Code::kMin:
        last = v[i->a] < v[i->b] || v[i->a] != v[i->a] ? v[i->a] : v[i->b];
        break;
      case Code::kNeg:
        last = -v[i->a];
        break;
      case Code::kAbs:
        last = std::abs(v[i->a]);
        break;
      case Code::kSqrt:
        last = std::sqrt(v[i->a]);
        break;
      case Code::kRelu:
        last = v[i->a] < T(0) ? T(0) : v[i->a];
        break;
      case Code::kIdentity:
        last = v[i->a];
        break;
      case Code::kCall: {
        const auto at = [&](int32_t k) { return reinterpret_cast<char*>(v + k); };
        const char* src[3] = {at(i->a), at(i->b), at(i->c)};
        i->call(at(i->dst), src, 1, i->imm);
        continue;
      }
      case Code::kAddLast:
        last = last + v[i->b];
        break;
      case Code::kMulLast:
        last = last * v[i->b];
        break;
      case Code::kSubLast:
        last = last - v[i->b];
        break;
      case Code::kLastSub:
        last = v[i->a] - last;
        break;
    }
    v[i->dst] = last;
  }
  for (const PwSmall::Store *s = p.stores, *e = s + p.n_stores; s != e; ++s) {
    char* to = base[s->to.index] + s->to.offset;
    if (s->way == Way::kTable) {
      *to = *reinterpret_cast<const char*>(v + s->slot);
    } else {
      *reinterpret_cast<T*>(to) = v[s->slot];
    }
  }
}

template <class T, class Lanes>
void block(const PwSmall& p, char* const* base, char* slots, int64_t begin, int count) {
  using V = typename Lanes::V;
  const Lanes lanes(count);
  for (const PwSmall::Load *l = p.loads, *e = l + p.n_loads; l != e; ++l) {
    const char* from = base[l->from.index] + l->from.offset;
    T* to = at<T>(slots, l->slot);
    switch (l->way) {
      case Way::kFull:
        Lanes::put(lanes.load(reinterpret_cast<const T*>(from) + begin), to);
        break;
      case Way::kOne:
        Lanes::put(Lanes::splat(*reinterpret_cast<const T*>(from)), to);
        break;
      case Way::kTable:
        for (int i = 0; i < count; ++i)
          std::memcpy(slots + l->slot + i * l->bytes, from + l->table[begin + i] * l->bytes, l->bytes);
        break;
    }
  }
  V last(T(0));
  for (const PwSmall::Inst *i = p.inst, *e = i + p.n_inst; i != e; ++i) {
    const auto a = [&] { return Lanes::get(at<T>(slots, i->a)); };
    const auto b = [&] { return Lanes::get(at<T>(slots, i->b)); };
    switch (i->code) {
      case Code::kAdd:
        last = a() + b();
        break;
      case Code::kSub:
        last = a() - b();
        break;
      case Code::kMul:
        last = a() * b();
        break;
      case Code::kDiv:
        last = a() / b();
        break;
      case Code::kMax:
        last = Lanes::max(a(), b());
        break;
      case Code::kMin:
        last = Lanes::min(a(), b());
        break;
      case Code::kNeg:
        last = Lanes::neg(a());
        break;
      case Code::kAbs:
        last = Lanes::abs(a());
        break;
      case Code::kSqrt:
        last = Lanes::sqrt(a());
        break;
      case Code::kRelu:
        last = Lanes::relu(a());
        break;
      case Code::kIdentity:
        last = a();
        break;
      case Code::kCall: {
        const char* src[3] = {slots + i->a, slots + i->b, slots + i->c};
        i->call(slots + i->dst, src, count, i->imm);
        continue;
      }
      case Code::kAddLast:
        last = last + b();
        break;
      case Code::kMulLast:
        last = last * b();
        break;
      case Code::kSubLast:
        last = last - b();
        break;
      case Code::kLastSub:
        last = a() - last;
        break;
    }
    Lanes::put(last, at<T>(slots, i->dst));
  }
  for (const PwSmall::Store *s = p.stores, *e = s + p.n_stores; s != e; ++s) {
    char* to = base[s->to.index] + s->to.offset;
    if (s->way == Way::kFull) {
      lanes.store(Lanes::get(at<T>(slots, s->slot)), reinterpret_cast<T*>(to) + begin);
    } else {
      std::memcpy(to + begin * s->bytes, slots + s->slot, static_cast<size_t>(count) * s->bytes);
    }
  }
}

template <class T, class Lanes>
void run(const PwSmall& p, char* const* base) {
  alignas(kSlot) char slots[kMaxSlots * kSlot];
  for (const PwSmall::Const *c = p.consts, *e = c + p.n_consts; c != e; ++c)
    Lanes::put(Lanes::splat(static_cast<T>(c->value)), at<T>(slots, c->slot));
  int32_t begin = 0;
  for (; begin + p.lanes < p.n; begin += p.lanes) block<T, Lanes>(p, base, slots, begin, p.lanes);
  block<T, Lanes>(p, base, slots, begin, p.n - begin);
}

template <class T>
T* table(Alloc alloc, void* context, int n) {
  return static_cast<T*>(alloc(context, sizeof(T) * static_cast<size_t>(n > 0 ? n : 1), alignof(T)));
}

/// The one floating type of the program, kNone when there are others than it and bool.
Elem single_type(const PwDesc& d) {
  Elem t = Elem::kNone;
  const auto fits = [&](Elem e) {
    if (e == Elem::kBool) return true;
    if ((e != Elem::kF32 && e != Elem::kF64) || (t != Elem::kNone && t != e)) return false;
    t = e;
    return true;
  };
  bool ok = true;
  for (int i = 0; i < d.n_in; ++i) ok = ok && fits(d.in[i].type);
  for (int i = 0; i < d.n_const; ++i) ok = ok && d.consts[i].type != Elem::kBool && fits(d.consts[i].type);
  for (int i = 0; i < d.n_inst; ++i) ok = ok && fits(d.inst[i].type) && fits(d.inst[i].out);
  for (int i = 0; i < d.n_out; ++i) ok = ok && fits(d.out[i].type);
  return ok ? t : Elem::kNone;
}

/// Lets an instruction read the result of the one before without its slot.
void chain(const PwSmall::Inst& before, PwSmall::Inst& i) {
  if (before.code == Code::kCall) return;
  if (i.b == before.dst && i.a != before.dst && (i.code == Code::kAdd || i.code == Code::kMul)) std::swap(i.a, i.b);
  if (i.a == before.dst) {
    if (i.code == Code::kAdd) i.code = Code::kAddLast;
    if (i.code == Code::kMul) i.code = Code::kMulLast;
    if (i.code == Code::kSub) i.code = Code::kSubLast;
  } else if (i.b == before.dst && i.code == Code::kSub) {
    i.code = Code::kLastSub;
  }
}

}  // namespace

const PwSmall* pw_small(const PwDesc& d, const PwPlace* operands, Alloc alloc, void* context) {
  PwSmall p;
  p.type = single_type(d);
  if (p.type == Elem::kNone) return nullptr;
  const bool f32 = p.type == Elem::kF32;
  const int64_t n = pw_elements(d);
  p.lanes = f32 ? Vec<float>::size() : Vec<double>::size();
  if (n == 0 || n > kMaxBlocks * p.lanes) return nullptr;
  p.n = static_cast<int32_t>(n);
  const int unit = n == 1 ? 1 : kSlot;  // one element: slots are numbered, else in bytes
  for (int i = 0; i < d.n_inst; ++i)
    if (!tile_fn(d.inst[i].op, d.inst[i].type, d.inst[i].out, 0)) return nullptr;
  p.loads = table<PwSmall::Load>(alloc, context, d.n_in);
  for (int i = 0; i < d.n_in; ++i) {
    const PwDesc::In& in = d.in[i];
    const auto [flat, one] = pw_walk(d, in);
    const bool floating = in.type == p.type;
    PwSmall::Load l{operands[i], i * unit,
                    floating && flat  ? Way::kFull
                    : floating && one ? Way::kOne
                                      : Way::kTable,
                    static_cast<uint8_t>(elem_size(in.type)), nullptr};
    if (l.way == Way::kTable) {
      auto* elements = table<int32_t>(alloc, context, p.n);
      for (int32_t e = 0; e < p.n; ++e) {
        int64_t rest = e, element = 0;
        for (int k = d.ndim - 1; k >= 0; --k) {
          element += rest % d.sizes[k] * in.strides[k];
          rest /= d.sizes[k];
        }
        elements[e] = static_cast<int32_t>(element);
      }
      l.table = elements;
    }
    p.loads[p.n_loads++] = l;
  }
  p.consts = table<PwSmall::Const>(alloc, context, d.n_const);
  for (int i = 0; i < d.n_const; ++i) p.consts[p.n_consts++] = {(d.n_in + i) * unit, d.consts[i].value};
  p.inst = table<PwSmall::Inst>(alloc, context, d.n_inst);
  for (int i = 0; i < d.n_inst; ++i) {
    const PwInst& in = d.inst[i];
    const auto slot = [&](int k) { return in.src[k] < 0 ? 0 : in.src[k] * unit; };
    auto* imm = table<double>(alloc, context, 2);
    std::memcpy(imm, in.imm, sizeof in.imm);
    p.inst[p.n_inst++] = {code_of(in, p.type),
                          (d.n_in + d.n_const + i) * unit,
                          slot(0),
                          slot(1),
                          tile_fn(in.op, in.type, in.out, 0),
                          slot(2),
                          imm};
  }
  for (int i = p.n_inst - 1; i > 0; --i) chain(p.inst[i - 1], p.inst[i]);
  p.stores = table<PwSmall::Store>(alloc, context, d.n_out);
  for (int o = 0; o < d.n_out; ++o)
    p.stores[p.n_stores++] = {operands[d.n_in + o], d.out[o].value * unit,
                              d.out[o].type == p.type ? Way::kFull : Way::kTable,
                              static_cast<uint8_t>(elem_size(d.out[o].type))};
  if (n == 1) {
    p.run = f32 ? run_one<float> : run_one<double>;
  } else {
    p.run = f32 ? run<float, Many<float>> : run<double, Many<double>>;
  }
  return new (alloc(context, sizeof(PwSmall), alignof(PwSmall))) PwSmall(p);
}

void pw_small_run(const PwSmall& p, char* const* base) { p.run(p, base); }

}  // namespace ortmod::cpu
