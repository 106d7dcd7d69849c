// Softmax, layer normalisation and RMS normalisation over rows.
#include "kernels/cpu/rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/vmath.h"

namespace ortmod::cpu {
namespace {

/// Calls f(begin, end) over rows, on several threads when there is work for them.
template <class F>
void over_rows(int64_t rows, int64_t cols, double ns_per_element, const F& f) {
  const double total = static_cast<double>(rows) * static_cast<double>(cols) * ns_per_element;
  if (total < 40e3 || at::get_num_threads() == 1) return f(int64_t{0}, rows);
  at::parallel_for(0, rows,
                   std::max<int64_t>(1, static_cast<int64_t>(20e3 / (static_cast<double>(cols) * ns_per_element))), f);
}

/// f(vector, offset, count) over n elements.
template <class T, class F>
void for_vectors(int64_t n, const F& f) {
  constexpr int W = Vectorized<T>::size();
  int64_t i = 0;
  for (; i + W <= n; i += W) f(i, W);
  if (i < n) f(i, static_cast<int>(n - i));
}

template <class T>
Vectorized<T> load(const T* p, int count) {
  return count == Vectorized<T>::size() ? Vectorized<T>::loadu(p) : Vectorized<T>::loadu(p, count);
}
template <class T>
Vectorized<T> load_or(const T* p, int count, T other) {
  using V = Vectorized<T>;
  return count == V::size() ? V::loadu(p) : V::set(V(other), V::loadu(p, count), count);
}

template <class T>
T row_max(const T* x, int64_t n) {
  using V = Vectorized<T>;
  V m(-std::numeric_limits<T>::infinity());
  for_vectors<T>(
      n, [&](int64_t i, int c) { m = at::vec::maximum(m, load_or(x + i, c, -std::numeric_limits<T>::infinity())); });
  return vmax(m);
}

/// f over vectors with two alternating accumulators; lanes past the end must add nothing.
template <class T, class F>
T row_sum(int64_t n, const F& f) {
  using V = Vectorized<T>;
  constexpr int W = V::size();
  V a(T(0)), b(T(0));
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    a = a + f(i, W);
    b = b + f(i + W, W);
  }
  if (i + W <= n) {
    a = a + f(i, W);
    i += W;
  }
  if (i < n) b = b + V::set(V(T(0)), f(i, static_cast<int>(n - i)), n - i);
  return vsum(a + b);
}

template <class T>
void softmax_row(const T* x, T* y, int64_t n, bool log) {
  using V = Vectorized<T>;
  const T m = row_max(x, n);
  if (!std::isfinite(m)) {
    std::fill(y, y + n, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const V vm(m);
  if (log) {
    const T sum = row_sum<T>(n, [&](int64_t i, int c) { return vexp(load(x + i, c) - vm); });
    const V shift(m + std::log(sum));
    for_vectors<T>(n, [&](int64_t i, int c) { (load(x + i, c) - shift).store(y + i, c); });
    return;
  }
  const T sum = row_sum<T>(n, [&](int64_t i, int c) {
    const V e = vexp(load(x + i, c) - vm);
    e.store(y + i, c);
    return e;
  });
  const V r(T(1) / sum);
  for_vectors<T>(n, [&](int64_t i, int c) { (load(y + i, c) * r).store(y + i, c); });
}

}  // namespace

template <class T>
void softmax(const T* x, T* y, int64_t rows, int64_t cols, bool log) {
  if (cols == 0) return;
  over_rows(rows, cols, 0.5, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) softmax_row(x + r * cols, y + r * cols, cols, log);
  });
}

template <class T>
void softmax_grad(const T* dy, const T* y, T* dx, int64_t rows, int64_t cols, bool log) {
  using V = Vectorized<T>;
  over_rows(rows, cols, log ? 0.4 : 0.2, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *g = dy + r * cols, *p = y + r * cols;
      T* d = dx + r * cols;
      if (cols > 0 && std::isnan(p[0])) {  // a row without a finite maximum: y counts as 0
        for (int64_t j = 0; j < cols; ++j) d[j] = log ? g[j] : T(0);
        continue;
      }
      if (log) {
        const V s(row_sum<T>(cols, [&](int64_t i, int c) { return load(g + i, c); }));
        for_vectors<T>(cols, [&](int64_t i, int c) { (load(g + i, c) - vexp(load(p + i, c)) * s).store(d + i, c); });
      } else {
        const V s(row_sum<T>(cols, [&](int64_t i, int c) { return load(g + i, c) * load(p + i, c); }));
        for_vectors<T>(cols, [&](int64_t i, int c) { ((load(g + i, c) - s) * load(p + i, c)).store(d + i, c); });
      }
    }
  });
}

