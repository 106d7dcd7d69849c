// Looking up and adding back slices by index on the CPU.
#include "kernels/cpu/gather.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

namespace ortmod::cpu {
namespace {

constexpr int64_t kThreadBytes = 1 << 17;

template <class Index>
int64_t wrap(Index i, int64_t size) {
  return i < 0 ? static_cast<int64_t>(i) + size : static_cast<int64_t>(i);
}

template <class Item, class Index>
void gather_items(const Lookup& l, const Item* data, const Index* indices, Item* slices) {
  for (int64_t o = 0; o < l.outer; ++o)
    for (int64_t i = 0; i < l.count; ++i) slices[o * l.count + i] = data[o * l.size + wrap(indices[i], l.size)];
}

}  // namespace

template <class Index>
int64_t first_bad(const Lookup& l, const Index* indices) {
  for (int64_t i = 0; i < l.count; ++i)
    if (indices[i] < -l.size || indices[i] >= l.size) return i;
  return l.count;
}

template <class Index>
void gather(const Lookup& l, const char* data, const Index* indices, char* slices) {
  const int64_t bytes = l.width * l.item;
  if (l.width == 1 && l.item == 4)
    return gather_items(l, reinterpret_cast<const uint32_t*>(data), indices, reinterpret_cast<uint32_t*>(slices));
  if (l.width == 1 && l.item == 8)
    return gather_items(l, reinterpret_cast<const uint64_t*>(data), indices, reinterpret_cast<uint64_t*>(slices));
  const int64_t rows = l.outer * l.count;
  const auto copy = [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r) {
      const int64_t o = r / l.count, i = r - o * l.count;
      std::memcpy(slices + r * bytes, data + (o * l.size + wrap(indices[i], l.size)) * bytes,
                  static_cast<size_t>(bytes));
    }
  };
  if (rows * bytes <= kThreadBytes) return copy(0, rows);
  at::parallel_for(0, rows, std::max<int64_t>(1, kThreadBytes / std::max<int64_t>(1, bytes)), copy);
}

/// Each thread owns a range of rows of the data and passes over all indices, so every sum has one order.
template <class T, class Index>
void scatter_add(const Lookup& l, const T* slices, const Index* indices, T* data) {
  const int64_t w = l.width;
  const auto add = [&](int64_t b, int64_t e) {
    std::memset(data + b * w, 0, static_cast<size_t>((e - b) * w) * sizeof(T));
    for (int64_t o = l.size ? b / l.size : 0; o < l.outer && o * l.size < e; ++o)
      for (int64_t i = 0; i < l.count; ++i) {
        const int64_t row = o * l.size + wrap(indices[i], l.size);
        if (row < b || row >= e) continue;
        T* d = data + row * w;
        const T* s = slices + (o * l.count + i) * w;
        for (int64_t k = 0; k < w; ++k) d[k] += s[k];
      }
  };
  const int64_t rows = l.outer * l.size, work = (rows + l.outer * l.count) * w * static_cast<int64_t>(sizeof(T));
  if (work <= kThreadBytes) return add(0, rows);
  at::parallel_for(0, rows, std::max<int64_t>(1, rows / at::get_num_threads()), add);
}

template int64_t first_bad(const Lookup&, const int32_t*);
template int64_t first_bad(const Lookup&, const int64_t*);
template void gather(const Lookup&, const char*, const int32_t*, char*);
template void gather(const Lookup&, const char*, const int64_t*, char*);
template void scatter_add(const Lookup&, const float*, const int32_t*, float*);
template void scatter_add(const Lookup&, const float*, const int64_t*, float*);
template void scatter_add(const Lookup&, const double*, const int32_t*, double*);
template void scatter_add(const Lookup&, const double*, const int64_t*, double*);

}  // namespace ortmod::cpu
