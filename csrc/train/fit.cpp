// The epoch loop. Per step: the addresses of the batch, a learning rate if it changes, the steps of the plan, a look at
// the loss.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <chrono>
#include <cmath>

#include "train/trainer.h"

namespace ortmod {
namespace {

/// Asks from time to time whether to stop; the clock is read every so many steps only.
class Watch {
 public:
  explicit Watch(const Trainer::Interrupted& f) : f_(f), then_(Clock::now()) {}
  bool operator()() {
    if (--left_ > 0) return false;
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - then_).count();
    if (seconds < 0.02) {
      every_ = std::min<int64_t>(every_ * 2, int64_t{1} << 20);
    } else if (seconds > 0.05) {
      every_ = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(every_) * 0.04 / seconds));
    }
    left_ = every_;
    then_ = now;
    return f_ && f_();
  }

 private:
  using Clock = std::chrono::steady_clock;
  const Trainer::Interrupted& f_;
  int64_t every_ = 1, left_ = 1;
  Clock::time_point then_;
};

std::vector<std::vector<int64_t>> batch_dims(const std::vector<at::Tensor>& columns, int64_t rows) {
  std::vector<std::vector<int64_t>> r;
  for (const at::Tensor& t : columns) {
    r.push_back(t.sizes().vec());
    r.back()[0] = rows;
  }
  return r;
}

/// The sum of the losses of an epoch, weighted by rows; on other devices than the CPU it is read at the end only.
class Total {
 public:
  explicit Total(bool on_host) : on_host_(on_host) {}
  void add(const Program& p, const Program::Run& r, int64_t rows) {
    if (!on_host_) return add_tensors(p, r, rows);
    const Program::Loss l = p.read_sum(r, rows);
    last_ = l.sum;
    sum_ += l.sum;
    rows_ += l.rows;
  }
  bool finite() const { return std::isfinite(last_); }
  double mean() const {
    if (device_sum_.defined()) return (device_sum_ / device_rows_).item<double>();
    return rows_ > 0 ? sum_ / rows_ : 0;
  }

 private:
  void add_tensors(const Program& p, const Program::Run& r, int64_t rows) {
    const auto number = [&](const char* role) {
      const int o = p.output(role);
      // A copy: the next step writes the outputs again.
      return o < 0 ? at::Tensor() : r.outputs[static_cast<size_t>(o)].to(at::kDouble, false, /*copy=*/true);
    };
    at::Tensor sum = number("loss"), n = number("rows");
    const at::Tensor penalty = number("penalty");
    if (!n.defined()) n = at::full_like(sum, static_cast<double>(rows));
    if (!p.composed().divides) sum = sum * n;
    if (penalty.defined()) sum = sum + penalty * n;
    device_sum_ = device_sum_.defined() ? device_sum_ + sum : sum;
    device_rows_ = device_rows_.defined() ? device_rows_ + n : n;
  }

  bool on_host_;
  double sum_ = 0, rows_ = 0, last_ = 0;
  at::Tensor device_sum_, device_rows_;
};

}  // namespace

