// Steps over a few elements become machine code.
#pragma once
#include "exec/plan.h"

namespace ortmod {

/// Replaces neighbouring steps that were noted (StepList::note) by compiled chains; step_item and by_kernel follow.
void compile_chains(Sizes& s);

}  // namespace ortmod
