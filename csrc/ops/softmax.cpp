// Operators: softmax.
#include "ops/registry.h"

namespace ortmod {

OpTable softmax_ops() {
  return {};
}

}  // namespace ortmod
