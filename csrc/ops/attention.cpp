// Operators: attention.
#include "ops/registry.h"

namespace ortmod {

OpTable attention_ops() {
  return {};
}

}  // namespace ortmod
