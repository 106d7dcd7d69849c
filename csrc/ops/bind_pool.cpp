// Static CPU steps of max pooling.
#include "ops/bind_pool.h"

#include "kernels/cpu/pool.h"
#include "ops/pool.h"

namespace ortmod {
namespace {

struct PoolArgs {
  cpu::Pool2d p;
  Operand x, y, indices;
};
template <class T>
void run_pool(const PoolArgs& s, char* const* base) {
  cpu::max_pool(s.p, s.x.ptr<T>(base), s.y.ptr<T>(base), s.indices ? s.indices.ptr<int64_t>(base) : nullptr);
}

struct PoolGradArgs {
  Operand dy, indices, dx;
  int64_t planes, n_out, n_in;
};
template <class T>
void run_pool_grad(const PoolGradArgs& s, char* const* base) {
  cpu::max_pool_grad(s.dy.ptr<T>(base), s.indices.ptr<int64_t>(base), s.dx.ptr<T>(base), s.planes, s.n_out, s.n_in);
}

template <class Args>
bool emit(Bind& b, void (*f)(const Args&, char* const*), void (*d)(const Args&, char* const*), const Args& args) {
  if (b.dtype() != DType::kFloat && b.dtype() != DType::kDouble) return false;
  b.emit(b.dtype() == DType::kFloat ? f : d, args);
  return true;
}

}  // namespace

bool bind_max_pool(Bind& b) {
  const Dims& x = b.dims();
  const int n = static_cast<int>(x.size()) - 2;
  if (n < 1 || n > 2 || !b.wants(0) || b.node.attr("storage_order", 0) != 0) return false;
  const Dims& y = b.out_dims();
  const Window w = pool_window(b.node, n);
  PoolArgs s{{x[0] * x[1], {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {0, 0}}, b.in(), b.out(), {}};
  for (int i = 0; i < n; ++i) {
    const int k = 2 - n + i;
    const auto at = static_cast<size_t>(i) + 2;
    s.p.in[k] = x[at];
    s.p.out[k] = y[at];
    s.p.kernel[k] = w.kernel[static_cast<size_t>(i)];
    s.p.stride[k] = w.stride[static_cast<size_t>(i)];
    s.p.dilation[k] = w.dilation[static_cast<size_t>(i)];
    s.p.before[k] = w.before(i, x[at], y[at]);
  }
  if (b.wants(1)) s.indices = b.out(1);
  return emit(b, run_pool<float>, run_pool<double>, s);
}

bool bind_max_pool_grad(Bind& b) {
  const Dims &dy = b.dims(0), &dx = b.out_dims();
  if (dy.size() < 3 || dx.size() != dy.size() || b.dtype(1) != DType::kInt64) return false;
  const int64_t planes = dy[0] * dy[1];
  const PoolGradArgs s{b.in(0), b.in(1), b.out(), planes, b.numel() / planes, b.out_numel() / planes};
  return emit(b, run_pool_grad<float>, run_pool_grad<double>, s);
}

}  // namespace ortmod
