// Strided copies on the CPU.
#include "kernels/cpu/copy.h"

#include <ATen/Parallel.h>
#if defined(CPU_CAPABILITY_AVX512)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>

namespace ortmod::cpu {
namespace {

constexpr int64_t kThreadBytes = 1 << 17;  // about 20 us of copying
constexpr int64_t kBlock = 16;

struct alignas(16) Wide {
  uint64_t v[2];
};

template <class T>
void strided(const T* s, T* d, int64_t n, int64_t ss, int64_t ds) {
  if (ss == 0 && ds == 1) {
    std::fill(d, d + n, *s);
  } else {
    for (int64_t i = 0; i < n; ++i) d[i * ds] = s[i * ss];
  }
}

/// d[i * ds + j] = s[i + j * ss].
template <class T>
void transpose(const T* s, T* d, int64_t rows, int64_t cols, int64_t ss, int64_t ds) {
  for (int64_t i0 = 0; i0 < rows; i0 += kBlock)
    for (int64_t j0 = 0; j0 < cols; j0 += kBlock) {
      const int64_t i1 = std::min(rows, i0 + kBlock), j1 = std::min(cols, j0 + kBlock);
      for (int64_t i = i0; i < i1; ++i)
        for (int64_t j = j0; j < j1; ++j) d[i * ds + j] = s[i + j * ss];
    }
}

template <class T>
void inner(const StridedCopy& c, const T* s, T* d) {
  const int k = c.rank;
  switch (c.inner) {
    case StridedCopy::Inner::kRuns:
      std::memcpy(d, s, static_cast<size_t>(c.dims[k]) * sizeof(T));
      break;
    case StridedCopy::Inner::kTranspose:
      transpose(s, d, c.dims[k], c.dims[k + 1], c.src[k + 1], c.dst[k]);
      break;
    case StridedCopy::Inner::kStrided:
      strided(s, d, c.dims[k], c.src[k], c.dst[k]);
      break;
  }
}

template <class T>
void run_range(const StridedCopy& c, const T* src, T* dst, int64_t begin, int64_t end) {
  int64_t at[kCopyDims] = {};
  int64_t rest = begin, s = c.src_offset, d = c.dst_offset;
  for (int k = c.rank; k-- > 0;) {
    at[k] = rest % c.dims[k];
    rest /= c.dims[k];
    s += at[k] * c.src[k];
    d += at[k] * c.dst[k];
  }
  for (int64_t i = begin; i < end; ++i) {
    inner(c, src + s, dst + d);
    for (int k = c.rank; k-- > 0;) {
      s += c.src[k];
      d += c.dst[k];
      if (++at[k] < c.dims[k]) break;
      at[k] = 0;
      s -= c.dims[k] * c.src[k];
      d -= c.dims[k] * c.dst[k];
    }
  }
}

template <class T>
void run_typed(const StridedCopy& c, const char* src, char* dst) {
  const T* s = reinterpret_cast<const T*>(src);
  T* d = reinterpret_cast<T*>(dst);
  if (c.outer <= c.grain) return run_range(c, s, d, 0, c.outer);
  at::parallel_for(0, c.outer, c.grain, [&](int64_t b, int64_t e) { run_range(c, s, d, b, e); });
}

}  // namespace

bool plan(StridedCopy& c, int n, const int64_t* dims, const int64_t* src, const int64_t* dst, int64_t item) {
  if (item != 1 && item != 2 && item != 4 && item != 8 && item != 16) return false;
  c.item = static_cast<int32_t>(item);
  int r = 0;
  c.outer = 1;
  for (int i = 0; i < n; ++i) {
    if (dims[i] == 0) c.outer = 0;
    if (dims[i] == 1) continue;
    if (r > 0 && c.src[r - 1] == src[i] * dims[i] && c.dst[r - 1] == dst[i] * dims[i]) {
      c.dims[r - 1] *= dims[i];
    } else {
      if (r == kCopyDims) return false;
      c.dims[r++] = dims[i];
    }
    c.src[r - 1] = src[i];
    c.dst[r - 1] = dst[i];
  }
  if (c.outer == 0) return true;
  if (r == 0) {
    c.dims[0] = c.src[0] = c.dst[0] = 1;
    r = 1;
  }
  int64_t work = c.dims[r - 1];
  if (c.src[r - 1] == 1 && c.dst[r - 1] == 1) {
    c.inner = StridedCopy::Inner::kRuns;
    c.rank = r - 1;
  } else {
    c.inner = StridedCopy::Inner::kStrided;
    c.rank = r - 1;
    int t = -1;
    for (int i = 0; i + 1 < r; ++i)
      if (c.src[i] == 1 && c.dims[i] >= 4) t = i;
    if (t >= 0 && c.dst[r - 1] == 1 && c.dims[r - 1] >= 4) {
      std::rotate(c.dims + t, c.dims + t + 1, c.dims + r - 1);
      std::rotate(c.src + t, c.src + t + 1, c.src + r - 1);
      std::rotate(c.dst + t, c.dst + t + 1, c.dst + r - 1);
      c.inner = StridedCopy::Inner::kTranspose;
      c.rank = r - 2;
      work *= c.dims[r - 2];
    }
  }
  for (int i = 0; i < c.rank; ++i) c.outer *= c.dims[i];
  c.grain = std::max<int64_t>(1, kThreadBytes / std::max<int64_t>(1, work * item));
  return true;
}

void run(const StridedCopy& c, const char* src, char* dst) {
  switch (c.item) {
    case 1:
      return run_typed<uint8_t>(c, src, dst);
    case 2:
      return run_typed<uint16_t>(c, src, dst);
    case 4:
      return run_typed<uint32_t>(c, src, dst);
    case 8:
      return run_typed<uint64_t>(c, src, dst);
    default:
      return run_typed<Wide>(c, src, dst);
  }
}

void copy_past_cache(char* to, const char* from, int64_t bytes) {
  const auto part = [=](int64_t begin, int64_t end) {
#if defined(CPU_CAPABILITY_AVX512)
    if (reinterpret_cast<uintptr_t>(to) % 64 == 0 && begin % 64 == 0) {
      for (; begin + 64 <= end; begin += 64)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + begin), _mm512_loadu_si512(from + begin));
      _mm_sfence();
    }
#endif
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  };
  constexpr int64_t kUnit = 4096;
  at::parallel_for(0, (bytes + kUnit - 1) / kUnit, 4 * kThreadBytes / kUnit,
                   [&](int64_t b, int64_t e) { part(b * kUnit, std::min(bytes, e * kUnit)); });
}

}  // namespace ortmod::cpu
