// Operators: view.
#include "ops/registry.h"

namespace ortmod {

OpTable view_ops() {
  return {};
}

}  // namespace ortmod