template <class T>
void layer_norm(const T* x, const T* scale, const T* bias, T* y, T* mean, T* inv_std, int64_t rows, int64_t cols,
                double eps, bool centre) {
  using V = Vectorized<T>;
  const T n = static_cast<T>(cols);
  over_rows(rows, cols, 0.3, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* p = x + r * cols;
      T* q = y + r * cols;
      const T m = centre ? row_sum<T>(cols, [&](int64_t i, int c) { return load(p + i, c); }) / n : T(0);
      const V vm(m);
      const T var = row_sum<T>(cols,
                               [&](int64_t i, int c) {
                                 const V d = load(p + i, c) - vm;
                                 return d * d;
                               }) /
                    n;
      const T inv = T(1) / std::sqrt(var + static_cast<T>(eps));
      const V vi(inv);
      for_vectors<T>(cols, [&](int64_t i, int c) {
        V v = (load(p + i, c) - vm) * vi;
        if (scale) v = v * load(scale + i, c);
        if (bias) v = v + load(bias + i, c);
        v.store(q + i, c);
      });
      if (mean) mean[r] = m;
      if (inv_std) inv_std[r] = inv;
    }
  });
}

namespace {
/// Rows whose contributions to dscale and dbias are summed together: fixed by the shape, so that threads do not change
/// the result.
int64_t chunk_rows(int64_t rows) { return std::max<int64_t>(32, (rows + 15) / 16); }
}  // namespace

template <class T>
int64_t layer_norm_grad_scratch(int64_t rows, int64_t cols) {
  const int64_t chunks = (rows + chunk_rows(rows) - 1) / chunk_rows(rows);
  return chunks * 2 * cols * static_cast<int64_t>(sizeof(T));
}

template <class T>
void layer_norm_grad(const T* dy, const T* x, const T* scale, const T* mean, const T* inv_std, T* dx, T* dscale,
                     T* dbias, int64_t rows, int64_t cols, char* scratch) {
  using V = Vectorized<T>;
  const int64_t chunk = chunk_rows(rows), chunks = (rows + chunk - 1) / chunk;
  T* partial = reinterpret_cast<T*>(scratch);
  const bool sums = dscale || dbias;
  const T r_n = T(1) / static_cast<T>(cols);
  over_rows(chunks, chunk * cols, 0.5, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      T *ps = partial + 2 * k * cols, *pb = ps + cols;
      if (sums) std::fill(ps, ps + 2 * cols, T(0));
      for (int64_t r = k * chunk; r < std::min(rows, (k + 1) * chunk); ++r) {
        const T *g = dy + r * cols, *p = x + r * cols;
        const V m(mean ? mean[r] : T(0)), inv(inv_std[r]);
        const auto grad = [&](int64_t i, int c) {
          return scale ? load(g + i, c) * load(scale + i, c) : load(g + i, c);
        };
        const auto norm = [&](int64_t i, int c) { return (load(p + i, c) - m) * inv; };
        if (sums)
          for_vectors<T>(cols, [&](int64_t i, int c) {
            const V v = load(g + i, c);
            fmadd(v, norm(i, c), load(ps + i, c)).store(ps + i, c);
            (load(pb + i, c) + v).store(pb + i, c);
          });
        if (!dx) continue;
        const V a(mean ? row_sum<T>(cols, grad) * r_n : T(0));
        const V b(row_sum<T>(cols, [&](int64_t i, int c) { return grad(i, c) * norm(i, c); }) * r_n);
        T* d = dx + r * cols;
        for_vectors<T>(cols, [&](int64_t i, int c) { ((grad(i, c) - a - norm(i, c) * b) * inv).store(d + i, c); });
      }
    }
  });
  if (!sums) return;
  for (int64_t j = 0; j < cols; ++j) {
    T s = 0, b = 0;
    for (int64_t k = 0; k < chunks; ++k) {
      s += partial[2 * k * cols + j];
      b += partial[(2 * k + 1) * cols + j];
    }
    if (dscale) dscale[j] = s;
    if (dbias) dbias[j] = b;
  }
}

#define INSTANCES(T)                                                                                               \
  template void softmax<T>(const T*, T*, int64_t, int64_t, bool);                                                  \
  template void softmax_grad<T>(const T*, const T*, T*, int64_t, int64_t, bool);                                   \
  template void layer_norm<T>(const T*, const T*, const T*, T*, T*, T*, int64_t, int64_t, double, bool);           \
  template int64_t layer_norm_grad_scratch<T>(int64_t, int64_t);                                                   \
  template void layer_norm_grad<T>(const T*, const T*, const T*, const T*, const T*, T*, T*, T*, int64_t, int64_t, \
                                   char*);
INSTANCES(float)
INSTANCES(double)

}  // namespace ortmod::cpu
