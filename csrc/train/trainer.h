// The training loop: epochs over full data in C++, with weights and optimizer states in arenas that the steps update in
// place.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "train/feed.h"
#include "train/program.h"

namespace ortmod {

struct TrainerSpec {
  StepSpec step;
  /// inputs by name, each an optional double: epoch, update (both from 0), samples (rows seen before this epoch),
  /// plateaus (how often the loss stopped falling); output: the learning rate, double. Evaluated before each update if
  /// it reads update, else each epoch.
  GraphPtr schedule;
  at::Device device = at::kCPU;
};

struct FitOptions {
  int64_t epochs = 1;
  int64_t batch = 0;  // rows of a step; 0: all
  bool shuffle = true;
  int64_t accumulate = 1;         // batches of an update
  int64_t validate_every = 1;     // epochs
  double tol = 0;                 // an epoch that lowers the loss by less is no progress
  int64_t patience = 0;           // epochs without progress before a plateau is counted or the fit stops; 0: never
  bool watch_validation = false;  // progress of the validation loss instead of the training loss
  bool keep_best = false;         // ends with the weights of the best epoch
  double least_rate = 0;          // the fit stops when a plateau brings the rate to this
};

struct EpochReport {
  int64_t epoch = 0;  // from 0, over all fits
  double loss = 0, validation = std::numeric_limits<double>::quiet_NaN(), rate = 0;
  double gradient_norm = std::numeric_limits<double>::quiet_NaN();  // of the last update
  int64_t updates = 0;
};

enum class Stop { kEpochs, kCallback, kInterrupted, kPatience, kDiverged };

struct FitResult {
  std::vector<EpochReport> epochs;  // of this fit
  Stop stop = Stop::kEpochs;
  int64_t best = -1;  // index into epochs
};

/// What goes on from one fit to the next; everything that a resumed fit needs.
struct Progress {
  int64_t epoch = 0, updates = 0, samples = 0, plateaus = 0, without_progress = 0;
  double best = std::numeric_limits<double>::infinity();
  uint64_t seed = 0;
};

/// Calls of several threads wait for each other; a callback of a fit may call its trainer.
class Trainer {
 public:
  explicit Trainer(TrainerSpec spec);

  /// Names of the data columns, in order: the model's inputs, then a label per loss, then the weights of the rows.
  const std::vector<std::string>& columns() const { return update_->composed().columns; }
  const Type& column_type(size_t i) const { return update_->graph().inputs[i]->type; }
  const std::vector<ArenaPart>& parts() const { return update_->composed().parts; }

  /// Called after each epoch; false ends the fit.
  using OnEpoch = std::function<bool(const EpochReport&)>;
  /// Called now and then (at most every 50 ms or so); true ends the fit after the current step.
  using Interrupted = std::function<bool()>;
  /// When the loss is not finite, weights and states are those before the epoch (Stop::kDiverged).
  FitResult fit(const std::vector<at::Tensor>& columns, const std::vector<at::Tensor>& validation,
                const FitOptions& options, const OnEpoch& on_epoch, const Interrupted& interrupted);
  /// One update on one batch at this rate; the loss.
  double step(const std::vector<at::Tensor>& columns, double rate);
  /// Mean loss (with penalties), and the weighted losses of the rows if the loss has them; no update.
  double loss(const std::vector<at::Tensor>& columns, at::Tensor* scores = nullptr);
  /// The model's outputs with the current weights.
  std::vector<at::Tensor> outputs(const std::vector<at::Tensor>& inputs);

  /// A trained weight of the arena, a view; its dtype is the arena's.
  at::Tensor weight(const std::string& name) const {
    pristine_ = false;
    return piece(parameters_, name);
  }
  void set_weight(const std::string& name, const at::Tensor& value);
  const std::vector<std::string>& states() const { return update_->composed().states; }
  at::Tensor state(const std::string& state, const std::string& weight) const {
    pristine_ = false;
    return piece(fixed_.at(state), weight);
  }
  /// Running statistics by name.
  const std::vector<std::string>& buffers() const { return update_->composed().buffers; }

  /// All tensors that change: parameters, states, running statistics. Live, not copies.
  std::map<std::string, at::Tensor> tensors() const;
  Progress progress;

  /// For reports and tests: the composed graph, and the steps (operator, through ATen) of the last full batch.
  const Graph& graph() const { return update_->graph(); }
  const std::vector<std::pair<std::string, bool>>& steps() const { return steps_; }
  bool flat() const { return update_->composed().flat; }

 private:
  struct Snapshot {
    std::vector<at::Tensor> tensors;
    Progress progress;
  };

  at::Tensor piece(const at::Tensor& arena, const std::string& name) const;
  Program& program(std::unique_ptr<Program>& slot, StepKind kind);
  std::vector<at::Tensor> checked(const std::vector<at::Tensor>& columns, const Program& p) const;
  double next_rate(int64_t samples);
  void save(Snapshot& s) const;
  /// Are all weights finite? Asked after every epoch.
  bool finite() const;
  void restore(const Snapshot& s);
  /// Weights and running statistics of the model, states of zeros.
  void reset();
  double mean_loss(Program& p, const std::vector<at::Tensor>& columns, at::Tensor* scores);

  std::recursive_mutex mutex_;
  TrainerSpec spec_;
  std::unique_ptr<Program> update_, accumulate_, update_accumulated_, loss_, outputs_;
  at::Tensor parameters_;
  std::map<std::string, at::Tensor> fixed_;
  std::vector<at::Tensor> live_;   // those of tensors(), in its order
  mutable bool pristine_ = false;  // nobody saw or changed weights and states since they were made from the model
  std::unique_ptr<Scalar> rate_, step_;
  std::vector<std::pair<std::string, bool>> steps_;

  // The schedule's plan, and the numbers it reads and writes.
  std::shared_ptr<Plan> schedule_;
  std::shared_ptr<Sizes> schedule_sizes_;
  std::unique_ptr<Frame> schedule_frame_;
  at::Tensor schedule_scratch_;
  double clock_[4] = {}, rate_value_ = 0;
  bool per_update_ = false, reads_plateaus_ = false;
};

}  // namespace ortmod
