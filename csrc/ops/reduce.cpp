// Operators: reduce.
#include "ops/registry.h"

namespace ortmod {

OpTable reduce_ops() {
  return {};
}

}  // namespace ortmod
