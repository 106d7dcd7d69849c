// Operators: compare.
#include "ops/registry.h"

namespace ortmod {

OpTable compare_ops() {
  return {};
}

}  // namespace ortmod
