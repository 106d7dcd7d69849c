// What we know of one operator: inference, kernels, fusion class, alias facts, gradient rule, body.
#pragma once
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "ops/rule.h"

namespace ortmod {

class Infer;
class Call;
class Bind;
enum class Pw : uint8_t;  // kernels/cpu/pointwise.h

using InferFn = void (*)(Infer&);
/// The general kernel (any device, any shape): made once per plan from the node, so that attributes are read once.
using Kernel = std::function<void(Call&)>;
using KernelFn = Kernel (*)(const Node&);
/// Emits static CPU steps for known shapes; false: this case goes to the general kernel.
using BindFn = bool (*)(Bind&);
/// Gradient of each input (empty Expr = no gradient).
using GradFn = Grads (*)(const Grad&);
/// Outputs computed from the inputs by standard operators.
using BodyFn = Grads (*)(const Grad&);

/// Declares that an operator has no gradient to pass on (its gradient is zero everywhere it exists, or its inputs are
/// discrete).
Grads no_grad(const Grad&);

struct OpDef {
  std::string_view name;
  std::string_view domain = "";
  int since = 1;            // first opset we accept
  InferFn infer = nullptr;  // required
  KernelFn kernel = nullptr;
  BindFn bind = nullptr;
  GradFn grad = nullptr;    // null: not differentiable by us (unless `body`); no_grad: zero
  BodyFn body = nullptr;    // required for domain ortmod; used for gradient when `grad` is null, and for forward when
                            // `kernel` is null
  Pw pointwise = Pw{0};     // fusable pointwise operators
  int alias = -1;           // output 0 is a view of this input (same elements, same order)
  bool inplace = false;     // output 0 may overwrite an input of the same size and type
  bool exact = false;       // the rule gives gradients of exactly the inputs' shapes: nothing was broadcast
  BodyFn replay = nullptr;  // of a random operator with a gradient: output 0 from the inputs and the drawn output 1
                            // (double backward)
  bool random = false;      // draws from a generator: never folded, merged or recomputed
  int host_inputs = 0;      // bit i: input i is read on the host (shapes, axes), so it needs no device copy when known
  int shape_inputs = 0;     // bit i: only the shape of input i is read, so its elements need not be kept for backward
  std::string_view limits = "";  // one line for supported_ops()
};

/// The entry of an operator, or null. O(1).
const OpDef* find_op(Op op);
inline const OpDef* find_op(const Node& n) { return find_op(n.op); }
std::span<const OpDef* const> all_ops();

/// Whether a gradient can come back through input i (it reads more than the shape).
inline bool reads_elements(const OpDef* def, size_t i) { return !def || i >= 32 || !(def->shape_inputs >> i & 1); }

/// Sets the output types of a node from its inputs' types (and host values of constant inputs).
void infer_node(Node& n);

/// The constant behind an input, or null.
inline const Literal* constant_input(const Node& n, size_t i) {
  const Value* v = n.in(i);
  return v && v->is_constant() ? v->literal.get() : nullptr;
}

}  // namespace ortmod
