// Translates pointwise nodes into a program of the pointwise engine, and binds it as one step.
#include "ops/pointwise_program.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/chain.h"
#include "ops/elementwise.h"
#include "ops/op.h"

namespace ortmod {

using cpu::Elem;
using cpu::PwDesc;

namespace {
constexpr int kConstBase = 1000, kInstBase = 2000;
}

Elem to_elem(DType t) {
  switch (t) {
    case DType::kFloat:
      return Elem::kF32;
    case DType::kDouble:
      return Elem::kF64;
    case DType::kBFloat16:
      return Elem::kBF16;
    case DType::kHalf:
      return Elem::kF16;
    case DType::kInt64:
      return Elem::kI64;
    case DType::kInt32:
      return Elem::kI32;
    case DType::kBool:
      return Elem::kBool;
    default:
      return Elem::kNone;
  }
}

int PointwiseProgram::input(DType type, const Dims& dims, const Dims& space) {
  const Elem e = to_elem(type);
  if (e == Elem::kNone || d_.n_in == PwDesc::kMaxIn || space.size() > PwDesc::kMaxDims || dims.size() > space.size())
    return fail();
  PwDesc::In& in = d_.in[d_.n_in];
  in.type = e;
  const int rank = static_cast<int>(space.size()), lead = rank - static_cast<int>(dims.size());
  int64_t stride = 1;
  for (int k = rank - 1; k >= 0; --k) {
    const Dim size = k >= lead ? dims[static_cast<size_t>(k - lead)] : 1;
    if (size != 1 && size != space[static_cast<size_t>(k)]) return fail();
    in.strides[k] = size == 1 && space[static_cast<size_t>(k)] != 1 ? 0 : stride;
    stride *= size;
  }
  return d_.n_in++;
}

int PointwiseProgram::constant(DType type, double value) {
  const Elem e = to_elem(type);
  if (e == Elem::kNone || d_.n_const == PwDesc::kMaxConst) return fail();
  if (e == Elem::kI64 && std::abs(value) > 9007199254740992.0) return fail();
  d_.consts[d_.n_const] = {e, value};
  return kConstBase + d_.n_const++;
}

bool PointwiseProgram::output(DType type, int value, int alias) {
  const Elem e = to_elem(type);
  if (value < 0 || e == Elem::kNone || d_.n_out == PwDesc::kMaxOut) return fail() >= 0;
  d_.out[d_.n_out++] = {e, static_cast<int16_t>(value), static_cast<int16_t>(alias)};
  return true;
}

void PointwiseProgram::space(const Dims& dims) {
  if (dims.size() > PwDesc::kMaxDims) {
    failed_ = true;
    return;
  }
  d_.ndim = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), d_.sizes);
}

int PointwiseProgram::emit(Pw op, Elem type, Elem out, int a, int b, int c, double p, double q) {
  if (d_.n_inst == PwDesc::kMaxInst || !cpu::pw_supported(op, type, out)) return fail();
  cpu::PwInst& i = d_.inst[d_.n_inst];
  i = {op, type, out, {static_cast<int16_t>(a), static_cast<int16_t>(b), static_cast<int16_t>(c)}, {p, q}};
  return kInstBase + d_.n_inst++;
}

