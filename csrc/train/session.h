// The runtime of training artifacts: steps of the training, eval and optimizer models on parameters that are updated in
// place.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "train/program.h"

namespace ortmod {

/// Memory of an input of a step: contiguous, on the device of the session.
struct Column {
  at::ScalarType type = at::kFloat;
  at::IntArrayRef dims;
  void* data = nullptr;
};

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
  std::vector<at::Tensor> train_step(const std::vector<at::Tensor>& inputs) { return step_on(true, inputs); }
  std::vector<at::Tensor> eval_step(const std::vector<at::Tensor>& inputs) { return step_on(false, inputs); }
  /// The same on memory of the caller, in three moves: begin, bind each output, finish. The result of begin is one
  /// tensor per output that says its type; an undefined one depends on data, is not bound and is found there
  /// afterwards.
  c10::ArrayRef<at::Tensor> begin(bool training, c10::ArrayRef<Column> inputs);
  void bind_output(size_t i, void* data) { last_->program->bind_output(*last_->run, i, data); }
  void finish();
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
  at::Device device() const { return device_; }

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

  /// Operators of the steps of the last train_step or eval_step, and of the last update, and whether they go through
  /// ATen, for reports and tests.
  std::vector<std::pair<std::string, bool>> steps() const { return steps_of(last_); }
  std::vector<std::pair<std::string, bool>> update_steps() const { return steps_of(update_.get()); }

 private:
  struct Part {
    std::vector<std::string> inputs, outputs;  // of users
    std::unique_ptr<Program> program;
    Program::Run* run = nullptr;  // of the last step
    std::vector<int64_t> dims;    // of its inputs: the rank of each, then its dimensions
  };

  at::Tensor value(const std::string& name) const;
  /// Room for one value per trainable parameter, by the names that `key` gives, of its element type or `type`; in one
  /// flat tensor if the parameters have one element type.
  void add_values(const std::string& flat, const std::function<std::string(const std::string&)>& key,
                  DType type = DType::kUndefined);
  void collect(const Graph& g, const std::map<std::string, at::Tensor>& given);
  void add_state(const std::string& name, DType type);
  std::unique_ptr<Part> part(const Graph& source, const std::string& what, int flag);
  std::vector<at::Tensor> step_on(bool training, const std::vector<at::Tensor>& inputs);
  void check(const Part& p, bool training, c10::ArrayRef<Column> inputs) const;
  static std::vector<std::pair<std::string, bool>> steps_of(const Part* p) {
    return p && p->run ? p->program->steps(*p->run) : std::vector<std::pair<std::string, bool>>();
  }
  std::vector<std::string> chosen(bool trainable_only) const { return trainable_only ? trainable_ : parameters_; }

  at::Device device_;
  std::map<std::string, at::Tensor>
      values_;  // parameters, gradient buffers, states of the optimizer, by the names of inputs
  std::vector<std::string> parameters_, trainable_, states_;
  std::vector<Type> types_;       // of the trainable ones
  std::vector<int64_t> offsets_;  // of the trainable ones in flat tensors
  int64_t flat_size_ = 0;         // 0: they have several element types
  std::unique_ptr<Part> reset_train_, train_, eval_, update_;
  std::unique_ptr<Graph> eval_graph_;
  std::unique_ptr<Scalar> rate_, count_;  // of the next update, where the optimizer model reads them
  Part* last_ = nullptr;
  bool reset_ = true, has_gradients_ = false;
};

}  // namespace ortmod
