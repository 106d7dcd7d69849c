// Memory for machine code: written first, executable afterwards, never both.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace ortmod::cpu {

/// A copy of `code` that can be called; null when the system refuses executable memory. Never freed.
const void* make_executable(const uint8_t* code, size_t bytes);
/// The same, freed with its last owner.
std::shared_ptr<const void> own_executable(const uint8_t* code, size_t bytes);

/// What machine code may use: from the processor, the build and the environment variable ORTMOD_JIT (off, avx2,
/// avx512).
enum class JitLevel : uint8_t { kOff, kAvx2, kAvx512 };
JitLevel jit_level();

}  // namespace ortmod::cpu
