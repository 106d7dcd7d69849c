// The loop over steps. Knows no operator.
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>

#include "exec/frame.h"

namespace ortmod {
namespace {

[[noreturn]] void rethrow(const Sizes& s, size_t step, const char* what) {
  const int item = s.step_item[step];
  if (item < 0) fail(ErrorKind::kRun, "run", what);
  fail(ErrorKind::kRun, "run", what, *s.plan->items()[static_cast<size_t>(item)].node);
}

void loop(const Sizes& s, char* const* base) {
  size_t i = 0;
  try {
    for (const Step *p = s.list.steps.data(), *end = p + s.list.steps.size(); p != end; ++p, ++i) p->fn(p->args, base);
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& e) {
    rethrow(s, i, e.what_without_backtrace());
  } catch (const std::exception& e) {
    rethrow(s, i, e.what());
  }
}

}  // namespace

void run(const Sizes& s, Frame& f) {
  if (!s.has_kernels) return loop(s, f.base());
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  loop(s, f.base());
}

}  // namespace ortmod
