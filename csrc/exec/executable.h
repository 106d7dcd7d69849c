// What Python, the trainer and C++ hold: a graph, its arguments, and the plans compiled for each kind of call.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

class Frame;
class PlanPair;
struct Sizes;

/// What distinguishes the graphs that a call needs: which arguments want gradients, and train or eval.
struct Mode {
  std::vector<bool> needs;  // per argument; empty: no gradient wanted
  bool training = false;
  bool operator==(const Mode&) const = default;
};

/// Arguments are the graph's inputs, then the weights named at construction (parameters and buffers); all other weights
/// are constants. Thread-safe. Tensors of a call share one device; arguments may be non-contiguous (a copy is made).
class Executable : public std::enable_shared_from_this<Executable> {
 public:
  static std::shared_ptr<Executable> make(std::shared_ptr<const Graph> graph,
                                          const std::vector<std::string>& argument_weights);
  ~Executable();

  const Graph& graph() const { return *graph_; }
  size_t num_inputs() const { return graph_->inputs.size(); }
  size_t num_args() const { return num_inputs() + arg_weights_.size(); }
  size_t num_outputs() const { return graph_->outputs.size(); }
  const std::vector<std::string>& argument_weights() const { return arg_weights_; }
  /// Declared type of an argument.
  const Type& arg_type(size_t i) const { return arg_types_[i]; }

  struct Forward {
    std::vector<at::Tensor> outputs;  // the graph's outputs, then the new values of updated buffers (training mode)
    std::vector<at::Tensor>
        kept;  // what backward reads: one byte tensor, then data-dependent ones; empty without gradient
  };
  Forward forward(at::TensorList args, const Mode& mode) { return forward(args, *plans(mode)); }
  Forward forward(at::TensorList args, PlanPair& plans);

  /// The graphs and plans of a mode, built at its first call. They live as long as this; callers of many calls look
  /// them up once.
  PlanPair* plans(const Mode& mode);
  /// The same, of the arguments that require gradients.
  PlanPair* plans(at::TensorList args, bool training);

  /// What backward reads besides the kept tensors, as indices.
  struct Saved {
    std::vector<int> args, outputs;
    std::vector<int> joint_args;  // arguments that the joint graph reads, after dead code is gone (double backward
                                  // recomputes from them)
    std::vector<int> all_args;    // `args`, then the others of `joint_args`
    std::vector<int> seeds;    // outputs that a gradient can enter by (float, depend on a needed argument); others are
                               // not differentiable
    std::vector<int> reached;  // needed arguments that a gradient reaches, in order
  };
  const Saved& saved(const Mode& mode);
  /// Weights whose buffers are updated by a forward in training mode: argument index, in the order of Forward::outputs'
  /// tail.
  std::vector<int> updated_args(bool training);

  /// Gradient per argument, undefined where not needed or not reached. `grads`: one per output. `saved_*` in the order
  /// of saved(); `arg_dims`: the dims of all arguments of the forward call, flattened as rank, d0, d1, ... per
  /// argument; undefined `grads` are zeros; `may_overwrite`: kept values may be destroyed.
  std::vector<at::Tensor> backward(const Mode& mode, at::TensorList saved_args, at::TensorList saved_outputs,
                                   at::TensorList kept, at::TensorList grads, at::IntArrayRef arg_dims,
                                   bool may_overwrite) {
    return backward(*plans(mode), saved_args, saved_outputs, kept, grads, arg_dims, may_overwrite);
  }
  /// `once_more`, for measurements, gets the bound frame when all is done.
  std::vector<at::Tensor> backward(PlanPair& plans, at::TensorList saved_args, at::TensorList saved_outputs,
                                   at::TensorList kept, at::TensorList grads, at::IntArrayRef arg_dims,
                                   bool may_overwrite,
                                   const std::function<void(const Sizes&, Frame&)>* once_more = nullptr);

  /// Double backward: the joint graph (forward and backward in one) as an Executable whose arguments are this one's
  /// arguments and one gradient per output in Saved::seeds, and whose outputs are the gradients of Saved::reached, in
  /// order. Random masks of the forward call are further arguments (see joint_masks). It updates no buffers.
  std::shared_ptr<Executable> joint(const Mode& mode);
  /// The last arguments of the joint, copied out of the kept tensors of a forward call.
  std::vector<at::Tensor> joint_masks(const Mode& mode, at::TensorList kept, at::IntArrayRef arg_dims);

  /// Output dtypes and (symbolic) dims for given argument dims, then those of updated buffers; kAnyDim where
  /// data-dependent.
  std::vector<Type> output_types(const std::vector<Type>& args, const Mode& mode);
  /// The same for Forward::kept: the byte tensor's size is a sum of sizes rounded up to 64, an expression of the dims
  /// of `args`.
  std::vector<Type> kept_types(const std::vector<Type>& args, const Mode& mode);

  /// What a call with these arguments runs, for reports and tests.
  struct StepInfo {
    bool backward = false;
    bool through_aten = false;
    std::string op;    // `domain::Name`, "copy" or "fill"
    std::string node;  // its name, or that of its first output
  };
  struct Report {
    std::vector<StepInfo> steps;
    int64_t scratch_bytes = 0, kept_bytes = 0, backward_scratch_bytes = 0;
    std::string forward_text, backward_text;  // the optimised graphs
  };
  Report report(at::TensorList args, const Mode& mode);
  /// Nanoseconds of one pass over the forward or the backward steps of a call with these arguments, nothing else (mean
  /// of `repeats`).
  double time_steps(at::TensorList args, const Mode& mode, int64_t repeats, bool backward = false);

  /// A registered number by which dispatcher ops name this executable, and back (ModelError when it is gone). It
  /// depends on the content of the graph only (compiled artefacts keep it); joint() derives its own from this one's and
  /// the mode.
  int64_t handle() const { return handle_; }
  static std::shared_ptr<Executable> from_handle(int64_t handle);

 private:
  Executable() = default;

  std::shared_ptr<const Graph> graph_;  // unchanged: whoever handed it in may read it, too
  std::vector<std::string> arg_weights_;
  std::vector<Type> arg_types_;
  int64_t handle_ = 0;
  std::mutex mutex_;
  std::vector<std::unique_ptr<PlanPair>> plans_;  // never removed
  std::vector<std::pair<Mode, std::shared_ptr<Executable>>> joints_;
};

}  // namespace ortmod
