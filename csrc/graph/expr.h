// Values under construction: `a * b` appends Mul; helpers hide what differs between opsets. Nothing is simplified here.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

class Builder;

/// A value of the graph under construction; an empty Expr means "no value" (absent input, no gradient).
class Expr {
 public:
  Expr() = default;
  Expr(Builder* b, Value* v) : b_(b), v_(v) {}
  explicit operator bool() const { return v_ != nullptr; }
  Value* value() const { return v_; }
  Builder& builder() const { return *b_; }
  const Type& type() const { return v_->type; }
  DType dtype() const { return v_->type.dtype; }
  int rank() const { return v_->type.rank(); }

 private:
  Builder* b_ = nullptr;
  Value* v_ = nullptr;
};

/// Called on each new node to set the types of its outputs (the operator registry's inference).
using InferNodeFn = void (*)(Node&);

/// Appends nodes to a graph with the opset of that graph.
class Builder {
 public:
  Builder(Graph& g, InferNodeFn infer, Origin origin = Origin::kForward) : g_(g), infer_(infer), origin_(origin) {}
  Graph& graph() { return g_; }
  int opset() const { return g_.opset(); }
  /// New nodes are attributed to this forward node.
  void set_source(std::string_view s) { source_ = s; }
  void set_origin(Origin o) { origin_ = o; }

  Expr wrap(Value* v) { return v ? Expr(this, v) : Expr(); }
  /// Scalar constants (rank 0) of the given type are shared.
  Expr scalar(double v, DType t);
  Expr ints(const std::vector<int64_t>& v);  // int64, 1-D
  Expr int_scalar(int64_t v);                // int64, rank 0
  Expr literal(LiteralPtr l, std::string_view name = "");

  Expr op(std::string_view name, std::vector<Expr> in, Attrs attrs = {});
  std::vector<Expr> multi(std::string_view domain, std::string_view name, std::vector<Expr> in, int n_outputs,
                          Attrs attrs = {});

 private:
  Graph& g_;
  InferNodeFn infer_;
  Origin origin_;
  std::string source_;
  std::unordered_map<std::string, Value*> constants_;
};

// Arithmetic broadcasts as ONNX does. A double operand becomes a scalar of the other side's type.
Expr operator+(Expr a, Expr b);
Expr operator-(Expr a, Expr b);
Expr operator*(Expr a, Expr b);
Expr operator/(Expr a, Expr b);
Expr operator-(Expr a);
Expr operator+(Expr a, double b);
Expr operator+(double a, Expr b);
Expr operator-(Expr a, double b);
Expr operator-(double a, Expr b);
Expr operator*(Expr a, double b);
Expr operator*(double a, Expr b);
Expr operator/(Expr a, double b);
Expr operator/(double a, Expr b);

Expr unary(std::string_view op, Expr x);  // any one-input operator without attributes
inline Expr exp(Expr x) { return unary("Exp", x); }
inline Expr log(Expr x) { return unary("Log", x); }
inline Expr sqrt(Expr x) { return unary("Sqrt", x); }
inline Expr abs(Expr x) { return unary("Abs", x); }
Expr sign(Expr x);  // by comparisons before opset 9
inline Expr sin(Expr x) { return unary("Sin", x); }
inline Expr cos(Expr x) { return unary("Cos", x); }
inline Expr tanh(Expr x) { return unary("Tanh", x); }
inline Expr sigmoid(Expr x) { return unary("Sigmoid", x); }
inline Expr reciprocal(Expr x) { return unary("Reciprocal", x); }
Expr pow(Expr x, Expr e);
Expr square(Expr x);  // x * x
Expr max(Expr a, Expr b);
Expr min(Expr a, Expr b);
Expr equal(Expr a, Expr b);
Expr less(Expr a, Expr b);
Expr greater(Expr a, Expr b);
Expr less_equal(Expr a, Expr b);     // Not(Greater) before opset 12
Expr greater_equal(Expr a, Expr b);  // Not(Less) before opset 12
Expr logical_and(Expr a, Expr b);
Expr logical_or(Expr a, Expr b);
Expr logical_not(Expr a);
/// c ? a : b; a product with the condition before opset 9.
Expr where(Expr c, Expr a, Expr b);
Expr cast(Expr x, DType t);  // x itself when it has that type
/// A scalar of x's type.
Expr like(Expr x, double v);
/// A tensor of x's type and run-time shape, filled with v.
Expr full_like(Expr x, double v);
inline Expr zeros_like(Expr x) { return full_like(x, 0); }

Expr matmul(Expr a, Expr b);
Expr transpose(Expr x, std::vector<int64_t> perm);
/// Swaps the last two axes (rank must be known, >= 2).
Expr swap_last(Expr x);

Expr shape(Expr x);              // int64, 1-D
Expr dim(Expr x, int64_t axis);  // int64, 1-D of one element
Expr size(Expr x);               // int64 scalar
Expr reshape(Expr x, Expr shape);
Expr reshape(Expr x, const std::vector<int64_t>& shape);
/// The exact target shape: a zero in it is a size, not a copied dimension.
Expr reshape_exactly(Expr x, Expr shape);
Expr reshape_like(Expr x, Expr y);  // x itself when the shapes are known to be equal
Expr flatten_all(Expr x);           // 1-D
Expr expand(Expr x, Expr shape);
Expr expand_like(Expr x, Expr y);
Expr unsqueeze(Expr x, const std::vector<int64_t>& axes);
Expr squeeze(Expr x, const std::vector<int64_t>& axes);
/// Reductions over `axes` (empty: all); axes are an attribute or an input as the opset wants.
Expr reduce(std::string_view op, Expr x, const std::vector<int64_t>& axes, bool keepdims);
inline Expr reduce_sum(Expr x, const std::vector<int64_t>& axes, bool keepdims) {
  return reduce("ReduceSum", x, axes, keepdims);
}
inline Expr reduce_mean(Expr x, const std::vector<int64_t>& axes, bool keepdims) {
  return reduce("ReduceMean", x, axes, keepdims);
}
inline Expr reduce_max(Expr x, const std::vector<int64_t>& axes, bool keepdims) {
  return reduce("ReduceMax", x, axes, keepdims);
}
Expr concat(const std::vector<Expr>& x, int64_t axis);
Expr slice(Expr x, const std::vector<int64_t>& starts, const std::vector<int64_t>& ends,
           const std::vector<int64_t>& axes, const std::vector<int64_t>& steps = {});
Expr slice(Expr x, Expr starts, Expr ends, Expr axes, Expr steps = {});  // opset >= 10
Expr gather(Expr x, Expr indices, int64_t axis);
/// Sums dy over the axes that broadcasting added or stretched, so that the result has the shape of x. x itself gives
/// only its shape.
Expr sum_to(Expr dy, Expr x);
/// A node of domain ortmod, which carries a body of standard ONNX operators (OpDef::expand).
Expr fused(std::string_view name, std::vector<Expr> in, Attrs attrs = {});
std::vector<Expr> fused_multi(std::string_view name, std::vector<Expr> in, int n_outputs, Attrs attrs = {});

}  // namespace ortmod
