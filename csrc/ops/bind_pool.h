// Static CPU steps of max pooling.
#pragma once
#include "ops/kernel.h"

namespace ortmod {

bool bind_max_pool(Bind& b);
/// (dy, indices, shape of x)
bool bind_max_pool_grad(Bind& b);

}  // namespace ortmod
