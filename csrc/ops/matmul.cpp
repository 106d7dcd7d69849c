// Operators: matmul.
#include "ops/registry.h"

namespace ortmod {

OpTable matmul_ops() {
  return {};
}

}  // namespace ortmod
