// A composed graph as a plan, with one frame for each set of data dimensions that stays bound for a whole fit.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/frame.h"
#include "train/compose.h"

namespace ortmod {

/// One number in memory that steps read.
class Scalar {
 public:
  Scalar(DType t, at::Device d);
  void set(double v);
  void* data() const { return data_; }
  const at::Tensor& tensor() const { return tensor_; }

 private:
  at::Tensor tensor_;
  void* data_;
  DType type_;
};

double read_other_number(const void* data, DType t);
inline double read_number(const void* data, DType t) {
  if (t == DType::kFloat) return *static_cast<const float*>(data);
  if (t == DType::kDouble) return *static_cast<const double*>(data);
  return read_other_number(data, t);
}

class Program {
 public:
  Program(Composed c, at::Device device);

  /// What the plan of one set of column dimensions works on.
  struct Run {
    std::shared_ptr<Sizes> sizes;
    std::unique_ptr<Frame> frame;
    at::Tensor scratch;
    std::vector<at::Tensor> outputs;  // those that replace an input: that tensor
    std::unique_ptr<Scalar> rows, inverse_rows;
    std::vector<int32_t> column_base;  // -1: not read from memory
    bool slots = false;
    // The numbers of the loss: its sum, the weights' sum and the penalties (null: none), on any device.
    const void *loss = nullptr, *weights = nullptr, *penalty = nullptr;
    DType loss_type = DType::kUndefined;
  };
  /// The loss of the last run times its rows (or their weights); read on the host.
  struct Loss {
    double sum, rows;
  };
  Loss read_sum(const Run& r, int64_t rows) const {
    const double n = r.weights ? read_number(r.weights, r.loss_type) : static_cast<double>(rows);
    const double loss = read_number(r.loss, r.loss_type);
    return {(c_.divides ? loss : loss * n) + (r.penalty ? n * read_number(r.penalty, r.loss_type) : 0), n};
  }
  /// `fixed`: tensor by name of every fixed input but rows and inverse_rows. Frames are kept until clear().
  Run& at(const std::vector<std::vector<int64_t>>& column_dims, const std::map<std::string, at::Tensor>& fixed);
  void clear() { runs_.clear(); }
  /// Clears when there are frames of many dimensions.
  void forget_many() {
    if (runs_.size() > 6) clear();
  }

  void bind(Run& r, size_t column, char* data) const {
    if (r.column_base[column] >= 0) r.frame->bind(r.column_base[column], data);
  }
  void bind_output(Run& r, size_t output, void* data) const { r.frame->bind(plan_->base_of_output(output), data); }
  void run(Run& r) const;
  const Composed& composed() const { return c_; }
  /// Index of an output by its role, -1: none.
  int output(const std::string& role) const;
  const Graph& graph() const { return plan_->graph(); }
  /// Names of steps for reports: (operator, through ATen).
  std::vector<std::pair<std::string, bool>> steps(const Run& r) const;

 private:
  Composed c_;
  std::shared_ptr<Plan> plan_;
  std::map<std::vector<std::vector<int64_t>>, Run> runs_;
};

}  // namespace ortmod
