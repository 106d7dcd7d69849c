// Large pieces of memory that are about to be written: mapped at once rather than page by page, each at its first
// touch.
#pragma once
#include <cstddef>
#include <vector>

namespace ortmod {

/// What is mapped stays as it is; does nothing where the kernel cannot, and for a few pages.
void map_pages(void* memory, size_t bytes);

template <class T>
void reserve_mapped(std::vector<T>& v, size_t n) {
  if (n <= v.capacity()) return;
  v.reserve(n);
  map_pages(v.data() + v.size(), (n - v.size()) * sizeof(T));
}

}  // namespace ortmod
