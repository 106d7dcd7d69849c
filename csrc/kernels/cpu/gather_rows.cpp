// Rows of a few sizes are copied by moves of fixed width, the last of which may overlap the one before.
#include "kernels/cpu/gather_rows.h"

#include <cstring>

namespace ortmod::cpu {
namespace {

template <size_t W>
void fixed(char* to, const char* from, const int64_t* order, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(to + static_cast<size_t>(i) * W, from + static_cast<size_t>(order[i]) * W, W);
}

/// Rows of at least W bytes in moves of W.
template <size_t W>
void wide(char* to, const char* from, size_t bytes, const int64_t* order, int64_t n) {
  const size_t last = bytes - W;
  for (int64_t i = 0; i < n; ++i) {
    char* t = to + static_cast<size_t>(i) * bytes;
    const char* f = from + static_cast<size_t>(order[i]) * bytes;
    for (size_t k = 0; k < last; k += W) std::memcpy(t + k, f + k, W);
    std::memcpy(t + last, f + last, W);
  }
}

}  // namespace

void gather_rows(char* to, const char* from, size_t bytes, const int64_t* order, int64_t n) {
  if (bytes > 1024) {
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(to + static_cast<size_t>(i) * bytes, from + static_cast<size_t>(order[i]) * bytes, bytes);
  } else if (bytes >= 64) {
    wide<64>(to, from, bytes, order, n);
  } else if (bytes >= 32) {
    wide<32>(to, from, bytes, order, n);
  } else if (bytes == 4) {
    fixed<4>(to, from, order, n);
  } else if (bytes == 8) {
    fixed<8>(to, from, order, n);
  } else if (bytes >= 16) {
    wide<16>(to, from, bytes, order, n);
  } else if (bytes > 8) {
    wide<8>(to, from, bytes, order, n);
  } else {
    wide<1>(to, from, bytes, order, n);
  }
}

}  // namespace ortmod::cpu
