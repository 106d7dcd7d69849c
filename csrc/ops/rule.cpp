// What a gradient rule may see of its node.
#include "ops/rule.h"

#include "ops/op.h"

namespace ortmod {

Expr Grad::y(size_t i) const {
  while (node_.outputs.size() <= i) node_.outputs.push_back(nullptr);
  if (!node_.outputs[i]) {
    Value* v = node_.graph->add_value("");
    v->producer = &node_;
    v->output_index = static_cast<int>(i);
    node_.outputs[i] = v;
    infer_node(node_);
  }
  return b_.wrap(node_.outputs[i]);
}

int Grad::rank(size_t i) const {
  const int r = type(i).rank();
  if (r < 0)
    ortmod::fail(ErrorKind::kGradient, "differentiate", "the rank of an operand is not known", node_,
                 static_cast<int>(i), "declare the ranks of the model's inputs");
  return r;
}

const Dims& Grad::dims(size_t i) const {
  rank(i);
  return type(i).dims;
}

std::optional<std::vector<int64_t>> Grad::const_ints(size_t i) const {
  if (const Literal* l = constant_input(node_, i)) return l->to_ints();
  const Value* v = node_.in(i);
  if (!v || !v->host) return std::nullopt;
  std::vector<int64_t> r;
  for (Dim d : v->host->v) {
    if (is_symbolic(d)) return std::nullopt;
    r.push_back(d);
  }
  return r;
}

std::optional<std::vector<int64_t>> Grad::axes(size_t i) const {
  std::vector<int64_t> r;
  if (node_.has("axes")) {
    r = node_.ints("axes");
  } else if (has_x(i)) {
    const auto v = const_ints(i);
    if (!v) return std::nullopt;
    r = *v;
  }
  for (int64_t& a : r)
    if (a < 0) a += rank(0);
  return r;
}

void Grad::fail(const std::string& what, const std::string& advice) const {
  ortmod::fail(ErrorKind::kGradient, "differentiate", what, node_, -1, advice);
}

}  // namespace ortmod
