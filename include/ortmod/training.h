// Training artifacts in C++: the calls of onnxruntime's C++ training API, on ortmod's engine. No Python at run time.
//
//   auto state = ortmod::CheckpointState::LoadCheckpoint("artifacts/checkpoint");
//   ortmod::TrainingSession session(state, "artifacts/training_model.onnx", "artifacts/eval_model.onnx",
//   "artifacts/optimizer_model.onnx"); for (...) {
//     const at::Tensor loss = session.TrainStep({x, labels})[0];
//     session.OptimizerStep();
//     session.LazyResetGrad();
//   }
//   ortmod::CheckpointState::SaveCheckpoint(state, "artifacts/checkpoint", true);
//
// Everything that does not fit is a std::runtime_error that says what was expected. Tensors are libtorch's.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace ortmod {

using Property = std::variant<int64_t, double, std::string>;

/// A handle: copies are the same state. A session that was made with it updates its parameters.
class CheckpointState {
 public:
  static CheckpointState LoadCheckpoint(const std::string& path);
  /// A process that dies while this writes leaves the old file or the new one.
  static void SaveCheckpoint(const CheckpointState& state, const std::string& path,
                             bool include_optimizer_state = false);

  void AddProperty(const std::string& name, const Property& value);
  Property GetProperty(const std::string& name) const;
  std::vector<std::string> ParameterNames() const;
  void UpdateParameter(const std::string& name, const at::Tensor& value);
  /// A copy.
  at::Tensor GetParameter(const std::string& name) const;

 private:
  friend class TrainingSession;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// Not thread-safe.
class TrainingSession {
 public:
  /// Paths of the models of one call of generate_artifacts; empty: none.
  TrainingSession(CheckpointState& state, const std::string& training_model, const std::string& eval_model = "",
                  const std::string& optimizer_model = "", at::Device device = at::kCPU);
  ~TrainingSession();

  /// Inputs in the order of InputNames(true). The loss, then the additional outputs. Gradients add up until
  /// LazyResetGrad().
  std::vector<at::Tensor> TrainStep(const std::vector<at::Tensor>& inputs);
  std::vector<at::Tensor> EvalStep(const std::vector<at::Tensor>& inputs);
  void LazyResetGrad();
  void OptimizerStep();

  void SetLearningRate(float rate);
  float GetLearningRate() const;
  /// The rate rises from 0 to `initial_rate` over the warm-up, then falls to 0 at `total_steps`.
  void RegisterLinearLRScheduler(int64_t warmup_steps, int64_t total_steps, float initial_rate);
  void SchedulerStep();

  /// Writes the eval model up to these outputs, with the parameters of today as weights.
  void ExportModelForInferencing(const std::string& path, const std::vector<std::string>& output_names) const;
  std::vector<std::string> InputNames(bool training) const;
  std::vector<std::string> OutputNames(bool training) const;
  /// All parameters, or the trainable ones, one after another.
  at::Tensor ToBuffer(bool only_trainable) const;
  /// Sets what ToBuffer gave.
  void FromBuffer(const at::Tensor& buffer, bool only_trainable = false);

 private:
  std::shared_ptr<CheckpointState::Impl> state_;
  int64_t warmup_ = 0, total_ = 0;
  float initial_rate_ = 0;
};

}  // namespace ortmod
