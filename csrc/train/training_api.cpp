// The public C++ API: sessions and checkpoints behind opaque handles.
#include "ortmod/training.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "graph/error.h"
#include "train/checkpoint.h"
#include "train/session.h"

namespace ortmod {

struct CheckpointState::Impl {
  Checkpoint checkpoint;
  std::unique_ptr<Session> session;
  bool ready = true;  // false: nominal, until values come from a buffer

  void check_ready() const {
    if (!ready)
      fail(ErrorKind::kModel, "checkpoint",
           "the state is nominal: it has names without values; call TrainingSession::FromBuffer first");
  }

  bool live(const std::string& name) const {
    if (!session) return false;
    const std::vector<std::string>& names = session->parameter_names();
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  at::Tensor& own(const std::string& name) {
    const auto it = checkpoint.parameters.find(name);
    if (it == checkpoint.parameters.end())
      fail(ErrorKind::kModel, "checkpoint", "there is no parameter \"" + name + "\"");
    return it->second;
  }
  /// Takes the present values from the session.
  void collect() {
    if (!session) return;
    if (ready)
      for (const std::string& name : session->parameter_names()) checkpoint.parameters[name] = session->parameter(name);
    if (!session->has_optimizer()) return;
    checkpoint.optimizer = session->optimizer_states();
    checkpoint.step = session->step;
    checkpoint.learning_rate = session->learning_rate;
  }
};

CheckpointState CheckpointState::LoadCheckpoint(const std::string& path) {
  CheckpointState s;
  s.impl_ = std::make_shared<Impl>();
  s.impl_->checkpoint = load_checkpoint(path);
  s.impl_->ready = !s.impl_->checkpoint.nominal();
  return s;
}

void CheckpointState::SaveCheckpoint(const CheckpointState& state, const std::string& path,
                                     bool include_optimizer_state) {
  state.impl_->collect();
  save_checkpoint(state.impl_->checkpoint, path, {.optimizer = include_optimizer_state});
}

void CheckpointState::AddProperty(const std::string& name, const Property& value) {
  impl_->checkpoint.properties[name] = value;
}

Property CheckpointState::GetProperty(const std::string& name) const {
  const auto it = impl_->checkpoint.properties.find(name);
  if (it == impl_->checkpoint.properties.end())
    fail(ErrorKind::kModel, "checkpoint", "there is no property \"" + name + "\"");
  return it->second;
}

std::vector<std::string> CheckpointState::ParameterNames() const {
  std::vector<std::string> r;
  for (const auto& [name, t] : impl_->checkpoint.parameters) r.push_back(name);
  return r;
}

void CheckpointState::UpdateParameter(const std::string& name, const at::Tensor& value) {
  at::Tensor& own = impl_->own(name);
  if (impl_->live(name)) return impl_->session->set_parameter(name, value);
  if (own.sizes() != value.sizes() || own.scalar_type() != value.scalar_type())
    fail(ErrorKind::kShape, "checkpoint", "Parameter data shape/type mismatch of \"" + name + "\"");
  own = value.clone();
}

at::Tensor CheckpointState::GetParameter(const std::string& name) const {
  impl_->check_ready();
  at::Tensor& own = impl_->own(name);
  return (impl_->live(name) ? impl_->session->parameter(name) : own).clone();
}

TrainingSession::TrainingSession(CheckpointState& state, const std::string& training_model,
                                 const std::string& eval_model, const std::string& optimizer_model, at::Device device)
    : state_(state.impl_) {
  state_->collect();
  std::map<std::string, at::Tensor> given = state_->checkpoint.parameters;
  for (auto& [name, t] : given)
    if (t.is_meta()) t = at::Tensor();
  auto session = std::make_unique<Session>(training_model, eval_model, given, device);
  if (!optimizer_model.empty()) {
    session->set_optimizer(optimizer_model);
    session->set_optimizer_states(state_->checkpoint.optimizer);
    session->step = state_->checkpoint.step;
    if (state_->checkpoint.learning_rate) session->learning_rate = *state_->checkpoint.learning_rate;
  }
  state_->session = std::move(session);
}

TrainingSession::~TrainingSession() = default;

std::vector<at::Tensor> TrainingSession::TrainStep(const std::vector<at::Tensor>& inputs) {
  state_->check_ready();
  return state_->session->train_step(inputs);
}
std::vector<at::Tensor> TrainingSession::EvalStep(const std::vector<at::Tensor>& inputs) {
  state_->check_ready();
  return state_->session->eval_step(inputs);
}
void TrainingSession::LazyResetGrad() { state_->session->lazy_reset_grad(); }
void TrainingSession::OptimizerStep() { state_->session->optimizer_step(); }
void TrainingSession::SetLearningRate(float rate) { state_->session->learning_rate = rate; }
float TrainingSession::GetLearningRate() const { return static_cast<float>(state_->session->learning_rate); }

void TrainingSession::RegisterLinearLRScheduler(int64_t warmup_steps, int64_t total_steps, float initial_rate) {
  if (warmup_steps < 0 || warmup_steps > total_steps)
    fail(ErrorKind::kModel, "artifacts",
         "learning rate: got " + std::to_string(warmup_steps) + " warm-up steps, expected 0 to " +
             std::to_string(total_steps));
  warmup_ = warmup_steps;
  total_ = total_steps;
  initial_rate_ = initial_rate;
  SchedulerStep();
}

void TrainingSession::SchedulerStep() {
  if (total_ == 0) fail(ErrorKind::kModel, "artifacts", "there is no scheduler; call RegisterLinearLRScheduler first");
  const auto done = static_cast<double>(state_->session->step), warmup = static_cast<double>(warmup_),
             total = static_cast<double>(total_);
  const double share = done < warmup ? done / warmup : std::max(0.0, total - done) / std::max(1.0, total - warmup);
  state_->session->learning_rate = initial_rate_ * std::min(1.0, share);
}

void TrainingSession::ExportModelForInferencing(const std::string& path,
                                                const std::vector<std::string>& output_names) const {
  state_->check_ready();
  state_->session->export_for_inferencing(path, output_names);
}
std::vector<std::string> TrainingSession::InputNames(bool training) const {
  return state_->session->input_names(training);
}
std::vector<std::string> TrainingSession::OutputNames(bool training) const {
  return state_->session->output_names(training);
}
at::Tensor TrainingSession::ToBuffer(bool only_trainable) const {
  state_->check_ready();
  return state_->session->to_buffer(only_trainable);
}
void TrainingSession::FromBuffer(const at::Tensor& buffer, bool only_trainable) {
  const Session& session = *state_->session;
  if (!state_->ready && only_trainable && session.trainable().size() < session.parameter_names().size())
    fail(ErrorKind::kModel, "checkpoint",
         "the state is nominal: its first buffer must hold all parameters; give only_trainable=false");
  state_->session->from_buffer(buffer, only_trainable);
  state_->ready = true;
}

}  // namespace ortmod
