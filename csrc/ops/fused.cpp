// Operators: fused.
#include "ops/registry.h"

namespace ortmod {

OpTable fused_ops() {
  return {};
}

}  // namespace ortmod
