// Max pooling over planes.
#include "kernels/cpu/pool.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

namespace ortmod::cpu {
namespace {

template <class T>
void pool_plane(const Pool2d& p, const T* x, T* y, int64_t* indices, int64_t first) {
  for (int64_t i = 0; i < p.out[0]; ++i) {
    const int64_t top = i * p.stride[0] - p.before[0];
    for (int64_t j = 0; j < p.out[1]; ++j, ++y) {
      const int64_t left = j * p.stride[1] - p.before[1];
      T best = -std::numeric_limits<T>::infinity();
      int64_t at = -1;
      for (int64_t a = 0; a < p.kernel[0]; ++a) {
        const int64_t r = top + a * p.dilation[0];
        if (r < 0 || r >= p.in[0]) continue;
        for (int64_t b = 0; b < p.kernel[1]; ++b) {
          const int64_t c = left + b * p.dilation[1];
          if (c < 0 || c >= p.in[1]) continue;
          const T v = x[r * p.in[1] + c];
          if (at < 0 || v > best || v != v) {
            best = v;
            at = r * p.in[1] + c;
          }
        }
      }
      *y = best;
      if (indices) *indices++ = first + std::max<int64_t>(at, 0);
    }
  }
}

/// Windows of 2 x 2 that tile the plane.
template <class T>
void pool_halves(const Pool2d& p, const T* x, T* y, int64_t* indices, int64_t first) {
  const int64_t w = p.in[1], n = p.out[1];
  for (int64_t i = 0; i < p.out[0]; ++i, y += n) {
    const T *u = x + 2 * i * w, *v = u + w;
    const int64_t at = first + 2 * i * w;
    if (!indices) {
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) {
        T best = u[2 * j];
        best = u[2 * j + 1] > best || u[2 * j + 1] != u[2 * j + 1] ? u[2 * j + 1] : best;
        best = v[2 * j] > best || v[2 * j] != v[2 * j] ? v[2 * j] : best;
        y[j] = v[2 * j + 1] > best || v[2 * j + 1] != v[2 * j + 1] ? v[2 * j + 1] : best;
      }
      continue;
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      const T a = u[2 * j], b = u[2 * j + 1], c = v[2 * j], d = v[2 * j + 1];
      T best = a;
      int64_t k = 0;
      const bool take_b = b > best || b != b;
      best = take_b ? b : best;
      k = take_b ? 1 : k;
      const bool take_c = c > best || c != c;
      best = take_c ? c : best;
      k = take_c ? w : k;
      const bool take_d = d > best || d != d;
      y[j] = take_d ? d : best;
      indices[j] = at + 2 * j + (take_d ? w + 1 : k);
    }
    indices += n;
  }
}

template <class F>
void over_planes(int64_t planes, int64_t work, const F& f) {
  if (planes * work < 40000 || at::get_num_threads() == 1) return f(int64_t{0}, planes);
  at::parallel_for(0, planes, std::max<int64_t>(1, 20000 / std::max<int64_t>(1, work)), f);
}

}  // namespace

template <class T>
void max_pool(const Pool2d& p, const T* x, T* y, int64_t* indices) {
  const int64_t in = p.in[0] * p.in[1], out = p.out[0] * p.out[1];
  bool halves = true;
  for (int i = 0; i < 2; ++i)
    halves = halves && p.kernel[i] == 2 && p.stride[i] == 2 && p.dilation[i] == 1 && p.before[i] == 0 &&
             2 * p.out[i] <= p.in[i];
  over_planes(p.planes, out * p.kernel[0] * p.kernel[1], [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      (halves ? pool_halves<T> : pool_plane<T>)(p, x + k * in, y + k * out, indices ? indices + k * out : nullptr,
                                                k * in);
  });
}

template <class T>
void max_pool_grad(const T* dy, const int64_t* indices, T* dx, int64_t planes, int64_t n_out, int64_t n_in) {
  over_planes(planes, n_out + n_in / 4, [&](int64_t begin, int64_t end) {
    std::fill(dx + begin * n_in, dx + end * n_in, T(0));
    for (int64_t i = begin * n_out; i < end * n_out; ++i) dx[indices[i]] += dy[i];
  });
}

template void max_pool<float>(const Pool2d&, const float*, float*, int64_t*);
template void max_pool<double>(const Pool2d&, const double*, double*, int64_t*);
template void max_pool_grad<float>(const float*, const int64_t*, float*, int64_t, int64_t, int64_t);
template void max_pool_grad<double>(const double*, const int64_t*, double*, int64_t, int64_t, int64_t);

}  // namespace ortmod::cpu
