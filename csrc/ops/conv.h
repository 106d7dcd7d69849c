// What convolutions share.
#pragma once
#include <vector>

#include "ops/rule.h"
#include "ops/window.h"

namespace ortmod {

using Sizes = std::vector<int64_t>;

/// The first n sizes.
Sizes list(const Window::Sizes& s, int n);
/// The window of a node over 1 to 3 spatial axes; sizes of the kernel as far as the attribute has them.
Window conv_window(const Node& node, int spatial);
/// Takes the kernel's sizes from the weight's dims; a contradiction is a ShapeError.
void check_kernel(const Infer& c, Window& w, const Dims& weight);
/// The window of a node inside a rule or body: the kernel's sizes must be known.
Window body_window(const Grad& g, Expr weight_shape, int spatial);

/// Padding that makes the windows end exactly with the operand.
struct Pads {
  Sizes before, after;
  Pads(const Window& w, at::IntArrayRef in, at::IntArrayRef out);
};

/// A tensor that lends only its sizes.
at::Tensor sizes_only(const at::Tensor& like, at::IntArrayRef sizes);
/// x's gradient for y = conv(x, w).
at::Tensor conv_input_grad(const Window& w, int64_t group, const at::Tensor& dy, const at::Tensor& k,
                           at::IntArrayRef x);
/// The same in standard operators; `in` is the spatial part of x's shape.
Expr conv_input_body(const Window& w, int64_t group, Expr dy, Expr k, Expr in);

}  // namespace ortmod