FitResult Trainer::fit(const std::vector<at::Tensor>& given, const std::vector<at::Tensor>& given_validation,
                       const FitOptions& o, const OnEpoch& on_epoch, const Interrupted& interrupted) {
  const std::lock_guard lock(mutex_);
  const c10::OptionalDeviceGuard guard(spec_.device);
  const std::vector<at::Tensor> columns = checked(given, *update_);
  Feed feed(columns, o.batch);
  const size_t n_columns = columns.size();
  const bool accumulates = o.accumulate > 1;
  Program& main = accumulates ? program(update_accumulated_, StepKind::kUpdateAccumulated) : *update_;
  Program* adds = accumulates ? &program(accumulate_, StepKind::kAccumulate) : nullptr;
  for (Program* p : {update_.get(), accumulate_.get(), update_accumulated_.get(), loss_.get()})
    if (p) p->forget_many();
  const int64_t tail = feed.rows() % feed.batch();
  Program::Run* full = &main.at(batch_dims(columns, feed.batch()), fixed_);
  Program::Run* part = tail ? &main.at(batch_dims(columns, tail), fixed_) : nullptr;
  Program::Run* add_full = adds ? &adds->at(batch_dims(columns, feed.batch()), fixed_) : nullptr;
  steps_ = main.steps(*full);
  const int norm_output = main.output("gradient_norm");
  const auto& fixed = main.composed().fixed;
  const bool reads_step = std::find(fixed.begin(), fixed.end(), "step") != fixed.end();
  const int64_t batches = (feed.rows() + feed.batch() - 1) / feed.batch();
  std::vector<at::Tensor> validation;
  if (!given_validation.empty()) validation = checked(given_validation, program(loss_, StepKind::kLoss));

  FitResult result;
  Snapshot before, best;
  double best_loss = std::numeric_limits<double>::infinity();
  Watch watch(interrupted);
  for (int64_t e = 0; e < o.epochs; ++e) {
    if (pristine_) {  // the model itself is what there is to go back to
      before.progress = progress;
      pristine_ = false;
    } else {
      save(before);
    }
    const auto forget = [&] {
      fixed_["accumulated"].zero_();
      fixed_["accumulated_rows"].zero_();
    };
    if (accumulates) forget();
    const int64_t samples = progress.samples;
    feed.start(o.shuffle, progress.seed, progress.epoch);
    double rate = per_update_ ? 0 : next_rate(samples);
    Total total(spec_.device.is_cpu());
    Program::Run* last = full;
    int64_t waiting = 0, at_batch = 0;  // gradients that are summed up
    bool stopped = false;
    while (const int64_t rows = feed.next()) {
      ++at_batch;
      const bool add_only = accumulates && waiting + 1 < o.accumulate && at_batch < batches;
      Program& p = add_only ? *adds : main;
      Program::Run& r = add_only ? *add_full : rows == feed.batch() ? *full : *part;
      for (size_t c = 0; c < n_columns; ++c) p.bind(r, c, feed.column(c));
      if (add_only) {
        ++waiting;
      } else {
        if (per_update_) rate = next_rate(samples);
        ++progress.updates;
        if (reads_step) step_->set(static_cast<double>(progress.updates));
        last = &r;
      }
      p.run(r);
      progress.samples += rows;
      if (accumulates && !add_only) {
        forget();
        waiting = 0;
      }
      total.add(p, r, rows);
      if (!total.finite()) break;
      if (watch()) {
        stopped = true;
        break;
      }
    }
    EpochReport report;
    report.epoch = progress.epoch;
    report.rate = rate;
    report.loss = total.mean();
    report.updates = progress.updates;
    if (!total.finite() || !std::isfinite(report.loss) || !finite()) {
      restore(before);
      result.epochs.push_back(report);
      result.stop = Stop::kDiverged;
      break;
    }
    if (stopped) {
      result.stop = Stop::kInterrupted;
      break;
    }
    ++progress.epoch;
    if (norm_output >= 0) report.gradient_norm = last->outputs[static_cast<size_t>(norm_output)].item<double>();
    if (!validation.empty() && o.validate_every > 0 && (e + 1) % o.validate_every == 0)
      report.validation = mean_loss(*loss_, validation, nullptr);
    result.epochs.push_back(report);

    const double watched = o.watch_validation ? report.validation : report.loss;
    if (!std::isnan(watched)) {
      if (o.keep_best && watched < best_loss) {
        best_loss = watched;
        result.best = static_cast<int64_t>(result.epochs.size()) - 1;
        save(best);
      }
      progress.without_progress = watched > progress.best - o.tol ? progress.without_progress + 1 : 0;
      progress.best = std::min(progress.best, watched);
    }
    if (on_epoch && !on_epoch(report)) {
      result.stop = Stop::kCallback;
      break;
    }
    if (o.patience > 0 && progress.without_progress > o.patience) {
      progress.without_progress = 0;
      if (reads_plateaus_ && rate > o.least_rate) {
        ++progress.plateaus;
      } else {
        result.stop = Stop::kPatience;
        break;
      }
    }
  }
  if (o.keep_best && result.best >= 0 && result.stop != Stop::kDiverged) {
    const Progress now = progress;
    restore(best);
    progress = now;
  }
  return result;
}

}  // namespace ortmod
