// Checks of the CPU kernels against plain loops in double.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/pointwise.h"

using namespace ortmod;
using namespace ortmod::cpu;

namespace {

int failures = 0;
void check(bool ok, const char* what, double got = 0, double expected = 0) {
  if (ok) return;
  if (++failures < 20) std::printf("FAIL %s: got %.9g, expected %.9g\n", what, got, expected);
}

std::mt19937 rng(7);
double uniform() { return std::uniform_real_distribution<double>(-2, 2)(rng); }

std::vector<std::unique_ptr<char[]>> arena;
void* take(void*, size_t bytes, size_t) {
  arena.push_back(std::make_unique<char[]>(bytes + 64));
  char* p = arena.back().get();
  return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64;
}

template <class T>
void test_gemm() {
  const double tol = sizeof(T) == 4 ? 2e-5 : 1e-12;
  const int64_t sizes[][3] = {{1, 1, 1},     {16, 1, 10},  {10, 1, 16},  {1, 10, 16},  {64, 100, 20}, {64, 1, 100},
                              {20, 100, 64}, {7, 5, 3},    {33, 49, 17}, {9, 97, 300}, {64, 10, 500}, {3, 2, 0},
                              {2, 70, 40},   {100, 64, 1}, {17, 16, 33}, {5, 300, 5},  {70, 90, 110}, {150, 10, 300}};
  for (const auto& s : sizes)
    for (int mode = 0; mode < 32; ++mode) {
      Gemm g;
      g.m = s[0];
      g.n = s[1];
      g.k = s[2];
      g.ta = mode & 1;
      g.tb = mode & 2;
      g.alpha = mode & 4 ? 0.5 : 1;
      g.epilogue.relu = mode & 8;
      g.lda = g.ta ? g.m : g.k;
      g.ldb = g.tb ? g.k : g.n;
      if (g.lda == 0) g.lda = 1;
      g.ldc = g.n;
      std::vector<T> a(static_cast<size_t>(g.m * g.k) + 1), b(static_cast<size_t>(g.k * g.n) + 1),
          bias(static_cast<size_t>(g.m * g.n)), c(static_cast<size_t>(g.m * g.n), T(99));
      for (T& x : a) x = static_cast<T>(uniform());
      for (T& x : b) x = static_cast<T>(uniform());
      for (T& x : bias) x = static_cast<T>(uniform());
      if (mode & 16) {
        g.epilogue.bias = bias.data();
        g.epilogue.row = mode & 4 ? g.n : 0;
        g.epilogue.col = mode & 1 ? 1 : 0;
        g.epilogue.scale = mode & 8 ? 2 : 1;
      }
      for (int own = 0; own < 2; ++own) {
        own ? gemm_small(g, a.data(), b.data(), c.data()) : gemm(g, a.data(), b.data(), c.data());
        for (int64_t i = 0; i < g.m; ++i)
          for (int64_t j = 0; j < g.n; ++j) {
            double sum = 0;
            for (int64_t k = 0; k < g.k; ++k)
              sum += static_cast<double>(a[static_cast<size_t>(g.ta ? k * g.lda + i : i * g.lda + k)]) *
                     static_cast<double>(b[static_cast<size_t>(g.tb ? j * g.ldb + k : k * g.ldb + j)]);
            sum *= g.alpha;
            if (g.epilogue.bias)
              sum += g.epilogue.scale * bias[static_cast<size_t>(i * g.epilogue.row + j * g.epilogue.col)];
            if (g.epilogue.relu && sum < 0) sum = 0;
            const double got = c[static_cast<size_t>(i * g.n + j)];
            check(std::abs(got - sum) < tol * (1 + static_cast<double>(g.k)), own ? "gemm_small" : "gemm", got, sum);
          }
      }
    }
}

/// y = where(a * b + exp(-c) > s, a * b, tanh(c) / s) over shapes that broadcast every way; second output a * b.
template <class T>
void test_pointwise(std::vector<int64_t> sizes, std::vector<std::vector<int64_t>> masks, bool in_place) {
  const Elem e = sizeof(T) == 4 ? Elem::kF32 : Elem::kF64;
  PwDesc d;
  d.ndim = static_cast<int>(sizes.size());
  int64_t n = 1;
  for (int k = 0; k < d.ndim; ++k) n *= d.sizes[k] = sizes[static_cast<size_t>(k)];
  d.n_in = 4;
  std::vector<std::vector<T>> in(4);
  for (int i = 0; i < 4; ++i) {
    int64_t s = 1;
    d.in[i].type = e;
    for (int k = d.ndim - 1; k >= 0; --k) {
      const bool on = masks[static_cast<size_t>(i)][static_cast<size_t>(k)];
      d.in[i].strides[k] = on ? s : 0;
      if (on) s *= d.sizes[k];
    }
    in[static_cast<size_t>(i)].resize(static_cast<size_t>(s));
    for (T& x : in[static_cast<size_t>(i)]) x = static_cast<T>(uniform());
  }
  const auto push = [&](Pw op, Elem type, Elem out, int x, int y = -1, int z = -1) {
    PwInst& c = d.inst[d.n_inst++];
    c.op = op;
    c.type = type;
    c.out = out;
    c.src[0] = static_cast<int16_t>(x);
    c.src[1] = static_cast<int16_t>(y);
    c.src[2] = static_cast<int16_t>(z);
    return d.n_in + d.n_const + d.n_inst - 1;
  };
  d.n_const = 1;
  d.consts[0] = {e, 0.25};
  const int ab = push(Pw::kMul, e, e, 0, 1), neg = push(Pw::kNeg, e, e, 2), ex = push(Pw::kExp, e, e, neg),
            sum = push(Pw::kAdd, e, e, ab, ex), s4 = push(Pw::kMul, e, e, 3, 4),
            gt = push(Pw::kGreater, e, Elem::kBool, sum, s4), th = push(Pw::kTanh, e, e, 2),
            dv = push(Pw::kDiv, e, e, th, 3), w = push(Pw::kWhere, e, e, gt, ab, dv);
  d.n_out = 2;
  d.out[0] = {e, static_cast<int16_t>(w), -1};
  d.out[1] = {e, static_cast<int16_t>(ab), static_cast<int16_t>(in_place ? 0 : -1)};
  std::vector<T> y0(static_cast<size_t>(n)), y1(static_cast<size_t>(n));
  std::vector<T> a0 = in[0];
  const PwPlan* p = pw_plan(d, take, nullptr);
  check(p != nullptr, "plan");
  if (!p) return;
  char* ptr[6];
  for (size_t i = 0; i < 4; ++i) ptr[i] = reinterpret_cast<char*>(in[i].data());
  ptr[4] = reinterpret_cast<char*>(y0.data());
  ptr[5] = in_place ? ptr[0] : reinterpret_cast<char*>(y1.data());
  pw_run(*p, ptr);
  const T* ab_out = reinterpret_cast<const T*>(ptr[5]);
  const double tol = sizeof(T) == 4 ? 1e-5 : 1e-12;
  for (int64_t o = 0; o < n; ++o) {
    int64_t at[4] = {0, 0, 0, 0}, rest = o;
    for (int k = d.ndim - 1; k >= 0; --k) {
      const int64_t index = rest % sizes[static_cast<size_t>(k)];
      rest /= sizes[static_cast<size_t>(k)];
      for (int i = 0; i < 4; ++i) at[i] += index * d.in[i].strides[k];
    }
    const double a = a0[static_cast<size_t>(at[0])], b = in[1][static_cast<size_t>(at[1])],
                 c = in[2][static_cast<size_t>(at[2])], s = in[3][static_cast<size_t>(at[3])];
    const double left = a * b + std::exp(-c), right = s * 0.25;
    if (std::abs(left - right) < 1e-5) continue;
    const double expected = left > right ? a * b : std::tanh(c) / s;
    check(std::abs(static_cast<double>(y0[static_cast<size_t>(o)]) - expected) < tol * (1 + std::abs(expected)),
          "pointwise", y0[static_cast<size_t>(o)], expected);
    check(std::abs(static_cast<double>(ab_out[o]) - a * b) < tol * (1 + std::abs(a * b)), "pointwise product",
          ab_out[o], a * b);
  }
}

/// Largest error in units of the last place of a one-argument function over [lo, hi], and its value at NaN and
/// infinities.
void test_math(Pw op, double (*f)(double), double lo, double hi, double ulps) {
  const int n = 20011;
  std::vector<float> x(n), y(n);
  for (int i = 0; i < n; ++i) x[static_cast<size_t>(i)] = static_cast<float>(lo + (hi - lo) * i / (n - 4));
  x[n - 1] = NAN;
  x[n - 2] = INFINITY;
  x[n - 3] = -INFINITY;
  PwDesc d;
  d.ndim = d.n_in = d.n_inst = d.n_out = 1;
  d.sizes[0] = n;
  d.in[0].type = Elem::kF32;
  d.in[0].strides[0] = 1;
  d.inst[0].op = op;
  d.inst[0].src[0] = 0;
  d.out[0] = {Elem::kF32, 1, -1};
  char* ptr[2] = {reinterpret_cast<char*>(x.data()), reinterpret_cast<char*>(y.data())};
  pw_run(*pw_plan(d, take, nullptr), ptr);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = f(x[i]), got = y[i];
    if (std::isnan(expected) || std::isinf(expected)) {
      check(std::isnan(expected) ? std::isnan(got) : got == expected, "special value", got, expected);
      continue;
    }
    const float near = static_cast<float>(expected);
    const double ulp = std::max(static_cast<double>(std::nextafter(std::abs(near), INFINITY)) - std::abs(near), 1e-44);
    if (!std::isinf(near)) check(std::abs(got - expected) <= ulps * ulp, "accuracy", got, expected);
  }
}

}  // namespace

