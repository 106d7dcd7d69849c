// Operators: norm.
#include "ops/registry.h"

namespace ortmod {

OpTable norm_ops() {
  return {};
}

}  // namespace ortmod
