// Operators: activation.
#include "ops/registry.h"

namespace ortmod {

OpTable activation_ops() {
  return {};
}

}  // namespace ortmod
