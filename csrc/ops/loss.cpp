// Operators: loss.
#include "ops/registry.h"

namespace ortmod {

OpTable loss_ops() {
  return {};
}

}  // namespace ortmod
