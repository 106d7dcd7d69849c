// Strided copies: transposition, slices, repetition, joining and cutting are all one loop nest with two sets of
// strides.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

inline constexpr int kCopyDims = 8;

/// dst[dst_offset + sum i*dst] = src[src_offset + sum i*src]; strides and offsets in elements of `item` bytes. Made by
/// plan().
struct StridedCopy {
  enum class Inner : uint8_t { kRuns, kTranspose, kStrided };
  int32_t rank = 0;  // outer dimensions; the inner ones follow
  int32_t item = 0;
  Inner inner = Inner::kRuns;
  int64_t dims[kCopyDims], src[kCopyDims], dst[kCopyDims];
  int64_t src_offset = 0, dst_offset = 0;
  int64_t outer = 1, grain = 1;  // iterations of the outer dimensions; how many one thread takes at least
};

/// Drops dimensions of size 1, merges neighbours, chooses the inner loop. False: too many dimensions or an element size
/// we do not know. `n` dimensions in the order in which the destination is written.
bool plan(StridedCopy& c, int n, const int64_t* dims, const int64_t* src, const int64_t* dst, int64_t item);

void run(const StridedCopy& c, const char* src, char* dst);

/// A dense copy by all threads that leaves the cache to what is in it.
void copy_past_cache(char* to, const char* from, int64_t bytes);

}  // namespace ortmod::cpu
