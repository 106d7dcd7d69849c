// Static CPU steps that move elements: one strided copy, or a look-up.
#pragma once
#include "ops/kernel.h"

namespace ortmod {

/// The same elements in the same order.
bool bind_same(Bind& b);
bool bind_transpose(Bind& b);
bool bind_expand(Bind& b);
bool bind_tile(Bind& b);
bool bind_concat(Bind& b);
bool bind_split(Bind& b);
/// Output 0 filled with the element of a one-element literal.
bool bind_fill(Bind& b, const Literal& value);
bool bind_slice(Bind& b);
bool bind_slice_grad(Bind& b);
bool bind_gather(Bind& b);
bool bind_gather_grad(Bind& b);

}  // namespace ortmod