int main() {
  test_math(
      Pw::kExp, [](double x) { return std::exp(x); }, -100, 95, 1.5);
  test_math(
      Pw::kTanh, [](double x) { return std::tanh(x); }, -12, 12, 2.5);
  test_math(
      Pw::kErf, [](double x) { return std::erf(x); }, -6, 6, 2.5);
  test_math(
      Pw::kSigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -80, 30, 3);
  test_gemm<float>();
  test_gemm<double>();
  const std::vector<std::vector<int64_t>> all = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}};
  const std::vector<std::vector<int64_t>> mixed = {{1, 1, 1}, {0, 0, 1}, {1, 1, 0}, {0, 0, 0}};
  const std::vector<std::vector<int64_t>> holes = {{1, 1, 1}, {1, 0, 1}, {0, 1, 0}, {0, 1, 1}};
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{1, 1, 1},
                                                             {2, 3, 4},
                                                             {1, 16, 1},
                                                             {7, 1, 5},
                                                             {3, 64, 10},
                                                             {2, 5, 300},
                                                             {40, 3, 64},
                                                             {3, 2, 5000},
                                                             {100, 1, 7},
                                                             {0, 3, 4},
                                                             {8, 300, 300}})
    for (const auto& masks : {all, mixed, holes})
      for (const bool in_place : {false, true}) {
        test_pointwise<float>(sizes, masks, in_place);
        test_pointwise<double>(sizes, masks, in_place);
      }
  std::printf(failures ? "%d failures\n" : "ok\n", failures);
  return failures ? 1 : 0;
}
