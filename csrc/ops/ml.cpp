// Operators: ml.
#include "ops/registry.h"

namespace ortmod {

OpTable ml_ops() {
  return {};
}

}  // namespace ortmod
