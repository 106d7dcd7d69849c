// Operators: control.
#include "ops/registry.h"

namespace ortmod {

OpTable control_ops() { return {}; }

}  // namespace ortmod
