// Looking up and adding back slices by index.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

/// data [outer, size, width], indices [count], slices [outer, count, width]; `width` in elements of `item` bytes.
struct Lookup {
  int64_t outer = 1, size = 0, count = 0, width = 1, item = 4;
};

/// The first index outside [-size, size), or count when all are inside.
template <class Index>
int64_t first_bad(const Lookup& l, const Index* indices);

/// slices[o, i] = data[o, indices[i]].
template <class Index>
void gather(const Lookup& l, const char* data, const Index* indices, char* slices);

/// data = 0; data[o, indices[i]] += slices[o, i], in the order of i whatever the number of threads.
template <class T, class Index>
void scatter_add(const Lookup& l, const T* slices, const Index* indices, T* data);

}  // namespace ortmod::cpu
