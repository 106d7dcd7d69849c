// The forward and backward graphs of one mode, and their plans per device.
#pragma once
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "exec/executable.h"
#include "exec/plan.h"
#include "grad/build.h"

namespace ortmod {

/// Where an input of the backward plan comes from.
struct Source {
  enum Kind : uint8_t { kSeed, kKept, kArg, kOutput } kind;
  int index;  // of the output, the kept value, the saved argument, the saved output
  int value;  // the forward plan's value (for its type)
};

/// The plans of one device with their sizes, least recently used last.
class DevicePlans {
 public:
  static constexpr size_t kMaxSizes = 256;
  DevicePlans(std::shared_ptr<Plan> f, std::shared_ptr<Plan> b) : forward(std::move(f)), backward(std::move(b)) {}
  const std::shared_ptr<Plan> forward, backward;
  std::vector<Source> sources;  // of backward's inputs

  std::shared_ptr<Sizes> find(at::TensorList args);
  std::shared_ptr<Sizes> find(at::IntArrayRef arg_dims);
  std::shared_ptr<Sizes> backward_sizes(Sizes& forward_sizes, const std::vector<at::Tensor>& inputs);

 private:
  std::shared_ptr<Sizes> find_key(std::vector<int64_t> key);
  std::shared_ptr<Sizes> make(const std::vector<int64_t>& key) const;
  bool matches(const Sizes& s, at::TensorList args) const;

  std::mutex mutex_;
  std::list<std::pair<std::vector<int64_t>, std::shared_ptr<Sizes>>> recent_;
  std::map<std::vector<int64_t>, decltype(recent_)::iterator> by_key_;
};

class PlanPair {
 public:
  PlanPair(std::shared_ptr<const Graph> base, const std::vector<std::string>& arg_weights, Mode mode);

  std::shared_ptr<DevicePlans> on(at::Device d);
  const Mode& mode() const { return mode_; }
  const Executable::Saved& saved() const { return saved_; }
  const std::vector<int>& updated() const { return updated_; }
  size_t n_outputs() const { return n_outputs_; }
  bool differentiable() const { return backward_ != nullptr; }
  const std::vector<std::string>& arg_names() const { return arg_names_; }
  /// The joint graph with random values as further inputs. Made from the base again: only double backward wants it.
  std::unique_ptr<Graph> joint_graph();
  /// The names of those inputs.
  const std::vector<std::string>& random_inputs();

 private:
  void differentiate_base(std::unique_ptr<Graph> g);
  void take_random_inputs(Graph& joint, std::vector<std::string>& names) const;

  Mode mode_;
  std::vector<std::string> arg_names_, arg_weights_;
  std::shared_ptr<const Graph> base_;
  std::shared_ptr<Graph> forward_, backward_;  // unchanged once made: plans share them
  GradientOptions options_;                    // of the joint graph
  std::vector<std::string> kept_, reads_, seeds_, output_names_;
  std::optional<std::vector<std::string>> random_;
  size_t n_outputs_ = 0, base_outputs_ = 0;
  std::vector<int> updated_;
  Executable::Saved saved_;
  std::mutex mutex_;
  std::vector<std::pair<at::Device, std::shared_ptr<DevicePlans>>> devices_;
};

}  // namespace ortmod
