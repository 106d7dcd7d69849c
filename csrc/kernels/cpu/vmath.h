// Vector forms of exp, tanh, erf and sigmoid within about 1 ulp; float inline where there is AVX-512, else ATen's.
#pragma once
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

namespace ortmod::cpu {

using at::vec::fmadd;
using at::vec::Vectorized;

template <class T>
Vectorized<T> vexp(const Vectorized<T>& x) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (sizeof(T) == 4) {
    // exp(x) = 2^n exp(r), |r| <= ln(2) / 2; the operand order keeps NaN.
    const __m512 v = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-105.0f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), v);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(0.0013951476f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.008369595f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.04166619f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.16666512f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    return Vectorized<T>(_mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f)), n));
  }
#endif
  return x.exp();
}

template <class T>
Vectorized<T> vsigmoid(const Vectorized<T>& x) {
  const Vectorized<T> one(T(1));
  return one / (one + vexp(x.neg()));
}

#if defined(CPU_CAPABILITY_AVX512)
/// The sign of `sign` on the magnitude `a`.
inline Vectorized<float> with_sign(const Vectorized<float>& a, const Vectorized<float>& sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(a, _mm512_and_ps(bit, sign));
}
#endif

template <class T>
Vectorized<T> vtanh(const Vectorized<T>& x) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (sizeof(T) == 4) {
    using V = Vectorized<float>;
    const V a = x.abs(), s = x * x, one(1.0f);
    V p(0.0020317186f);
    p = fmadd(p, s, V(-0.008053903f));
    p = fmadd(p, s, V(0.021650132f));
    p = fmadd(p, s, V(-0.05393746f));
    p = fmadd(p, s, V(0.13333133f));
    p = fmadd(p, s, V(-0.33333328f));
    const V small = fmadd(p * s, x, x);
    const V large = one - V(2.0f) / (vexp(a + a) + one);
    const __mmask16 use_small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.64f), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(use_small, with_sign(large, x), small);
  }
#endif
  return x.tanh();
}

template <class T>
Vectorized<T> verf(const Vectorized<T>& x) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (sizeof(T) == 4) {
    using V = Vectorized<float>;
    const V a = x.abs(), s = x * x, one(1.0f);
    V p(8.345224e-05f);
    p = fmadd(p, s, V(-0.00081374374f));
    p = fmadd(p, s, V(0.0052006342f));
    p = fmadd(p, s, V(-0.02685927f));
    p = fmadd(p, s, V(0.11283694f));
    p = fmadd(p, s, V(-0.37612635f));
    p = fmadd(p, s, V(0.12837917f));
    const V small = fmadd(p, x, x);
    // log(1 - erf(t)) on [0.92, 4]; beyond, 1 in float.
    const V t(_mm512_min_ps(_mm512_set1_ps(4.0f), a));
    V q(-2.1161071e-05f);
    q = fmadd(q, t, V(0.00043520838f));
    q = fmadd(q, t, V(-0.0041745896f));
    q = fmadd(q, t, V(0.025128482f));
    q = fmadd(q, t, V(-0.10829373f));
    q = fmadd(q, t, V(-0.6333349f));
    q = fmadd(q, t, V(-1.1295208f));
    q = fmadd(q, t, V(0.00017585659f));
    const V large = one - vexp(q);
    const __mmask16 use_small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.925f), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(use_small, with_sign(large, x), small);
  }
#endif
  return x.erf();
}

/// Sum and maximum of the lanes.
template <class T>
T vsum(const Vectorized<T>& v) {
  return at::vec::vec_reduce_all<T>([](Vectorized<T>& a, Vectorized<T>& b) { return a + b; }, v);
}
template <class T>
T vmax(const Vectorized<T>& v) {
  return at::vec::vec_reduce_all<T>([](Vectorized<T>& a, Vectorized<T>& b) { return at::vec::maximum(a, b); }, v);
}

}  // namespace ortmod::cpu
