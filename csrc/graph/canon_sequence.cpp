// Canonical form: sequences that only carry tensors from one node to another.
#include <algorithm>
#include <climits>

#include "graph/rewrite.h"

namespace ortmod {
namespace {

constexpr int64_t kMostPieces = 4096;

std::optional<int64_t> constant_int(const Value* v) {
  if (!v || !v->is_constant() || v->literal->numel() != 1 || !is_integer(v->literal->dtype())) return std::nullopt;
  return v->literal->to_ints()[0];
}

/// The position in a list of n that an index (negative from the end) names; `n` itself when `end` allows it.
size_t position(int64_t i, size_t n, bool end, const Node& node) {
  const int64_t size = static_cast<int64_t>(n), p = i < 0 ? i + size : i;
  if (p < 0 || p > size || (p == size && !end))
    fail(ErrorKind::kModel, "import",
         "index out of range: got " + std::to_string(i) + " for a sequence of " + std::to_string(n), node);
  return static_cast<size_t>(p);
}

/// Sizes of the pieces of a SplitToSequence, when they can be known.
std::optional<std::vector<int64_t>> piece_sizes(const Node& n) {
  const Value* split = n.in(1);
  if (split && !split->is_constant()) return std::nullopt;
  if (split && split->literal->dims().size() == 1) {
    const std::vector<int64_t> sizes = split->literal->to_ints();
    for (const int64_t s : sizes)
      if (s < 0) fail(ErrorKind::kModel, "import", "a piece has a negative size: got " + std::to_string(s), n, 1);
    return sizes;
  }
  const Type& t = n.in(0)->type;
  int64_t axis = n.attr("axis", 0);
  if (!t.has_rank) return std::nullopt;
  if (axis < 0) axis += t.rank();
  if (axis < 0 || axis >= t.rank() || !is_known(t.dims[static_cast<size_t>(axis)])) return std::nullopt;
  const int64_t total = t.dims[static_cast<size_t>(axis)], step = split ? constant_int(split).value_or(0) : 1;
  if (step <= 0)
    fail(ErrorKind::kModel, "import", "the size of a piece must be positive: got " + std::to_string(step), n, 1);
  if (total / step > kMostPieces) return std::nullopt;
  std::vector<int64_t> sizes;
  for (int64_t at = 0; at < total; at += step) sizes.push_back(std::min(step, total - at));
  return sizes;
}

bool drops_axis(const Node& n) { return !n.in(1) && !n.attr("keepdims", true); }

Value* squeeze(Rewrite& r, Value* v, int64_t axis) {
  return r.opset() >= 13 ? r.add("Squeeze", {v, r.ints({axis})})
                         : r.add("Squeeze", {v}, {{"axes", std::vector<int64_t>{axis}}});
}

Value* unsqueeze(Rewrite& r, Value* v, int64_t axis) {
  return r.opset() >= 13 ? r.add("Unsqueeze", {v, r.ints({axis})})
                         : r.add("Unsqueeze", {v}, {{"axes", std::vector<int64_t>{axis}}});
}

}  // namespace

bool Sequences::visit(Rewrite& r) { return read(r) || make(r); }

bool Sequences::make(Rewrite& r) {
  const Node& n = r.node();
  if (n.is("SequenceConstruct")) {
    known_[r.out()] = {true, n.inputs.vec(), nullptr};
  } else if (n.is("SequenceEmpty")) {
    known_[r.out()] = {true, {}, nullptr};
  } else if (n.is("SplitToSequence") && r.in()) {
    known_[r.out()] = {false, {}, const_cast<Node*>(&n)};
  } else if (n.is("SequenceInsert") || n.is("SequenceErase")) {
    const auto it = known_.find(r.in());
    const bool insert = n.is("SequenceInsert");
    const Value* index = r.in(insert ? 2 : 1);
    const auto i = constant_int(index);
    if (it == known_.end() || (index && !i)) return false;
    if (!it->second.listed) split_elements(r, it->second);
    if (!it->second.listed) return false;
    std::vector<Value*> list = it->second.elements;
    if (insert) {
      const size_t at = index ? position(*i, list.size(), true, n) : list.size();
      list.insert(list.begin() + static_cast<std::ptrdiff_t>(at), r.in(1));
    } else {
      const size_t at = position(index ? *i : -1, list.size(), false, n);
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
    }
    known_[r.out()] = {true, std::move(list), nullptr};
  }
  return false;
}

/// Lists the pieces of a SplitToSequence as outputs of one Split, if their sizes are known.
void Sequences::split_elements(Rewrite& r, Known& k) {
  const Node& n = *k.split;
  const auto sizes = piece_sizes(n);
  if (!sizes || sizes->empty()) return;
  const int64_t axis = n.attr("axis", 0);
  Attrs attrs{{"axis", axis}};
  std::vector<Value*> in{n.in(0)};
  if (r.opset() >= 13)
    in.push_back(r.ints(*sizes));
  else
    attrs.emplace_back("split", *sizes);
  Node* split =
      r.graph().add_node(intern("Split"), std::move(in), static_cast<int>(sizes->size()), std::move(attrs), n.name);
  split->metadata = n.metadata;
  k.listed = true;
  k.elements = split->outputs.vec();
  if (drops_axis(n))
    for (Value*& v : k.elements) v = squeeze(r, v, axis);
}

bool Sequences::read(Rewrite& r) {
  const Node& n = r.node();
  const bool at = n.is("SequenceAt"), concat = n.is("ConcatFromSequence"), length = n.is("SequenceLength");
  if (!at && !concat && !length) return false;
  const auto it = known_.find(r.in());
  if (it == known_.end()) return false;
  Known& k = it->second;
  const auto constant = at ? constant_int(r.in(1)) : std::optional<int64_t>(0);
  if (!constant) return false;
  const int64_t index = *constant;
  if (!k.listed) split_elements(r, k);
  if (k.listed) {
    if (at) {
      Value* element = k.elements[position(index, k.elements.size(), false, n)];
      r.begin();
      r.alias(element);
    } else if (length) {
      const int64_t size = static_cast<int64_t>(k.elements.size());
      r.begin();
      r.alias(
          r.graph().add_weight(r.out()->name + ".value", Literal::scalar(DType::kInt64, static_cast<double>(size))));
    } else {
      if (k.elements.empty()) return false;
      const int64_t axis = n.attr("axis", 0);
      std::vector<Value*> in = k.elements;
      r.begin();
      if (n.attr("new_axis", false))
        for (Value*& v : in) v = unsqueeze(r, v, axis);
      r.finish("Concat", std::move(in), {{"axis", axis}});
    }
    return true;
  }
  // Pieces of equal size along an axis of unknown length: a Slice from the front.
  const Node& split = *k.split;
  const auto step = split.in(1) ? constant_int(split.in(1)) : std::optional<int64_t>(1);
  if (!at || !step || *step <= 0 || (split.in(1) && !split.in(1)->literal->dims().empty())) return false;
  if (index < 0 && *step != 1) return false;
  const int64_t axis = split.attr("axis", 0), begin = index * *step, end = index == -1 ? INT64_MAX : begin + *step;
  Value* x = split.in(0);
  r.begin();
  if (r.opset() < 10) {
    r.finish("Slice", {x},
             {{"axes", std::vector<int64_t>{axis}},
              {"starts", std::vector<int64_t>{begin}},
              {"ends", std::vector<int64_t>{end}}});
    return true;
  }
  std::vector<Value*> in{x, r.ints({begin}), r.ints({end}), r.ints({axis})};
  if (!drops_axis(split)) {
    r.finish("Slice", std::move(in));
    return true;
  }
  Value* piece = r.add("Slice", std::move(in));
  if (r.opset() >= 13)
    r.finish("Squeeze", {piece, r.ints({axis})});
  else
    r.finish("Squeeze", {piece}, {{"axes", std::vector<int64_t>{axis}}});
  return true;
}

}  // namespace ortmod
