// Executable memory by mmap; what the processor can do.
#include "kernels/cpu/jit_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace ortmod::cpu {

namespace {
size_t whole_pages(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}
}  // namespace

const void* make_executable(const uint8_t* code, size_t bytes) {
  const size_t size = whole_pages(bytes);
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  std::memcpy(at, code, bytes);
  if (mprotect(at, size, PROT_READ | PROT_EXEC) == 0) return at;
  munmap(at, size);
  return nullptr;
}

std::shared_ptr<const void> own_executable(const uint8_t* code, size_t bytes) {
  const void* at = make_executable(code, bytes);
  if (!at) return nullptr;
  return {at, [size = whole_pages(bytes)](const void* p) { munmap(const_cast<void*>(p), size); }};
}

namespace {

JitLevel find_level() {
#if defined(ORTMOD_XBYAK) && (defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2))
  const char* set = std::getenv("ORTMOD_JIT");
  const std::string_view wish = set ? set : "";
  if (wish == "off" || wish == "0") return JitLevel::kOff;
#if defined(CPU_CAPABILITY_AVX512)
  if (wish != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return JitLevel::kAvx512;
#endif
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    return JitLevel::kAvx2;
#endif
  return JitLevel::kOff;
}

}  // namespace

JitLevel jit_level() {
  static const JitLevel level = find_level();
  return level;
}

}  // namespace ortmod::cpu
