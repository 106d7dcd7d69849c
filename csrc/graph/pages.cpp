// Mapping memory before it is written.
#include "graph/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace ortmod {

void map_pages(void* memory, size_t bytes) {
  constexpr size_t kFewest = size_t{64} << 10;
#ifdef MADV_POPULATE_WRITE
  constexpr int kPopulate = MADV_POPULATE_WRITE;
#else
  constexpr int kPopulate = 23;
#endif
  if (bytes < kFewest) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, kPopulate);
}

}  // namespace ortmod