int PointwiseProgram::node(const Node& n, Pw op, const SmallVec<int, 8>& in, DType in_type, DType out_type) {
  const Elem stored = to_elem(in_type), result = to_elem(out_type);
  if (failed_ || stored == Elem::kNone || result == Elem::kNone) return fail();
  const Elem t = cpu::compute_type(stored);
  const auto x = [&](size_t i) { return i < in.size() ? in[i] : -1; };
  const bool floating = t == Elem::kF32 || t == Elem::kF64;
  const auto one = [&](double p = 0, double q = 0) { return emit(op, t, t, x(0), -1, -1, p, q); };
  switch (op) {
    case Pw::kMax:
    case Pw::kMin:
    case Pw::kSum:
    case Pw::kMean: {
      const Pw step = op == Pw::kMax || op == Pw::kMin ? op : Pw::kAdd;
      int v = x(0);
      for (size_t i = 1; i < in.size(); ++i) v = emit(step, t, t, v, in[i]);
      if (op == Pw::kMean)
        v = floating ? emit(Pw::kMul, t, t, v, constant(in_type, 1.0 / static_cast<double>(in.size()))) : fail();
      return in.size() == 1 ? emit(Pw::kIdentity, t, t, v) : v;
    }
    case Pw::kClip: {
      int v = x(0);
      const int lo = n.has("min") ? constant(in_type, n.attr("min", 0.0)) : x(1);
      const int hi = n.has("max") ? constant(in_type, n.attr("max", 0.0)) : x(2);
      if (lo >= 0) v = emit(Pw::kMax, t, t, v, lo);
      if (hi >= 0) v = emit(Pw::kMin, t, t, v, hi);
      return v == x(0) ? emit(Pw::kIdentity, t, t, v) : v;
    }
    case Pw::kWhere:
      return emit(op, t, t, x(0), x(1), x(2));
    case Pw::kCast:
      if (stored == result) return emit(Pw::kIdentity, t, t, x(0));
      if (result == Elem::kBF16 || result == Elem::kF16) {
        const int v = t == Elem::kF32 ? x(0) : emit(Pw::kCast, t, Elem::kF32, x(0));
        return emit(Pw::kCast, Elem::kF32, result, v);
      }
      if (t == result) return emit(Pw::kIdentity, t, t, x(0));
      return emit(op, t, result, x(0));
    case Pw::kEqual:
    case Pw::kLess:
    case Pw::kGreater:
    case Pw::kLessOrEqual:
    case Pw::kGreaterOrEqual:
    case Pw::kAnd:
    case Pw::kOr:
    case Pw::kXor:
      return emit(op, t, Elem::kBool, x(0), x(1));
    case Pw::kNot:
    case Pw::kIsNaN:
      return emit(op, t, Elem::kBool, x(0));
    case Pw::kIsInf:
      return emit(op, t, Elem::kBool, x(0), -1, -1, n.attr("detect_negative", 1) != 0,
                  n.attr("detect_positive", 1) != 0);
    case Pw::kMod:
      return n.attr("fmod", 0) != 0 && floating ? emit(op, t, t, x(0), x(1)) : fail();
    case Pw::kLeakyRelu:
      return one(n.attr("alpha", kLeakyReluAlpha));
    case Pw::kElu:
    case Pw::kCelu:
    case Pw::kThresholdedRelu:
    case Pw::kSwish:
      return one(n.attr("alpha", 1.0));
    case Pw::kSelu:
      return one(n.attr("alpha", kSeluAlpha), n.attr("gamma", kSeluGamma));
    case Pw::kHardSigmoid:
      return one(n.attr("alpha", kHardSigmoidAlpha), n.attr("beta", 0.5));
    case Pw::kShrink:
      return one(n.attr("lambd", 0.5), n.attr("bias", 0.0));
    case Pw::kGelu:
      return one(n.attr("approximate", "none") == "tanh");
    default:
      return emit(op, t, t, x(0), x(1));
  }
}

namespace {
void* alloc_in(void* steps, size_t bytes, size_t align) { return static_cast<StepList*>(steps)->alloc(bytes, align); }
}  // namespace

const cpu::PwPlan* compile(PointwiseProgram& p, StepList& steps) {
  if (p.failed_) return nullptr;
  PwDesc& d = p.d_;
  const auto final_number = [&](int16_t v) {
    if (v >= kInstBase) return static_cast<int16_t>(v - kInstBase + d.n_in + d.n_const);
    if (v >= kConstBase) return static_cast<int16_t>(v - kConstBase + d.n_in);
    return v;
  };
  for (int i = 0; i < d.n_inst; ++i)
    for (int16_t& s : d.inst[i].src) s = final_number(s);
  for (int o = 0; o < d.n_out; ++o) d.out[o].value = final_number(d.out[o].value);
  return cpu::pw_plan(d, alloc_in, &steps);
}

