// Operators: conv.
#include "ops/registry.h"

namespace ortmod {

OpTable conv_ops() {
  return {};
}

}  // namespace ortmod
