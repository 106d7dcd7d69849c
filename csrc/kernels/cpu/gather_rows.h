// Copies rows of a table in a given order.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ortmod::cpu {

/// to[i] = from[order[i]] for n rows of `bytes` bytes each.
void gather_rows(char* to, const char* from, size_t bytes, const int64_t* order, int64_t n);

}  // namespace ortmod::cpu
