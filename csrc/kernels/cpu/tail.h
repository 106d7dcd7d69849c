// Loads and stores of the first elements of a vector.
#pragma once
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <type_traits>

namespace ortmod::cpu {

template <class T>
using Vec = at::vec::Vectorized<T>;

/// The mask is made once; elements that are not loaded are zero where the instructions have masks.
template <class T>
struct Tail {
#if defined(CPU_CAPABILITY_AVX512)
  std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8> mask;
  explicit Tail(int count) : mask(static_cast<decltype(mask)>((1u << count) - 1)) {}
  Vec<T> load(const T* p) const {
    if constexpr (sizeof(T) == 4) {
      return _mm512_maskz_loadu_ps(mask, p);
    } else {
      return _mm512_maskz_loadu_pd(mask, p);
    }
  }
  void store(const Vec<T>& v, T* p) const {
    if constexpr (sizeof(T) == 4) {
      _mm512_mask_storeu_ps(p, mask, v);
    } else {
      _mm512_mask_storeu_pd(p, mask, v);
    }
  }
#else
  int count;
  explicit Tail(int n) : count(n) {}
  Vec<T> load(const T* p) const { return count == Vec<T>::size() ? Vec<T>::loadu(p) : Vec<T>::loadu(p, count); }
  void store(const Vec<T>& v, T* p) const { v.store(p, count); }
#endif
};

/// The sum of all elements.
template <class T>
T sum_lanes(const Vec<T>& v) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (sizeof(T) == 4) {
    return _mm512_reduce_add_ps(v);
  } else {
    return _mm512_reduce_add_pd(v);
  }
#else
  return at::vec::vec_reduce_all<T>([](Vec<T>& a, Vec<T>& b) { return a + b; }, v);
#endif
}

}  // namespace ortmod::cpu
