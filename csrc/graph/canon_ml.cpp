// Canonical form: the linear operators of ai.onnx.ml in standard operators, their weights as initializers.
#include "graph/rewrite.h"

namespace ortmod {
namespace {

LiteralPtr floats(const std::vector<double>& v, Dims dims) {
  const std::vector<float> f(v.begin(), v.end());
  return Literal::copy(DType::kFloat, std::move(dims), f.data(), f.size() * sizeof(float));
}

/// The input as a float32 tensor.
Value* float_input(Rewrite& r) {
  return r.in()->type.dtype == DType::kFloat ? r.in()
                                             : r.add("Cast", {r.in()}, {{"to", static_cast<int64_t>(DType::kFloat)}});
}

/// x * coefficients^T + intercepts with coefficients [rows, features]; empty attributes are left out.
Value* linear(Rewrite& r, Value* x, const std::vector<double>& coefficients, const std::vector<double>& intercepts,
              int64_t rows) {
  const int64_t n = static_cast<int64_t>(coefficients.size());
  Value* w = r.weight("coefficients", floats(coefficients, Dims{rows, n / rows}));
  if (r.in()->type.rank() == 1) {
    Value* axes = r.opset() >= 13 ? r.ints({0}) : nullptr;
    x = axes ? r.add("Unsqueeze", {x, axes}) : r.add("Unsqueeze", {x}, {{"axes", std::vector<int64_t>{0}}});
  }
  if (intercepts.empty()) return r.add("MatMul", {x, r.add("Transpose", {w}, {{"perm", std::vector<int64_t>{1, 0}}})});
  Value* b = r.weight("intercepts", floats(intercepts, Dims{static_cast<Dim>(intercepts.size())}));
  return r.add("Gemm", {x, w, b}, {{"alpha", 1.0}, {"beta", 1.0}, {"transA", int64_t{0}}, {"transB", int64_t{1}}});
}

void check_sizes(const Node& n, size_t coefficients, size_t intercepts, int64_t rows) {
  if (rows <= 0 || coefficients == 0 || coefficients % static_cast<size_t>(rows) != 0)
    fail(ErrorKind::kModel, "import",
         "the number of coefficients does not fit: got " + std::to_string(coefficients) + " for " +
             std::to_string(rows) + " rows",
         n);
  if (intercepts && intercepts != static_cast<size_t>(rows))
    fail(ErrorKind::kModel, "import",
         "the number of intercepts does not fit: got " + std::to_string(intercepts) + " for " + std::to_string(rows) +
             " rows",
         n);
}

bool regressor(Rewrite& r) {
  const Node& n = r.node();
  const std::string post = n.attr("post_transform", "NONE");
  if (post != "NONE" && post != "LOGISTIC" && post != "SOFTMAX") return false;
  const int64_t targets = n.attr("targets", 1);
  const auto coefficients = n.floats("coefficients"), intercepts = n.floats("intercepts");
  check_sizes(n, coefficients.size(), intercepts.size(), targets);
  r.begin();
  Value* y = linear(r, float_input(r), coefficients, intercepts, targets);
  if (post == "LOGISTIC")
    r.finish("Sigmoid", {y});
  else if (post == "SOFTMAX")
    r.finish("Softmax", {y}, {{"axis", int64_t{1}}});
  else
    r.finish("Identity", {y});
  return true;
}

bool classifier(Rewrite& r) {
  const Node& n = r.node();
  const std::string post = n.attr("post_transform", "NONE");
  const auto coefficients = n.floats("coefficients"), intercepts = n.floats("intercepts");
  const auto labels = n.ints("classlabels_ints");
  std::vector<std::string> words;
  if (const Attr* a = n.find("classlabels_strings"))
    if (const auto* s = std::get_if<std::vector<std::string>>(a)) words = *s;
  const int64_t classes = static_cast<int64_t>(words.empty() ? labels.size() : words.size());
  const int64_t rows = intercepts.empty() ? classes : static_cast<int64_t>(intercepts.size());
  const bool one_row = rows == 1 && classes == 2;
  if ((post != "NONE" && post != "LOGISTIC" && post != "SOFTMAX") || (rows != classes && !one_row)) return false;
  check_sizes(n, coefficients.size(), intercepts.size(), rows);
  r.begin();
  Value* scores = linear(r, float_input(r), coefficients, intercepts, rows);
  if (one_row) {  // the score of the second class; that of the first is 1 - s, or -s before the logistic function
    Value* first = post == "LOGISTIC"
                       ? r.add("Neg", {scores})
                       : r.add("Sub", {r.graph().add_weight("", Literal::scalar(DType::kFloat, 1)), scores});
    if (r.wants(0)) {  // the second class wins when its score is positive
      Value* second = r.add("Neg", {scores});
      Value* both = r.add("Concat", {second, scores}, {{"axis", int64_t{1}}});
      Value* index = r.add("ArgMax", {both}, {{"axis", int64_t{1}}, {"keepdims", int64_t{0}}});
      Value* table =
          r.weight("classes", words.empty() ? Literal::ints(labels) : Literal::strings(Dims{classes}, words));
      r.finish("Gather", {table, index}, {{"axis", int64_t{0}}}, 0);
    }
    scores = r.add("Concat", {first, scores}, {{"axis", int64_t{1}}});
  } else if (r.wants(0)) {
    Value* index = r.add("ArgMax", {scores}, {{"axis", int64_t{1}}, {"keepdims", int64_t{0}}});
    Value* table = r.weight("classes", words.empty() ? Literal::ints(labels) : Literal::strings(Dims{classes}, words));
    r.finish("Gather", {table, index}, {{"axis", int64_t{0}}}, 0);
  }
  if (!r.out(1)) return true;
  if (post == "LOGISTIC")
    r.finish("Sigmoid", {scores}, {}, 1);
  else if (post == "SOFTMAX" && !one_row)
    r.finish("Softmax", {scores}, {{"axis", int64_t{1}}}, 1);
  else
    r.finish("Identity", {scores}, {}, 1);
  return true;
}

bool scaler(Rewrite& r) {
  const auto offset = r.node().floats("offset"), scale = r.node().floats("scale");
  r.begin();
  Value* x = float_input(r);
  if (!offset.empty()) x = r.add("Sub", {x, r.weight("offset", floats(offset, Dims{static_cast<Dim>(offset.size())}))});
  if (scale.empty())
    r.finish("Identity", {x});
  else
    r.finish("Mul", {x, r.weight("scale", floats(scale, Dims{static_cast<Dim>(scale.size())}))});
  return true;
}

bool normalizer(Rewrite& r) {
  const std::string norm = r.node().attr("norm", "MAX");
  const char* op = norm == "MAX" ? "ReduceMax" : norm == "L1" ? "ReduceL1" : norm == "L2" ? "ReduceL2" : nullptr;
  if (!op) fail(ErrorKind::kModel, "import", "unknown norm: got \"" + norm + "\", expected MAX, L1 or L2", r.node());
  r.begin();
  Value* x = float_input(r);
  Value* size = r.opset() >= 18 ? r.add(op, {x, r.ints({-1})}, {{"keepdims", int64_t{1}}})
                                : r.add(op, {x}, {{"axes", std::vector<int64_t>{-1}}, {"keepdims", int64_t{1}}});
  // A row of zeros stays: its size 0 becomes 1.
  Value* zero = r.add("Not", {r.add("Cast", {size}, {{"to", static_cast<int64_t>(DType::kBool)}})});
  Value* divisor = r.add("Add", {size, r.add("Cast", {zero}, {{"to", static_cast<int64_t>(DType::kFloat)}})});
  r.finish("Div", {x, divisor});
  return true;
}

}  // namespace

bool lower_linear_ml(Rewrite& r) {
  const Node& n = r.node();
  if (n.op->domain != "ai.onnx.ml" || !r.in()) return false;
  if (n.op->name == "LinearRegressor") return regressor(r);
  if (n.op->name == "LinearClassifier") return classifier(r);
  if (n.op->name == "Scaler") return scaler(r);
  if (n.op->name == "Normalizer") return normalizer(r);
  return false;
}

}  // namespace ortmod
