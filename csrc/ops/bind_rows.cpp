// Static CPU steps of softmax, normalisations and reductions.
#include "ops/bind_rows.h"

#include "kernels/cpu/chain.h"
#include "kernels/cpu/rows.h"
#include "ops/attrs.h"
#include "ops/pointwise_program.h"

namespace ortmod {
namespace {

/// Emits run<T> for float and double.
template <template <class> class Run, class Args>
bool by_type(Bind& b, DType t, const Args& args) {
  if (t == DType::kFloat) {
    b.emit(Run<float>::run, args);
  } else if (t == DType::kDouble) {
    b.emit(Run<double>::run, args);
  } else {
    return false;
  }
  return true;
}

int64_t product(const Dims& d, size_t begin, size_t end) {
  int64_t n = 1;
  for (size_t i = begin; i < end; ++i) n *= d[i];
  return n;
}

struct RowArgs {
  Operand a, b, y;
  int64_t rows, cols;
  bool log;
};
template <class T>
struct Softmax {
  static void run(const RowArgs& s, char* const* base) {
    cpu::softmax(s.a.ptr<T>(base), s.y.ptr<T>(base), s.rows, s.cols, s.log);
  }
};
template <class T>
struct SoftmaxGrad {
  static void run(const RowArgs& s, char* const* base) {
    cpu::softmax_grad(s.a.ptr<T>(base), s.b.ptr<T>(base), s.y.ptr<T>(base), s.rows, s.cols, s.log);
  }
};

/// Rows and columns of a softmax; false unless the axes are the last ones.
bool rows_of(const Bind& b, const Dims& d, RowArgs& s) {
  const Node& n = b.node;
  const bool standard = n.op->domain.empty(), joined = standard ? n.version < 13 : n.attr("joined", false);
  int64_t axis = n.attr("axis", standard && n.version < 13 ? 1 : -1);
  if (axis < 0) axis += static_cast<int64_t>(d.size());
  const auto at = static_cast<size_t>(axis);
  if (at >= d.size() || (!joined && product(d, at + 1, d.size()) != 1)) return false;
  s.rows = product(d, 0, at);
  s.cols = product(d, at, d.size());
  return true;
}

}  // namespace

template <bool kLog>
bool bind_softmax(Bind& b) {
  RowArgs s{};
  if (!rows_of(b, b.dims(), s)) return false;
  s.a = b.in();
  s.y = b.out();
  s.log = kLog;
  return by_type<Softmax>(b, b.dtype(), s);
}
template <bool kLog>
bool bind_softmax_grad(Bind& b) {
  RowArgs s{};
  if (!rows_of(b, b.dims(1), s)) return false;
  s.a = b.in(0);
  s.b = b.in(1);
  s.y = b.out();
  s.log = kLog;
  return by_type<SoftmaxGrad>(b, b.dtype(), s);
}
template bool bind_softmax<false>(Bind&);
template bool bind_softmax<true>(Bind&);
template bool bind_softmax_grad<false>(Bind&);
template bool bind_softmax_grad<true>(Bind&);

namespace {

struct NormArgs {
  Operand x, scale, bias, y, mean, inv_std;
  int64_t rows, cols;
  double eps;
  bool centre;
};
template <class T>
T* maybe(const Operand& o, char* const* base) {
  return o ? o.ptr<T>(base) : nullptr;
}
template <class T>
struct LayerNorm {
  static void run(const NormArgs& s, char* const* base) {
    cpu::layer_norm<T>(s.x.ptr<T>(base), maybe<T>(s.scale, base), maybe<T>(s.bias, base), s.y.ptr<T>(base),
                       maybe<T>(s.mean, base), maybe<T>(s.inv_std, base), s.rows, s.cols, s.eps, s.centre);
  }
};

bool bind_norm(Bind& b, bool centre) {
  NormArgs s{};
  const Dims& x = b.dims();
  int64_t axis = b.node.attr("axis", -1);
  if (axis < 0) axis += static_cast<int64_t>(x.size());
  const auto at = static_cast<size_t>(axis);
  s.rows = product(x, 0, at);
  s.cols = product(x, at, x.size());
  s.eps = b.node.attr("epsilon", 1e-5);
  s.centre = centre;
  for (size_t i = 1; i < b.num_in(); ++i) {
    if (!b.has(i)) continue;
    if (b.dtype(i) != b.dtype() || b.dims(i).size() > x.size() - at || b.numel(i) != s.cols) return false;
    (i == 1 ? s.scale : s.bias) = b.in(i);
  }
  for (size_t o = 1; o < 3; ++o) {
    if (!b.wants(o)) continue;
    if (b.out_dtype(o) != b.dtype()) return false;
    (o == 1 ? s.mean : s.inv_std) = b.out(o);
  }
  s.x = b.in();
  s.y = b.out();
  return b.wants(0) && by_type<LayerNorm>(b, b.dtype(), s);
}

struct NormGradArgs {
  Operand dy, x, scale, mean, inv_std, dx, dscale, dbias, scratch;
  int64_t rows, cols;
};
template <class T>
struct LayerNormGrad {
  static void run(const NormGradArgs& s, char* const* base) {
    cpu::layer_norm_grad<T>(s.dy.ptr<T>(base), s.x.ptr<T>(base), s.scale.ptr<T>(base), s.mean.ptr<T>(base),
                            s.inv_std.ptr<T>(base), maybe<T>(s.dx, base), maybe<T>(s.dscale, base),
                            maybe<T>(s.dbias, base), s.rows, s.cols, s.scratch.ptr<char>(base));
  }
};

}  // namespace

bool bind_layer_norm(Bind& b) { return bind_norm(b, true); }
bool bind_rms_norm(Bind& b) { return bind_norm(b, false); }

bool bind_layer_norm_grad(Bind& b) {
  const Dims& x = b.dims(1);
  const auto axes = static_cast<size_t>(b.node.attr("axes", 1));
  if (axes > x.size() || (b.dtype(1) != DType::kFloat && b.dtype(1) != DType::kDouble)) return false;
  for (size_t i = 0; i < 5; ++i)
    if (b.dtype(i) != b.dtype(1)) return false;
  NormGradArgs s{};
  s.rows = product(x, 0, x.size() - axes);
  s.cols = product(x, x.size() - axes, x.size());
  if (b.numel(2) != s.cols) return false;
  Operand* in[] = {&s.dy, &s.x, &s.scale, &s.mean, &s.inv_std};
  for (size_t i = 0; i < 5; ++i) *in[i] = b.in(i);
  Operand* out[] = {&s.dx, &s.dscale, &s.dbias};
  for (size_t o = 0; o < 3; ++o)
    if (b.wants(o)) *out[o] = b.out(o);
  const int64_t bytes = b.dtype(1) == DType::kFloat ? cpu::layer_norm_grad_scratch<float>(s.rows, s.cols)
                                                    : cpu::layer_norm_grad_scratch<double>(s.rows, s.cols);
  s.scratch = b.scratch(static_cast<size_t>(bytes));
  return by_type<LayerNormGrad>(b, b.dtype(1), s);
}

namespace {

struct ReduceArgs {
  Operand x, y;
  int64_t outer, n, inner;
  cpu::Reduce op;
};
template <class T>
struct ReduceRun {
  static void run(const ReduceArgs& s, char* const* base) {
    cpu::reduce(s.op, s.x.ptr<T>(base), s.y.ptr<T>(base), s.outer, s.n, s.inner);
  }
};

}  // namespace

namespace {

/// A reduction over axes of size 1.
bool bind_trivial_reduction(Bind& b, cpu::Reduce op) {
  using cpu::Reduce;
  const DType t = b.dtype();
  const Dims space{b.numel()};
  PointwiseProgram p;
  p.space(space);
  const int x = p.input(t, space, space);
  SmallVec<int, 8> in;
  in.push_back(x);
  if (op == Reduce::kSumSquare) in.push_back(x);
  const Pw how = op == Reduce::kSumSquare                 ? Pw::kMul
                 : op == Reduce::kL1 || op == Reduce::kL2 ? Pw::kAbs
                                                          : Pw::kIdentity;
  p.output(t, p.node(b.node, how, in, t, t));
  const cpu::PwPlan* plan = compile(p, b.steps());
  if (!plan) return false;
  SmallVec<Operand, 8> operands;
  operands.push_back(b.in());
  operands.push_back(b.out());
  emit_pointwise(b, p, *plan, operands);
  return true;
}

}  // namespace

bool bind_reduction(Bind& b, cpu::Reduce op) {
  using cpu::Reduce;
  const Dims& x = b.dims();
  const int64_t size = b.numel();
  if (size == 0 || (b.dtype() != DType::kFloat && b.dtype() != DType::kDouble)) return false;
  uint64_t mask = 0;
  const auto mark = [&](int64_t a) { mask |= uint64_t{1} << (a < 0 ? a + static_cast<int64_t>(x.size()) : a); };
  bool named = false;
  if (b.node.has("axes")) {
    for (int64_t a : int_list(b.node, "axes")) {
      mark(a);
      named = true;
    }
  } else if (b.has(1)) {
    const HostInts* axes = b.ints(1);
    if (!axes) return false;
    for (Dim a : axes->v) {
      mark(a);
      named = true;
    }
  }
  if (!named && !b.node.attr("noop_with_empty_axes", false)) mask = ~uint64_t{0};
  // Neighbours of one kind are merged: kept, reduced, kept, reduced, kept.
  SmallVec<int64_t, 6> groups;
  bool reduced = false;
  groups.push_back(1);
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == 1) continue;
    const bool r = mask >> i & 1;
    if (r != reduced) {
      groups.push_back(1);
      reduced = r;
    }
    groups.back() *= x[i];
  }
  if (groups.size() == 1) return bind_trivial_reduction(b, op);
  while (groups.size() < 3) groups.push_back(1);
  if (groups.size() > 5) return false;
  if (groups.size() == 4) groups.push_back(1);
  ReduceArgs s{b.in(), b.out(), groups[0], groups[1], groups[2], op};
  if (groups.size() == 5) {  // the last group first, into scratch
    if (op == Reduce::kL2) return false;
    ReduceArgs first{b.in(),
                     b.scratch(static_cast<size_t>(size / groups[3]) * dtype_size(b.dtype())),
                     groups[0] * groups[1] * groups[2],
                     groups[3],
                     groups[4],
                     op};
    by_type<ReduceRun>(b, b.dtype(), first);
    s.x = first.y;
    s.inner = groups[2] * groups[4];
    if (op == Reduce::kSumSquare || op == Reduce::kL1) s.op = Reduce::kSum;
  }
  if (!by_type<ReduceRun>(b, b.dtype(), s)) return false;
  if (groups.size() == 3 && s.outer == 1 && s.n * s.inner <= 64) {
    cpu::ChainOp o;
    o.kind = cpu::ChainOp::Kind::kReduce;
    o.type = b.dtype() == DType::kFloat ? cpu::Elem::kF32 : cpu::Elem::kF64;
    o.reduce = op;
    o.n = s.n;
    o.m = s.inner;
    o.a = {s.x.index, s.x.offset};
    o.c = {s.y.index, s.y.offset};
    b.steps().note(o);
  }
  return true;
}

}  // namespace ortmod
