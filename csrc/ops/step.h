// Steps of a sized plan: a function pointer and a POD of operands and sizes; a step reads its operands as (base,
// offset).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ops/infer.h"

namespace ortmod {

namespace cpu {
struct ChainOp;
}

/// A place in the frame: pointer = base[index] + offset.
struct Operand {
  int32_t index = -1;
  int64_t offset = 0;
  template <class T>
  T* ptr(char* const* base) const {
    return reinterpret_cast<T*>(base[index] + offset);
  }
  explicit operator bool() const { return index >= 0; }
};

using StepFn = void (*)(const void* args, char* const* base);

/// A step function over its own argument type, called through the common type (same calling convention: a pointer and a
/// pointer).
template <class Args>
StepFn step_fn(void (*fn)(const Args&, char* const*)) {
  return reinterpret_cast<StepFn>(reinterpret_cast<void (*)()>(fn));
}

struct Step {
  StepFn fn;
  const void* args;
};

/// Steps with their arguments in one arena; addresses stay valid while it lives.
class StepList {
 public:
  struct Slot {
    bool present = false;
    DType dtype = DType::kUndefined;
    const Dims* dims = nullptr;
    const HostInts* ints = nullptr;
    Operand operand;
  };
  void push(StepFn fn, const void* args, size_t bytes, size_t align);
  /// Uninitialised room in the arena (tables a step's arguments point to).
  void* alloc(size_t bytes, size_t align);
  Operand scratch(size_t bytes);
  /// Largest scratch that one node asked for.
  int64_t scratch_bytes() const { return scratch_; }
  void begin_node() { scratch_used_ = 0; }

  /// Says what the last step computes, for compile_chains.
  void note(const cpu::ChainOp& op);

  std::vector<Step> steps;
  // Of steps over a few elements, where `noted` asks for them.
  struct Note {
    const void* args;
    const cpu::ChainOp* op;
  };
  bool noted = false;
  std::vector<Note> notes;
  std::vector<std::shared_ptr<const void>> owned;  // machine code of steps
  int32_t scratch_base = 0;
  int64_t scratch_begin = 0;

 private:
  struct Block {
    std::unique_ptr<std::byte[]> data;
    size_t used = 0, size = 0;
  };
  std::vector<Block> blocks_;
  int64_t scratch_ = 0, scratch_used_ = 0;
};

}  // namespace ortmod
