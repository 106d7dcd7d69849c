// What a gradient rule (or an operator's body) may see of its node.
#pragma once
#include <vector>

#include "graph/expr.h"

namespace ortmod {

using Grads = std::vector<Expr>;

/// A rule returns one Expr per input (empty = no gradient), of the shape that the forward computation broadcast to:
/// summing back to the input's shape, accumulation, naming and dtypes are the builder's work.
class Grad {
 public:
  Grad(Node& node, Builder& b, std::vector<Expr> dy, std::vector<bool> needs)
      : node_(node), b_(b), dy_(std::move(dy)), needs_(std::move(needs)) {}

  const Node& node() const { return node_; }
  Builder& builder() const { return b_; }
  int version() const { return node_.version; }
  size_t num_inputs() const { return node_.inputs.size(); }
  size_t num_outputs() const { return node_.outputs.size(); }
  bool has_x(size_t i) const { return node_.in(i) != nullptr; }
  Expr x(size_t i = 0) const { return b_.wrap(node_.in(i)); }
  /// Output i; declared on the forward node when it was not wanted so far.
  Expr y(size_t i = 0) const;
  bool has_y(size_t i) const { return node_.out(i) != nullptr; }
  /// The incoming gradient of output i; empty when nothing depends on it. dy() of a single-output operator is always
  /// there.
  Expr dy(size_t i = 0) const { return i < dy_.size() ? dy_[i] : Expr(); }
  bool needs(size_t i) const { return i < needs_.size() && needs_[i]; }
  const Type& type(size_t i = 0) const { return node_.in(i)->type; }
  /// Known rank of input i, else a GradientError that names the node.
  int rank(size_t i = 0) const;
  /// Known dims or GradientError.
  const Dims& dims(size_t i = 0) const;
  template <class T>
  auto attr(std::string_view key, T fallback) const {
    return node_.attr(key, fallback);
  }
  std::vector<int64_t> ints(std::string_view key, std::vector<int64_t> fallback = {}) const {
    return node_.ints(key, std::move(fallback));
  }
  /// Elements of a constant integer input, or nothing when it is computed at run time.
  std::optional<std::vector<int64_t>> const_ints(size_t i) const;
  /// Axes from attribute `axes` or input `i`, whichever this version has; nothing when computed at run time; normalised
  /// to >= 0.
  std::optional<std::vector<int64_t>> axes(size_t i = 1) const;
  [[noreturn]] void fail(const std::string& what, const std::string& advice = "") const;

 private:
  Node& node_;
  Builder& b_;
  std::vector<Expr> dy_;
  std::vector<bool> needs_;
};

}  // namespace ortmod
