// Operators: random.
#include "ops/registry.h"

namespace ortmod {

OpTable random_ops() {
  return {};
}

}  // namespace ortmod
