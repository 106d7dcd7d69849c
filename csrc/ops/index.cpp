// Operators: index.
#include "ops/registry.h"

namespace ortmod {

OpTable index_ops() {
  return {};
}

}  // namespace ortmod
