// A plan: the immutable program of one graph on one device; Sizes: the same program with known dimensions, places and
// steps.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "exec/buffer.h"
#include "graph/graph.h"
#include "ops/kernel.h"
#include "ops/op.h"
#include "ops/step.h"

namespace ortmod {

class Frame;
struct Sizes;

/// Entries of the table of base pointers; inputs, outputs and constants follow.
enum Base : int32_t { kFrame = 0, kScratch = 1, kStepScratch = 2, kKept = 3, kFirstInput = 4 };

class Plan : public std::enable_shared_from_this<Plan> {
 public:
  struct Item {
    const Node* node = nullptr;
    const OpDef* def = nullptr;
    mutable Kernel kernel;  // made when first needed: see general_kernel
    int first_out = 0;      // outputs are consecutive values
    SmallVec<int, 4> in;    // value, -1: absent
    uint32_t wanted = 0;    // bit o: output o is declared
  };

  /// An output that replaces an input's elements: both are bound to the same memory, and the output is computed in
  /// place where every reader of the input has run by then (else it is copied at the end).
  struct Donation {
    size_t input, output;
  };
  /// `n_outputs`: outputs that the caller receives; the rest of the graph's outputs are kept values.
  static std::shared_ptr<Plan> make(std::unique_ptr<Graph> graph, size_t n_outputs,
                                    std::vector<std::string> input_names, at::Device device,
                                    const std::vector<Donation>& donations = {});
  /// The same of a graph that went through prepare() and may be shared between plans.
  static std::shared_ptr<Plan> make(std::shared_ptr<const Graph> graph, size_t n_outputs,
                                    std::vector<std::string> input_names, at::Device device,
                                    const std::vector<Donation>& donations = {});
  /// Operators without a kernel give way to their bodies.
  static void prepare(Graph& g);

  const Graph& graph() const { return *graph_; }
  at::Device device() const { return device_; }
  const std::vector<Item>& items() const { return items_; }
  /// Makes the general kernel of an item, for a step that runs it.
  void general_kernel(const Item& item) const;
  size_t num_inputs() const { return inputs_.size(); }
  size_t num_outputs() const { return n_outputs_; }
  size_t num_values() const { return n_values_; }
  const std::vector<int>& outputs() const { return outputs_; }  // values, kept ones last
  /// The input whose memory output i replaces, or -1.
  int donor(size_t i) const { return donors_[i]; }
  const Type& input_type(size_t i) const { return inputs_[i]->type; }
  const std::string& input_name(size_t i) const { return inputs_[i]->name; }
  int value_id(std::string_view name) const;

  int first_const() const { return static_cast<int>(inputs_.size()); }
  const std::vector<at::Tensor>& constants() const { return constants_; }            // on the device
  const std::vector<at::Tensor>& host_constants() const { return host_constants_; }  // on the CPU
  const std::vector<Literal const*>& literals() const { return literals_; }
  const std::vector<std::optional<HostInts>>& const_ints() const { return const_ints_; }

  int32_t base_of_input(size_t i) const { return kFirstInput + static_cast<int32_t>(i); }
  int32_t base_of_output(size_t i) const { return kFirstInput + static_cast<int32_t>(inputs_.size() + i); }
  int32_t base_of_const(size_t i) const { return kFirstInput + static_cast<int32_t>(inputs_.size() + n_outputs_ + i); }
  size_t num_bases() const { return static_cast<size_t>(base_of_const(constants_.size())); }

  /// Sizes for these input types (known dims; kAnyDim only where data-dependent); `ints`: host-known integers of
  /// inputs.
  /// `compiled`: neighbouring steps over a few elements become machine code (worth it for sizes that run many times).
  std::shared_ptr<Sizes> size(const std::vector<Type>& inputs, const std::vector<const HostInts*>& ints,
                              bool compiled = false) const;
  /// Types of all values for these inputs (dims may be symbolic).
  std::vector<Type> infer(const std::vector<Type>& inputs) const;
  /// Types of the kept tensors of a call: the bytes of all whose dims follow from the inputs', then the others.
  std::vector<Type> kept_types(const std::vector<Type>& inputs) const;
  BufferPool& scratch_pool() const { return *scratch_pool_; }
  const std::shared_ptr<BufferPool>& kept_pool() const { return kept_pool_; }

 private:
  Plan() : device_(at::kCPU) {}
  std::shared_ptr<const Graph> graph_;
  at::Device device_;
  size_t n_outputs_ = 0, n_values_ = 0;
  std::vector<const Value*> inputs_;
  std::vector<Item> items_;
  std::vector<int> outputs_, donors_;
  PointerMap<Value, int> ids_;
  std::vector<at::Tensor> constants_, host_constants_;
  std::vector<const Literal*> literals_;
  std::vector<std::optional<HostInts>> const_ints_;
  std::shared_ptr<BufferPool> scratch_pool_, kept_pool_;
  mutable std::mutex kernels_;
};

/// Where a value lives for known dimensions.
enum class Place : uint8_t { kNone, kBase, kSlot, kHost };

struct Sizes {
  explicit Sizes(std::shared_ptr<const Plan> p);
  ~Sizes();
  std::shared_ptr<const Plan> plan;
  std::vector<Type> types;        // per value
  std::vector<HostIntsPtr> ints;  // per value, of computed ones
  std::vector<Place> places;
  std::vector<Operand> operands;
  StepList list;
  std::vector<int> step_item;                 // item of each step, -1: copy to an output
  std::map<size_t, std::vector<int>> joined;  // of compiled chains: the items of all their steps
  int64_t scratch_bytes = 0, kept_bytes = 0;
  std::vector<uint8_t> by_kernel;  // per step: it goes through ATen
  bool has_kernels = false;
  bool any_slot = false;
  std::vector<int> slot_outputs;  // outputs (indices) that are slots
  std::vector<int> kept_slots;    // kept values that are slots

  const HostInts* host(int v) const;

  // Idle frames, for reuse.
  std::mutex mutex;
  std::vector<std::unique_ptr<Frame>> idle;
  // The backward plan's sizes that go with these (set by PlanPair).
  std::shared_ptr<Sizes> backward;
};

}  // namespace ortmod
