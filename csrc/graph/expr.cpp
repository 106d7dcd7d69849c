// Appending nodes by arithmetic on values; what differs between opsets is decided here.
#include "graph/expr.h"

#include <algorithm>
#include <cmath>

namespace ortmod {
namespace {

Expr binary(std::string_view op, Expr a, Expr b) { return a.builder().op(op, {a, b}); }

std::vector<int64_t> range(int64_t n) {
  std::vector<int64_t> r(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) r[static_cast<size_t>(i)] = i;
  return r;
}

/// Opset from which `op` takes its axes as an input.
int axes_input_since(std::string_view op) {
  if (op == "ReduceSum" || op == "Squeeze" || op == "Unsqueeze") return 13;
  return 18;
}

}  // namespace

Expr Builder::scalar(double v, DType t) {
  char key[64];
  std::snprintf(key, sizeof key, "%d:%a", static_cast<int>(t), v);
  Value*& slot = constants_[key];
  if (!slot) slot = g_.add_weight("const", Literal::scalar(t, v));
  return wrap(slot);
}

Expr Builder::ints(const std::vector<int64_t>& v) {
  std::string key = "i";
  for (int64_t e : v) key += "," + std::to_string(e);
  Value*& slot = constants_[key];
  if (!slot) slot = g_.add_weight("const", Literal::ints(v));
  return wrap(slot);
}

Expr Builder::int_scalar(int64_t v) {
  Value*& slot = constants_["s" + std::to_string(v)];
  if (!slot) slot = g_.add_weight("const", Literal::copy(DType::kInt64, {}, &v, sizeof v));
  return wrap(slot);
}

Expr Builder::literal(LiteralPtr l, std::string_view name) {
  return wrap(g_.add_weight(name.empty() ? "const" : name, std::move(l)));
}

std::vector<Expr> Builder::multi(std::string_view domain, std::string_view name, std::vector<Expr> in, int n_outputs,
                                 Attrs attrs) {
  Values values;
  for (const Expr& e : in) values.push_back(e.value());
  while (!values.empty() && !values.back()) values.pop_back();
  Node* n = g_.add_node(intern(domain, name), std::move(values), n_outputs, std::move(attrs));
  n->origin = origin_;
  n->source = source_;
  infer_(*n);
  std::vector<Expr> out;
  for (Value* v : n->outputs) out.push_back(wrap(v));
  return out;
}

Expr Builder::op(std::string_view name, std::vector<Expr> in, Attrs attrs) {
  return multi("", name, std::move(in), 1, std::move(attrs))[0];
}

Expr operator+(Expr a, Expr b) { return binary("Add", a, b); }
Expr operator-(Expr a, Expr b) { return binary("Sub", a, b); }
Expr operator*(Expr a, Expr b) { return binary("Mul", a, b); }
Expr operator/(Expr a, Expr b) { return binary("Div", a, b); }
Expr operator-(Expr a) { return unary("Neg", a); }
Expr operator+(Expr a, double b) { return a + like(a, b); }
Expr operator+(double a, Expr b) { return like(b, a) + b; }
Expr operator-(Expr a, double b) { return a - like(a, b); }
Expr operator-(double a, Expr b) { return like(b, a) - b; }
Expr operator*(Expr a, double b) { return a * like(a, b); }
Expr operator*(double a, Expr b) { return like(b, a) * b; }
Expr operator/(Expr a, double b) { return a / like(a, b); }
Expr operator/(double a, Expr b) { return like(b, a) / b; }

Expr unary(std::string_view op, Expr x) { return x.builder().op(op, {x}); }
Expr sign(Expr x) {
  if (x.builder().opset() >= 9) return unary("Sign", x);
  return cast(greater(x, like(x, 0)), x.dtype()) - cast(less(x, like(x, 0)), x.dtype());
}
Expr pow(Expr x, Expr e) { return binary("Pow", x, e); }
Expr square(Expr x) { return x * x; }
Expr max(Expr a, Expr b) { return binary("Max", a, b); }
Expr min(Expr a, Expr b) { return binary("Min", a, b); }

// Equal takes no floats before opset 11.
Expr equal(Expr a, Expr b) {
  if (a.builder().opset() < 11 && is_float(a.dtype())) return logical_not(logical_or(less(a, b), greater(a, b)));
  return binary("Equal", a, b);
}
Expr less(Expr a, Expr b) { return binary("Less", a, b); }
Expr greater(Expr a, Expr b) { return binary("Greater", a, b); }
Expr less_equal(Expr a, Expr b) {
  return a.builder().opset() >= 12 ? binary("LessOrEqual", a, b) : logical_not(greater(a, b));
}
Expr greater_equal(Expr a, Expr b) {
  return a.builder().opset() >= 12 ? binary("GreaterOrEqual", a, b) : logical_not(less(a, b));
}
Expr logical_and(Expr a, Expr b) { return binary("And", a, b); }
Expr logical_or(Expr a, Expr b) { return binary("Or", a, b); }
Expr logical_not(Expr a) { return unary("Not", a); }

Expr where(Expr c, Expr a, Expr b) {
  if (c.builder().opset() >= 9) return c.builder().op("Where", {c, a, b});
  const Expr m = cast(c, a.dtype());
  return m * a + (1.0 - m) * b;
}

Expr cast(Expr x, DType t) {
  if (x.dtype() == t) return x;
  return x.builder().op("Cast", {x}, {{"to", static_cast<int64_t>(t)}});
}

Expr like(Expr x, double v) { return x.builder().scalar(v, x.dtype()); }

namespace {

/// Zeros of the shape of x, which must be a float tensor, whatever it holds: opset 7 has neither Expand nor
/// ConstantOfShape.
Expr zeros_by_comparison(Expr x) { return cast(less(x, x), x.dtype()); }

}  // namespace

Expr full_like(Expr x, double v) {
  Builder& b = x.builder();
  if (x.rank() == 0) return like(x, v);
  if (b.opset() < 8) return zeros_by_comparison(x) + v;
  if (x.type().is_static()) {
    std::vector<int64_t> d(x.type().dims.begin(), x.type().dims.end());
    if (b.opset() < 9) return expand(like(x, v), b.ints(d));
    return b.op("ConstantOfShape", {b.ints(d)}, {{"value", Literal::scalar(x.dtype(), v, Dims{1})}});
  }
  if (b.opset() < 9) return expand(like(x, v), shape(x));
  return b.op("ConstantOfShape", {shape(x)}, {{"value", Literal::scalar(x.dtype(), v, Dims{1})}});
}

Expr matmul(Expr a, Expr b) { return binary("MatMul", a, b); }

Expr transpose(Expr x, std::vector<int64_t> perm) {
  if (perm == range(static_cast<int64_t>(perm.size()))) return x;
  return x.builder().op("Transpose", {x}, {{"perm", std::move(perm)}});
}

Expr swap_last(Expr x) {
  std::vector<int64_t> perm = range(x.rank());
  std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
  return transpose(x, std::move(perm));
}

Expr shape(Expr x) {
  if (x.type().is_static()) return x.builder().ints(std::vector<int64_t>(x.type().dims.begin(), x.type().dims.end()));
  return unary("Shape", x);
}

Expr dim(Expr x, int64_t axis) {
  if (axis < 0) axis += x.rank();
  if (x.rank() >= 0 && is_known(x.type().dims[static_cast<size_t>(axis)]))
    return x.builder().ints({x.type().dims[static_cast<size_t>(axis)]});
  return gather(shape(x), x.builder().ints({axis}), 0);
}

Expr size(Expr x) {
  if (x.type().is_static()) return x.builder().int_scalar(numel(x.type().dims));
  return unary("Size", x);
}

Expr reshape(Expr x, Expr shape) { return x.builder().op("Reshape", {x, shape}); }
Expr reshape(Expr x, const std::vector<int64_t>& shape) { return reshape(x, x.builder().ints(shape)); }

Expr reshape_exactly(Expr x, Expr shape) {
  Builder& b = x.builder();
  bool plain = b.opset() < 14;
  if (const Value* v = shape.value(); v->is_constant()) {
    const std::vector<int64_t> d = v->literal->to_ints();
    plain = plain || std::find(d.begin(), d.end(), 0) == d.end();
  }
  return plain ? reshape(x, shape) : b.op("Reshape", {x, shape}, {{"allowzero", int64_t{1}}});
}

Expr reshape_like(Expr x, Expr y) {
  if (x.type().has_rank && y.type().has_rank && x.type().dims == y.type().dims &&
      std::none_of(x.type().dims.begin(), x.type().dims.end(), [](Dim d) { return d == kAnyDim; }))
    return x;
  return reshape_exactly(x, shape(y));
}

Expr flatten_all(Expr x) { return x.rank() == 1 ? x : reshape(x, std::vector<int64_t>{-1}); }

// Before opset 8 there is no Expand: a tiled zero is added.
Expr expand(Expr x, Expr shape) {
  Builder& b = x.builder();
  if (b.opset() >= 8) return b.op("Expand", {x, shape});
  const Type& t = shape.type();
  if (t.rank() != 1 || !is_known(t.dims[0]))
    fail(ErrorKind::kGradient, "build", "expanding to an unknown rank needs opset 8: got 7");
  const std::vector<int64_t> ones(static_cast<size_t>(t.dims[0]), 1);
  return x + b.op("Tile", {reshape(like(x, 0), ones), shape});
}

Expr expand_like(Expr x, Expr y) {
  if (x.type().has_rank && y.type().has_rank && x.type().dims == y.type().dims &&
      std::none_of(x.type().dims.begin(), x.type().dims.end(), [](Dim d) { return d == kAnyDim; }))
    return x;
  if (x.builder().opset() < 8) return x + cast(zeros_by_comparison(y), x.dtype());
  return expand(x, shape(y));
}

namespace {

Expr with_axes(std::string_view op, Expr x, const std::vector<int64_t>& axes, Attrs attrs) {
  Builder& b = x.builder();
  if (b.opset() >= axes_input_since(op)) return b.op(op, {x, axes.empty() ? Expr() : b.ints(axes)}, std::move(attrs));
  if (!axes.empty()) attrs.emplace_back("axes", axes);
  return b.op(op, {x}, std::move(attrs));
}

}  // namespace

Expr unsqueeze(Expr x, const std::vector<int64_t>& axes) {
  return axes.empty() ? x : with_axes("Unsqueeze", x, axes, {});
}
Expr squeeze(Expr x, const std::vector<int64_t>& axes) { return axes.empty() ? x : with_axes("Squeeze", x, axes, {}); }

Expr reduce(std::string_view op, Expr x, const std::vector<int64_t>& axes, bool keepdims) {
  return with_axes(op, x, axes, {{"keepdims", static_cast<int64_t>(keepdims)}});
}

Expr concat(const std::vector<Expr>& x, int64_t axis) {
  if (x.size() == 1) return x[0];
  return x[0].builder().op("Concat", x, {{"axis", axis}});
}

Expr slice(Expr x, const std::vector<int64_t>& starts, const std::vector<int64_t>& ends,
           const std::vector<int64_t>& axes, const std::vector<int64_t>& steps) {
  Builder& b = x.builder();
  if (b.opset() >= 10)
    return slice(x, b.ints(starts), b.ints(ends), b.ints(axes), steps.empty() ? Expr() : b.ints(steps));
  for (int64_t s : steps)
    if (s != 1)
      fail(ErrorKind::kGradient, "build", "Slice with steps needs opset 10: got " + std::to_string(b.opset()));
  return b.op("Slice", {x}, {{"starts", starts}, {"ends", ends}, {"axes", axes}});
}

Expr slice(Expr x, Expr starts, Expr ends, Expr axes, Expr steps) {
  return x.builder().op("Slice", {x, starts, ends, axes, steps});
}

Expr gather(Expr x, Expr indices, int64_t axis) { return x.builder().op("Gather", {x, indices}, {{"axis", axis}}); }

Expr sum_to(Expr dy, Expr x) {
  const Type &from = dy.type(), &to = x.type();
  if (!from.has_rank || !to.has_rank) return fused("SumTo", {dy, x});
  const size_t extra = from.dims.size() - std::min(from.dims.size(), to.dims.size());
  std::vector<int64_t> axes, added;
  for (size_t i = 0; i < extra; ++i) {
    axes.push_back(static_cast<int64_t>(i));
    added.push_back(static_cast<int64_t>(i));
  }
  bool keep = false;
  for (size_t i = extra; i < from.dims.size(); ++i) {
    const Dim d = from.dims[i], t = to.dims[i - extra];
    if (d == t && d != kAnyDim) continue;
    if (t == 1) {
      axes.push_back(static_cast<int64_t>(i));
      keep = true;
    } else if (!is_known(t) && d != 1) {
      return fused("SumTo", {dy, x});
    }
  }
  if (axes.empty()) return dy;
  if (!keep) return reduce_sum(dy, axes, false);
  const Expr r = reduce_sum(dy, axes, true);
  return added.empty() ? r : squeeze(r, added);
}

std::vector<Expr> fused_multi(std::string_view name, std::vector<Expr> in, int n_outputs, Attrs attrs) {
  for (const Expr& e : in)
    if (e) return e.builder().multi("ortmod", name, in, n_outputs, std::move(attrs));
  fail(ErrorKind::kGradient, "build", "a fused node needs an input");
}

Expr fused(std::string_view name, std::vector<Expr> in, Attrs attrs) {
  return fused_multi(name, std::move(in), 1, std::move(attrs))[0];
}

}  // namespace ortmod
