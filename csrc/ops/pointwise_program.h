// Translates pointwise nodes into a program of the pointwise engine.
#pragma once
#include <unordered_map>

#include "graph/graph.h"
#include "kernels/cpu/pointwise.h"
#include "ops/kernel.h"

namespace ortmod {

/// Element type of the engine, kNone when it has none.
cpu::Elem to_elem(DType t);

/// Collects inputs, constants and instructions; every method that can fail returns false (or -1) and leaves the program
/// unusable.
class PointwiseProgram {
 public:
  /// Adds an input of shape `dims` that broadcasts to `space`.
  int input(DType type, const Dims& dims, const Dims& space);
  int constant(DType type, double value);
  /// Adds the instructions of a node whose operands are the values `in` (-1: absent); gives its value, -1 when it
  /// cannot.
  int node(const Node& n, Pw op, const SmallVec<int, 8>& in, DType in_type, DType out_type);
  bool output(DType type, int value, int alias = -1);
  void space(const Dims& dims);
  const cpu::PwDesc& desc() const { return d_; }

 private:
  int emit(Pw op, cpu::Elem type, cpu::Elem out, int a, int b = -1, int c = -1, double p = 0, double q = 0);
  int fail() {
    failed_ = true;
    return -1;
  }
  cpu::PwDesc d_;
  bool failed_ = false;
  friend const cpu::PwPlan* compile(PointwiseProgram& p, StepList& steps);
};

/// The plan in the arena of `steps`, or null.
const cpu::PwPlan* compile(PointwiseProgram& p, StepList& steps);

/// Binds a node whose entry says `pointwise`.
bool bind_pointwise(Bind& b);
/// Emits a step that runs a compiled program on operands: inputs, then outputs.
void emit_pointwise(Bind& b, const PointwiseProgram& p, const cpu::PwPlan& plan, const SmallVec<Operand, 8>& operands);

}  // namespace ortmod
