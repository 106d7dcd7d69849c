// Windows that slide over spatial axes (convolution, pooling): attributes, padding rules, sizes of the result.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

#include "graph/expr.h"
#include "graph/graph.h"
#include "ops/infer.h"

namespace ortmod {

struct Window {
  static constexpr int kMax = 6;
  enum class Auto : uint8_t { kNone, kValid, kUpper, kLower };
  using Sizes = std::array<int64_t, kMax>;

  int n = 0;  // spatial axes; 0: as many as the operand has
  Auto mode = Auto::kNone;
  bool ceil = false;
  Sizes kernel, stride, dilation, begin, end;  // kernel: 0 when the attribute is absent

  /// Reads kernel_shape, strides, dilations, pads, auto_pad and ceil_mode; a wrong length or value is a ShapeError.
  static Window read(const Node& node);
  /// The number of spatial axes of `node`'s operand; a contradiction with the attributes is a ShapeError.
  void fit(const Node& node, int spatial);

  int64_t extent(int i) const { return dilation[i] * (kernel[i] - 1) + 1; }
  /// Size of the result along axis i; `k` is the size of the kernel.
  Dim out(const Infer& c, int i, Dim in, Dim k) const;
  int64_t out(const Node& node, int i, int64_t in) const;
  /// Padding before the first element of axis i.
  int64_t before(int i, int64_t in, int64_t out) const;
  /// Padding after the last one such that the windows end exactly there (negative: elements that no window touches).
  int64_t after(int i, int64_t in, int64_t out) const {
    return (out - 1) * stride[i] + extent(i) - in - before(i, in, out);
  }
  /// Explicit padding, the same on both sides of each axis.
  bool symmetric() const;
  /// Padding does not depend on sizes.
  bool fixed() const { return mode == Auto::kNone || mode == Auto::kValid; }
};

/// Spatial axes [2, rank) padded (negative: cropped) on both sides.
at::Tensor pad_spatial(const at::Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
                       double value);

/// Attributes of a window for a node of standard ONNX.
Attrs window_attrs(const Window& w, bool pads);

/// A shape from parts of one element each: constants where known.
Expr make_shape(Builder& b, const std::vector<Expr>& parts);
Expr reshape_parts(Expr x, const std::vector<Expr>& parts);
/// Pads (negative: crops) the spatial axes of x by sizes given as int64 vectors of x.rank() - 2 elements; opset >= 11.
Expr pad_by(Expr x, Expr before, Expr after);
/// Padding before the first element of each spatial axis, as an int64 vector, from the sizes of the operand and of the
/// result.
Expr before_of(Builder& b, const Window& w, Expr in, Expr out);
/// The spatial part of a shape.
Expr spatial(Expr shape, int rank);
/// Elements of an int64 vector when all are known now.
std::optional<std::vector<int64_t>> known_ints(Expr v);

}  // namespace ortmod
