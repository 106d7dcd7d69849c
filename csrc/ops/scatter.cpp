// Operators: scatter.
#include "ops/registry.h"

namespace ortmod {

OpTable scatter_ops() {
  return {};
}

}  // namespace ortmod
