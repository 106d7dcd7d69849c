// Making a trainer: arenas, the schedule's plan, weights in and out, evaluation.
#include "train/trainer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "passes/pass.h"
#include "train/arena.h"

namespace ortmod {
namespace {

at::Tensor tensor_of(const Literal& l) {
  const std::vector<int64_t> sizes(l.dims().begin(), l.dims().end());
  return at::from_blob(const_cast<void*>(l.data()), sizes, at::TensorOptions().dtype(to_scalar_type(l.dtype())));
}

std::vector<std::vector<int64_t>> dims_of(const std::vector<at::Tensor>& tensors) {
  std::vector<std::vector<int64_t>> r;
  for (const at::Tensor& t : tensors) r.push_back(t.sizes().vec());
  return r;
}

/// The mean loss of the last run, on any device.
double host_loss(const Program& p, const Program::Run& r, int64_t rows) {
  if (r.outputs[0].is_cpu()) {
    const Program::Loss l = p.read_sum(r, rows);
    return l.sum / l.rows;
  }
  const auto number = [&](const char* role, double fallback) {
    const int o = p.output(role);
    return o < 0 ? fallback : r.outputs[static_cast<size_t>(o)].item<double>();
  };
  const double sum = number("loss", 0), n = number("rows", static_cast<double>(rows));
  return (p.composed().divides ? sum / n : sum) + number("penalty", 0);
}

constexpr size_t kSmallBytes = 1 << 18;  // below, plain loops instead of ATen
constexpr const char* kClock[] = {"epoch", "update", "samples", "plateaus"};

}  // namespace

Trainer::Trainer(TrainerSpec spec) : spec_(std::move(spec)) {
  const at::Device device = spec_.device;
  program(update_, StepKind::kUpdate);
  const Composed& c = update_->composed();
  const at::TensorOptions options = at::TensorOptions().dtype(to_scalar_type(c.arena)).device(device);
  parameters_ = arena({c.arena_size}, options);
  fixed_["parameters"] = parameters_;
  for (const std::string& s : c.states) fixed_[s] = arena({c.arena_size}, options);
  for (const std::string& b : c.buffers) fixed_[b] = tensor_of(*spec_.step.model->find(b)->literal).clone().to(device);
  for (const auto& [name, t] : tensors()) live_.push_back(t);
  reset();
  rate_ = std::make_unique<Scalar>(c.arena, device);
  step_ = std::make_unique<Scalar>(DType::kDouble, device);
  fixed_["learning_rate"] = rate_->tensor();
  fixed_["step"] = step_->tensor();

  auto g = spec_.schedule->clone();
  std::vector<std::string> names;
  for (Value* v : g->inputs) {
    if (std::find(std::begin(kClock), std::end(kClock), v->name) == std::end(kClock) || v->type.dtype != DType::kDouble)
      fail(ErrorKind::kModel, "compose",
           "the schedule \"" + g->name + "\" has an input that nothing is known of: got " + v->name + " of type " +
               to_string(v->type) + ", expected some of epoch, update, samples, plateaus, all double");
    v->type = Type(DType::kDouble, {});
    const bool read = !v->uses.empty();
    per_update_ = per_update_ || (read && v->name == "update");
    reads_plateaus_ = reads_plateaus_ || (read && v->name == "plateaus");
    names.push_back(v->name);
  }
  if (g->outputs.size() != 1)
    fail(ErrorKind::kModel, "compose", "the schedule \"" + g->name + "\" must have one output, the learning rate");
  infer_all(*g);
  if (g->outputs[0]->type.dtype != DType::kDouble ||
      (g->outputs[0]->type.has_rank && numel(g->outputs[0]->type.dims) != 1))
    fail(ErrorKind::kType, "compose",
         "the schedule \"" + g->name + "\" must give one double: got " + to_string(g->outputs[0]->type));
  optimise(*g);
  schedule_ = Plan::make(std::move(g), 1, names, at::kCPU);
  schedule_sizes_ = schedule_->size(std::vector<Type>(names.size(), Type(DType::kDouble, {})),
                                    std::vector<const HostInts*>(names.size()));
  schedule_frame_ = std::make_unique<Frame>(*schedule_sizes_);
  const int64_t own = (schedule_sizes_->list.scratch_bytes() + 63) / 64 * 64;
  schedule_scratch_ = at::empty({own + schedule_sizes_->scratch_bytes + 64}, at::kByte);
  char* base = static_cast<char*>(schedule_scratch_.mutable_data_ptr());
  schedule_frame_->bind(kStepScratch, base);
  schedule_frame_->bind(kScratch, base + own);
  for (size_t i = 0; i < names.size(); ++i)
    schedule_frame_->bind(schedule_->base_of_input(i),
                          &clock_[std::find(std::begin(kClock), std::end(kClock), names[i]) - std::begin(kClock)]);
  schedule_frame_->bind(schedule_->base_of_output(0), &rate_value_);
}

Program& Trainer::program(std::unique_ptr<Program>& slot, StepKind kind) {
  if (!slot) slot = std::make_unique<Program>(compose(spec_.step, kind), spec_.device);
  if ((kind == StepKind::kAccumulate || kind == StepKind::kUpdateAccumulated) && !fixed_.contains("accumulated")) {
    const bool wide = parameters_.scalar_type() == at::kDouble;
    fixed_["accumulated"] = at::zeros_like(parameters_);
    fixed_["accumulated_rows"] = at::zeros({}, parameters_.options().dtype(wide ? at::kDouble : at::kFloat));
  }
  return *slot;
}

at::Tensor Trainer::piece(const at::Tensor& arena, const std::string& name) const {
  for (const ArenaPart& p : update_->composed().parts)
    if (p.name == name)
      return arena.narrow(0, p.offset, numel(p.type.dims))
          .view(at::IntArrayRef(p.type.dims.data(), p.type.dims.size()));
  fail(ErrorKind::kModel, "train", "no trained weight of the name \"" + name + "\"");
}

void Trainer::set_weight(const std::string& name, const at::Tensor& value) {
  const at::Tensor to = weight(name);
  if (to.sizes() != value.sizes())
    fail(ErrorKind::kShape, "train",
         "wrong shape of \"" + name + "\": got " + to_string(Dims(value.sizes().begin(), value.sizes().end())) +
             ", expected " + to_string(Dims(to.sizes().begin(), to.sizes().end())));
  to.copy_(value);
}

std::map<std::string, at::Tensor> Trainer::tensors() const {
  pristine_ = false;
  std::map<std::string, at::Tensor> r;
  r["parameters"] = parameters_;
  for (const std::string& s : states()) r[s] = fixed_.at(s);
  for (const std::string& b : buffers()) r[b] = fixed_.at(b);
  return r;
}

void Trainer::reset() {
  for (const std::string& s : states()) clear_arena(fixed_.at(s));
  for (const std::string& b : buffers()) fixed_.at(b).copy_(tensor_of(*spec_.step.model->find(b)->literal));
  for (const ArenaPart& p : parts()) set_weight(p.name, tensor_of(*spec_.step.model->find(p.name)->literal));
  pristine_ = true;
}

void Trainer::save(Snapshot& s) const {
  if (s.tensors.empty())
    for (const at::Tensor& t : live_) s.tensors.push_back(arena(t.sizes(), t.options()));
  for (size_t k = 0; k < live_.size(); ++k) copy_arena(s.tensors[k], live_[k]);
  s.progress = progress;
}

void Trainer::restore(const Snapshot& s) {
  if (s.tensors.empty()) reset();
  for (size_t k = 0; k < s.tensors.size(); ++k) at::Tensor(live_[k]).copy_(s.tensors[k]);
  progress = s.progress;
}

bool Trainer::finite() const {
  if (!parameters_.is_cpu() || parameters_.nbytes() >= kSmallBytes || !parameters_.is_floating_point() ||
      parameters_.element_size() < 4)
    return std::isfinite(parameters_.sum().item<double>());
  const auto sum = [n = parameters_.numel()](const auto* p) {
    double s[4] = {};
    for (int64_t i = 0; i < n; ++i) s[i & 3] += p[i];
    return s[0] + s[1] + s[2] + s[3];
  };
  return std::isfinite(parameters_.element_size() == 4 ? sum(parameters_.const_data_ptr<float>())
                                                       : sum(parameters_.const_data_ptr<double>()));
}

double Trainer::next_rate(int64_t samples) {
  clock_[0] = static_cast<double>(progress.epoch);
  clock_[1] = static_cast<double>(progress.updates);
  clock_[2] = static_cast<double>(samples);
  clock_[3] = static_cast<double>(progress.plateaus);
  run(*schedule_sizes_, *schedule_frame_);
  rate_->set(rate_value_);
  return rate_value_;
}

std::vector<at::Tensor> Trainer::checked(const std::vector<at::Tensor>& columns, const Program& p) const {
  const std::vector<std::string>& names = p.composed().columns;
  if (columns.size() != names.size()) {
    std::string list;
    for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
    fail(ErrorKind::kShape, "train",
         "wrong number of data columns: got " + std::to_string(columns.size()) + ", expected " +
             std::to_string(names.size()) + " (" + list + ")");
  }
  std::vector<at::Tensor> r;
  for (size_t i = 0; i < columns.size(); ++i) {
    const at::Tensor& t = columns[i];
    const DType want = p.graph().inputs[i]->type.dtype;
    if (t.dim() == 0) fail(ErrorKind::kShape, "train", "\"" + names[i] + "\" has no rows: got a single number");
    if (to_scalar_type(want) != t.scalar_type())
      fail(ErrorKind::kType, "train",
           "wrong element type of \"" + names[i] + "\": got " +
               std::string(dtype_name(from_scalar_type(t.scalar_type()))) + ", expected " +
               std::string(dtype_name(want)));
    if (t.size(0) != columns[0].size(0))
      fail(ErrorKind::kShape, "train",
           "\"" + names[i] + "\" has another number of rows: got " + std::to_string(t.size(0)) + ", expected " +
               std::to_string(columns[0].size(0)));
    if (t.size(0) == 0) fail(ErrorKind::kShape, "train", "\"" + names[i] + "\" has no rows");
    r.push_back(t.to(spec_.device).contiguous());
  }
  return r;
}

double Trainer::mean_loss(Program& p, const std::vector<at::Tensor>& columns, at::Tensor* scores) {
  Program::Run& r = p.at(dims_of(columns), fixed_);
  for (size_t i = 0; i < columns.size(); ++i) p.bind(r, i, static_cast<char*>(columns[i].data_ptr()));
  p.run(r);
  const double loss = host_loss(p, r, columns[0].size(0));
  const int at = p.output("scores");
  if (scores && at >= 0) *scores = r.outputs[static_cast<size_t>(at)].clone();
  return loss;
}

double Trainer::loss(const std::vector<at::Tensor>& columns, at::Tensor* scores) {
  const std::lock_guard lock(mutex_);
  Program& p = program(loss_, StepKind::kLoss);
  const double r = mean_loss(p, checked(columns, p), scores);
  p.clear();
  return r;
}

std::vector<at::Tensor> Trainer::outputs(const std::vector<at::Tensor>& inputs) {
  const std::lock_guard lock(mutex_);
  Program& p = program(outputs_, StepKind::kOutputs);
  const std::vector<at::Tensor> columns = checked(inputs, p);
  Program::Run& r = p.at(dims_of(columns), fixed_);
  for (size_t i = 0; i < columns.size(); ++i) p.bind(r, i, static_cast<char*>(columns[i].data_ptr()));
  p.run(r);
  std::vector<at::Tensor> out = r.outputs;
  p.clear();
  return out;
}

double Trainer::step(const std::vector<at::Tensor>& given, double rate) {
  const std::lock_guard lock(mutex_);
  pristine_ = false;
  const std::vector<at::Tensor> columns = checked(given, *update_);
  Program::Run& r = update_->at(dims_of(columns), fixed_);
  steps_ = update_->steps(r);
  for (size_t i = 0; i < columns.size(); ++i) update_->bind(r, i, static_cast<char*>(columns[i].data_ptr()));
  rate_->set(rate);
  ++progress.updates;
  progress.samples += columns[0].size(0);
  step_->set(static_cast<double>(progress.updates));
  update_->run(r);
  return host_loss(*update_, r, columns[0].size(0));
}

}  // namespace ortmod
