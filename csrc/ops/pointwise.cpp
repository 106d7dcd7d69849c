// Operators: pointwise.
#include "ops/registry.h"

namespace ortmod {

OpTable pointwise_ops() {
  return {};
}

}  // namespace ortmod
