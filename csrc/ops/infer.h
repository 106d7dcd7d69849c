// Shape and type inference of one node; the same code serves symbolic dimensions (import) and known ones (sizing a
// plan).
#pragma once
#include <optional>
#include <span>

#include "graph/graph.h"
#include "graph/symbol.h"

namespace ortmod {

class Infer {
 public:
  static constexpr size_t kMax = 8;
  /// `in`: type of each input (null: absent); `ints`: host elements or null; outputs are written to `out` / `out_ints`.
  Infer(const Node& node, std::span<const Type* const> in, std::span<const HostInts* const> ints, std::span<Type> out,
        std::span<HostIntsPtr> out_ints)
      : node(node), in_(in), ints_(ints), out_(out), out_ints_(out_ints) {}

  const Node& node;
  int version() const { return node.version; }
  size_t num_in() const { return in_.size(); }
  size_t num_out() const { return out_.size(); }
  bool has(size_t i) const { return i < in_.size() && in_[i]; }
  const Type& type(size_t i) const;  // missing required input: ModelError
  DType dtype(size_t i = 0) const { return type(i).dtype; }
  bool ranked(size_t i = 0) const { return has(i) && in_[i]->has_rank; }
  const Dims& dims(size_t i = 0) const { return type(i).dims; }
  int rank(size_t i = 0) const { return type(i).rank(); }
  /// Host-known integers of input i, or null.
  const HostInts* ints(size_t i) const { return i < ints_.size() ? ints_[i] : nullptr; }
  const Literal* literal(size_t i) const {
    const Value* v = node.in(i);
    return v && v->is_constant() ? v->literal.get() : nullptr;
  }
  bool wants(size_t o) const { return o < out_.size(); }

  void out(size_t o, DType t, Dims d) {
    if (o < out_.size()) out_[o] = Type(t, std::move(d));
  }
  void out(size_t o, Type t) {
    if (o < out_.size()) out_[o] = std::move(t);
  }
  void out_unranked(size_t o, DType t) {
    if (o < out_.size()) out_[o] = Type::unranked(t);
  }
  void out_ints(size_t o, HostInts v) {
    if (o < out_ints_.size()) out_ints_[o] = std::make_shared<const HostInts>(std::move(v));
  }

  /// `axis` in [-rank, rank) made >= 0, else ShapeError.
  int64_t axis(int64_t axis, int64_t rank) const;
  /// Axes of the attribute `axes` or of input i (by version); nothing: not known now.
  std::optional<SmallVec<int64_t, 6>> axes(size_t input, int64_t rank) const;
  [[noreturn]] void fail(const std::string& what, int input = -1, const std::string& advice = "") const;

  // Common results.
  void same_as(size_t i = 0) { out(0, type(i)); }
  /// Broadcast of all inputs with the type of input `dtype_from`; also the helper itself.
  void broadcast_all(DType t);
  Dims broadcast(const Dims& a, const Dims& b) const;

 private:
  std::span<const Type* const> in_;
  std::span<const HostInts* const> ints_;
  std::span<Type> out_;
  std::span<HostIntsPtr> out_ints_;
};

/// The elements of a small integer constant. The least integers ("from the start" in a Slice) become the least that is
/// not a symbol.
std::optional<HostInts> literal_ints(const Literal& l);

/// Broadcast of two dimensions; nullopt when they cannot be.
std::optional<Dim> broadcast_dim(Dim a, Dim b);

}  // namespace ortmod
