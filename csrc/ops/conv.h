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

}  // namespace ortmod
