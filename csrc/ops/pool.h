// What pooling operators share.
#pragma once
#include "ops/conv.h"

namespace ortmod {

/// The window of a pooling node, kernel_shape required.
Window pool_window(const Node& node, int spatial);
void infer_pool(Infer& c);
/// The attributes that describe the window and what it counts.
Attrs pool_attrs(const Grad& g);
Sizes pool_sizes(const Node& node, const Window& w, at::IntArrayRef x);
/// Does ATen take these pads?
bool aten_pads(const Window& w);

/// |x|^(p-1) sign(x), and dy y^(1-p) with 0 where y is 0: the factors of the gradient of y = (sum |x|^p)^(1/p).
Expr lp_slope(Expr x, double p);
Expr lp_scale(Expr dy, Expr y, double p);

}  // namespace ortmod
