// Operators: sequence.
#include "ops/registry.h"

namespace ortmod {

OpTable sequence_ops() { return {}; }

}  // namespace ortmod