namespace {

struct SingleArgs {
  cpu::PwSingle call;
  Operand dst, src[3];
};
void run_single(const SingleArgs& a, char* const* base) {
  const char* src[3] = {a.src[0].ptr<char>(base), a.src[1].ptr<char>(base), a.src[2].ptr<char>(base)};
  a.call.fn(a.dst.ptr<char>(base), src, a.call.n, a.call.imm);
}

struct SmallArgs {
  const cpu::PwSmall* program;
  // Of programs over one element, which the next one may join.
  const PwDesc* desc;
  const cpu::PwPlace* places;
};
void run_small(const SmallArgs& a, char* const* base) { cpu::pw_small_run(*a.program, base); }

using Places = SmallVec<cpu::PwPlace, 8>;

/// Appends program `d` over one element to `to`, another one: inputs that `to` reads or computes are taken from there.
bool join(PwDesc& to, Places& places, const PwDesc& d, const Places& own) {
  if (to.n_in + d.n_in > PwDesc::kMaxIn || to.n_const + d.n_const > PwDesc::kMaxConst ||
      to.n_inst + d.n_inst > PwDesc::kMaxInst || to.n_out + d.n_out > PwDesc::kMaxOut)
    return false;
  const auto same = [](const cpu::PwPlace& a, const cpu::PwPlace& b) {
    return a.index == b.index && a.offset == b.offset;
  };
  const int old_in = to.n_in, old_const = to.n_const, old_inst = to.n_inst, old_out = to.n_out;
  const auto in_place = [&](int i) -> const cpu::PwPlace& { return places[static_cast<size_t>(i)]; };
  // Inputs, constants and results of `d` by their numbers in the joined program; fresh inputs are counted first.
  int16_t value[PwDesc::kMaxIn + PwDesc::kMaxConst + PwDesc::kMaxInst];
  int fresh[PwDesc::kMaxIn], n_fresh = 0;
  for (int i = 0; i < d.n_in; ++i) {
    const cpu::PwPlace& at = own[static_cast<size_t>(i)];
    int found = -1;
    for (int o = old_out - 1; o >= 0 && found < 0; --o)
      if (same(in_place(old_in + o), at)) {
        if (to.out[o].type != d.in[i].type) return false;
        found = PwDesc::kMaxIn + to.out[o].value;
      }
    for (int k = 0; k < old_in && found < 0; ++k)
      if (same(in_place(k), at)) {
        if (to.in[k].type != d.in[i].type) return false;
        found = PwDesc::kMaxIn + k;
      }
    if (found < 0) fresh[n_fresh++] = i;
    value[i] = static_cast<int16_t>(found);
  }
  const auto moved = [&](int v) {
    return static_cast<int16_t>(v < old_in ? v : v < old_in + old_const ? v + n_fresh : v + n_fresh + d.n_const);
  };
  for (int i = 0; i < d.n_in; ++i)
    if (value[i] >= 0) value[i] = moved(value[i] - PwDesc::kMaxIn);
  for (int i = 0; i < n_fresh; ++i) {
    to.in[old_in + i] = d.in[fresh[i]];
    value[fresh[i]] = static_cast<int16_t>(old_in + i);
  }
  for (int i = 0; i < old_inst; ++i)
    for (int16_t& v : to.inst[i].src)
      if (v >= 0) v = moved(v);
  for (int o = 0; o < old_out; ++o) to.out[o].value = moved(to.out[o].value);
  to.n_in += n_fresh;
  for (int i = 0; i < d.n_const; ++i) {
    value[d.n_in + i] = static_cast<int16_t>(to.n_in + to.n_const);
    to.consts[to.n_const++] = d.consts[i];
  }
  for (int i = 0; i < d.n_inst; ++i) {
    cpu::PwInst inst = d.inst[i];
    for (int16_t& v : inst.src)
      if (v >= 0) v = value[v];
    value[d.n_in + d.n_const + i] = static_cast<int16_t>(to.n_in + to.n_const + to.n_inst);
    to.inst[to.n_inst++] = inst;
  }
  for (int o = 0; o < d.n_out; ++o) to.out[to.n_out++] = {d.out[o].type, value[d.out[o].value], -1};
  Places all;
  for (int i = 0; i < old_in; ++i) all.push_back(in_place(i));
  for (int i = 0; i < n_fresh; ++i) all.push_back(own[static_cast<size_t>(fresh[i])]);
  for (int o = 0; o < old_out; ++o) all.push_back(in_place(old_in + o));
  for (int o = 0; o < d.n_out; ++o) all.push_back(own[static_cast<size_t>(d.n_in + o)]);
  places = all;
  return true;
}

std::pair<const PwDesc*, const cpu::PwPlace*> kept(StepList& list, const PwDesc& d, const Places& places) {
  auto* desc = new (list.alloc(sizeof(PwDesc), alignof(PwDesc))) PwDesc(d);
  auto* at = static_cast<cpu::PwPlace*>(list.alloc(sizeof(cpu::PwPlace) * places.size(), alignof(cpu::PwPlace)));
  std::copy(places.begin(), places.end(), at);
  return {desc, at};
}

/// Notes a program whose tables are kept already.
void note_kept(Bind& b, const PwDesc* d, const cpu::PwPlace* places) {
  cpu::ChainOp o;
  o.type = d->out[0].type;
  if (o.type != Elem::kF32 && o.type != Elem::kF64) return;
  o.desc = d;
  o.places = places;
  b.steps().note(o);
}

void note(Bind& b, const PwDesc& d, const Places& places) {
  if (!b.steps().noted || cpu::pw_elements(d) > 64 || d.n_out == 0) return;
  const auto [desc, at] = kept(b.steps(), d, places);
  note_kept(b, desc, at);
}

bool emit_one(Bind& b, const PwDesc& d, const Places& places) {
  StepList& list = b.steps();
  const cpu::PwSmall* program = cpu::pw_small(d, places.data(), alloc_in, &list);
  if (!program) return false;
  const auto [desc, at] = kept(list, d, places);
  b.emit(run_small, SmallArgs{program, desc, at});
  if (d.n_out > 0) note_kept(b, desc, at);
  return true;
}

/// A program over one element: part of the step before if that is one, else a step.
bool emit_scalar(Bind& b, const PwDesc& d, const Places& places) {
  StepList& list = b.steps();
  if (!list.steps.empty() && list.steps.back().fn == step_fn(run_small)) {
    const auto& before = *static_cast<const SmallArgs*>(list.steps.back().args);
    if (before.desc) {
      PwDesc joined = *before.desc;
      Places all;
      for (int i = 0; i < joined.n_in + joined.n_out; ++i) all.push_back(before.places[i]);
      if (join(joined, all, d, places)) {
        const Step last = list.steps.back();
        list.steps.pop_back();
        if (emit_one(b, joined, all)) return true;
        list.steps.push_back(last);
      }
    }
  }
  return emit_one(b, d, places);
}

struct RunArgs {
  const cpu::PwPlan* plan;
  const Operand* operands;
  int n;
};
void run_plan(const RunArgs& a, char* const* base) {
  char* operands[PwDesc::kMaxIn + PwDesc::kMaxOut];
  for (int i = 0; i < a.n; ++i) operands[i] = a.operands[i].ptr<char>(base);
  cpu::pw_run(*a.plan, operands);
}

}  // namespace

