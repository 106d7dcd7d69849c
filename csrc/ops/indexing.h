// What the view, index and scatter families share: integer attributes, host integers, row scatters as standard
// operators.
#pragma once
#include <optional>
#include <string_view>
#include <vector>

#include "graph/expr.h"
#include "ops/infer.h"
#include "ops/op.h"

namespace ortmod {

/// Integers of an attribute without a copy, or null.
const std::vector<int64_t>* list_attr(const Node& n, std::string_view key);
/// Host integers without a symbol among them.
bool is_plain(const HostInts* h);
/// Whether host integers of this size are worth carrying.
inline bool is_small(Dim n) { return n >= 0 && n <= 64; }
/// Carries the host integers of input 0 to output 0 under other dimensions.
void pass_ints(Infer& c, const Dims& dims);
/// Two dimensions that must be equal; nullopt when they are known to differ.
std::optional<Dim> equal_dim(Dim a, Dim b);
/// `axis` in [-rank, rank) made >= 0; an empty result: out of range.
inline std::optional<int64_t> wrap_axis(int64_t a, int64_t rank) {
  if (a < -rank || a >= rank) return std::nullopt;
  return a < 0 ? a + rank : a;
}
/// Positions of start:end:step on an axis of size d, clamped as the standard says.
struct SlicePart {
  int64_t start, step, count;
};
SlicePart slice_part(int64_t start, int64_t end, int64_t step, int64_t d);
/// Gradients with only the first one present.
Grads only_first(const Grad& g, Expr e);
/// Attributes of the node of a rule, for a fused node that carries them on.
Attrs copy_attrs(const Node& n, std::initializer_list<std::string_view> keys);

/// Sizes of x along `axes` (>= 0), int64, 1-D; constants where known.
Expr dims_of(Expr x, const std::vector<int64_t>& axes);
/// 0, 1, ..., n - 1 (int64, 1-D) for a one-element n.
Expr iota(Expr n);
/// A tensor of zeros with a run-time shape.
Expr zeros(Expr shape, DType t);
/// Index k of each element of a tensor shaped like `shape` (int64, 1-D) in row-major order.
Expr index_image(Expr shape);
/// `count` elements of x along `axis` from `offset` (empty: 0); both of one element, known at run time.
Expr cut(Expr x, Expr offset, Expr count, int64_t axis);
/// 1 where `axis` counts to the index, else 0: shape of `indices` with an axis of `depth` elements inserted.
Expr one_hot(Expr indices, Expr depth, int64_t axis, DType t);
/// y[r] = sum of updates[i] over indices[i] == r; `indices` of any rank q, `updates` [indices..., rest...], result
/// `shape` = [n, rest...].
Expr scatter_rows(Expr indices, Expr updates, Expr shape);

}  // namespace ortmod
