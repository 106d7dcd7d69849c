// Operators: pool.
#include "ops/registry.h"

namespace ortmod {

OpTable pool_ops() {
  return {};
}

}  // namespace ortmod
