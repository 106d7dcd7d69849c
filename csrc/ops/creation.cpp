// Operators: creation.
#include "ops/registry.h"

namespace ortmod {

OpTable creation_ops() {
  return {};
}

}  // namespace ortmod