void emit_pointwise(Bind& b, const PointwiseProgram& p, const cpu::PwPlan& plan, const SmallVec<Operand, 8>& operands) {
  Places places;
  for (const Operand& o : operands) places.push_back({o.index, o.offset});
  const PwDesc& d = p.desc();
  if (std::all_of(d.sizes, d.sizes + d.ndim, [](int64_t n) { return n == 1; }) && emit_scalar(b, d, places)) return;
  SingleArgs single{};
  int dst = 0, src[3];
  if (cpu::pw_single(plan, single.call, dst, src)) {
    single.dst = operands[static_cast<size_t>(dst)];
    for (int i = 0; i < 3; ++i) single.src[i] = operands[static_cast<size_t>(src[i])];
    b.emit(run_single, single);
    return note(b, d, places);
  }
  if (const cpu::PwSmall* small = cpu::pw_small(d, places.data(), alloc_in, &b.steps())) {
    b.emit(run_small, SmallArgs{small, nullptr, nullptr});
    return note(b, d, places);
  }
  auto* table = static_cast<Operand*>(b.steps().alloc(sizeof(Operand) * operands.size(), alignof(Operand)));
  std::copy(operands.begin(), operands.end(), table);
  b.emit(run_plan, RunArgs{&plan, table, static_cast<int>(operands.size())});
}

bool bind_pointwise(Bind& b) {
  const OpDef* def = find_op(b.node);
  if (!def || def->pointwise == Pw::kNone || !b.wants(0)) return false;
  const Dims& space = b.out_dims();
  PointwiseProgram p;
  p.space(space);
  SmallVec<int, 8> in;
  SmallVec<Operand, 8> operands;
  DType type = DType::kUndefined;
  for (size_t i = 0; i < b.num_in(); ++i) {
    if (!b.has(i)) {
      in.push_back(-1);
      continue;
    }
    const bool condition = def->pointwise == Pw::kWhere && i == 0;
    if (condition ? b.dtype(i) != DType::kBool : type != DType::kUndefined && b.dtype(i) != type) return false;
    if (!condition) type = b.dtype(i);
    in.push_back(p.input(b.dtype(i), b.dims(i), space));
    operands.push_back(b.in(i));
  }
  const int value = p.node(b.node, def->pointwise, in, type, b.out_dtype());
  p.output(b.out_dtype(), value);
  operands.push_back(b.out());
  const cpu::PwPlan* plan = compile(p, b.steps());
  if (!plan) return false;
  emit_pointwise(b, p, *plan, operands);
  return true;
}

}  // namespace ortmod
