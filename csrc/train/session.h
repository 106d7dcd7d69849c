// The runtime of training artifacts: steps of the training, eval and optimizer models on parameters that are updated in
// place.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "train/program.h"

namespace ortmod {

/// Not thread-safe: one step at a time. Inputs of steps are those of the models that are neither parameters nor state,
/// in order.
class Session {
 public:
  /// Models as files. `parameters` are copied; those that a model takes must be among them unless `nominal`. An empty
  /// eval path: none.
  Session(const std::string& training, const std::string& evaluation,
          const std::map<std::string, at::Tensor>& parameters, at::Device device = at::kCPU);
  void set_optimizer(const std::string& path);

  /// Gradients add up until lazy_reset_grad(). The loss, then the additional outputs; new tensors.
  std::vector<at::Tensor> train_step(const std::vector<at::Tensor>& inputs);
  std::vector<at::Tensor> eval_step(const std::vector<at::Tensor>& inputs);
  /// The next train_step starts from zero gradients.
  void lazy_reset_grad() { reset_ = true; }
  /// One update at `learning_rate` from the gradients accumulated so far.
  void optimizer_step();

  double learning_rate = 1e-3;
  int64_t step = 0;  // updates so far

  const std::vector<std::string>& input_names(bool training) const;
  const std::vector<std::string>& output_names(bool training) const;
  /// In the order of the training model's inputs.
  const std::vector<std::string>& parameter_names() const { return parameters_; }
  const std::vector<std::string>& trainable() const { return trainable_; }
  bool has_eval() const { return eval_ != nullptr; }
  bool has_optimizer() const { return update_ != nullptr; }
  bool has_gradients() const { return has_gradients_; }

  /// Live tensors: written by steps.
  at::Tensor parameter(const std::string& name) const { return value(name); }
  at::Tensor gradient(const std::string& name) const;
  /// By `<state>` and parameter; all states of the optimizer.
  std::map<std::string, std::map<std::string, at::Tensor>> optimizer_states() const;
  void set_optimizer_states(const std::map<std::string, std::map<std::string, at::Tensor>>& states);
  void set_parameter(const std::string& name, const at::Tensor& value);

  /// All parameters (or the trainable ones) one after another; they must have one element type.
  at::Tensor to_buffer(bool trainable_only) const;
  void from_buffer(const at::Tensor& buffer, bool trainable_only);
  int64_t parameters_size(bool trainable_only) const;

  /// The eval model up to these outputs, with the parameters as weights.
  void export_for_inferencing(const std::string& path, const std::vector<std::string>& outputs) const;

  /// Operators of the steps of the last train_step, and whether they go through ATen, for reports and tests.
  std::vector<std::pair<std::string, bool>> steps() const;

 private:
  struct Part {
    std::vector<std::string> inputs, outputs;  // of users
    std::unique_ptr<Program> program;
  };

  at::Tensor value(const std::string& name) const;
  void collect(const Graph& g, const std::map<std::string, at::Tensor>& given);
  std::string state(const std::string& name, const std::string& weight);
  std::unique_ptr<Part> part(const Graph& source, const std::string& what, int flag);
  std::vector<at::Tensor> run(Part& p, const std::vector<at::Tensor>& inputs, const std::string& what);
  std::vector<std::string> chosen(bool trainable_only) const { return trainable_only ? trainable_ : parameters_; }

  at::Device device_;
  std::map<std::string, at::Tensor>
      values_;  // parameters, gradient buffers, states of the optimizer, by the names of inputs
  std::vector<std::string> parameters_, trainable_, states_;
  std::unique_ptr<Part> reset_train_, train_, eval_, update_;
  std::unique_ptr<Graph> eval_graph_;
  Part* last_ = nullptr;
  std::vector<std::vector<int64_t>> last_dims_;
  bool reset_ = true, has_gradients_ = false;
};

}  // namespace ortmod
