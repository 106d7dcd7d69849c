// Neighbouring noted steps are compiled together; those that cannot be are tried in halves.
#include "exec/chains.h"

#include <unordered_map>

#include "kernels/cpu/chain.h"

namespace ortmod {
namespace {

class Chains {
 public:
  explicit Chains(Sizes& s) : s_(s) {
    for (const StepList::Note& n : s.list.notes) ops_[n.args] = n.op;
  }

  void run() {
    const size_t n = s_.list.steps.size();
    for (size_t i = 0; i < n;) {
      size_t end = i;
      while (end < n && op(end) && op(end)->type == op(i)->type) ++end;
      if (end > i) {
        compile(i, end);
        i = end;
      } else {
        keep(i++);
      }
    }
    s_.list.steps = std::move(steps_);
    s_.step_item = std::move(item_);
    s_.by_kernel = std::move(by_kernel_);
    s_.list.notes.clear();
  }

 private:
  const cpu::ChainOp* op(size_t i) const {
    const auto it = ops_.find(s_.list.steps[i].args);
    return it == ops_.end() ? nullptr : it->second;
  }

  void keep(size_t i) {
    steps_.push_back(s_.list.steps[i]);
    item_.push_back(s_.step_item[i]);
    by_kernel_.push_back(s_.by_kernel[i]);
  }

  void compile(size_t begin, size_t end) {
    std::vector<const cpu::ChainOp*> ops;
    for (size_t i = begin; i < end; ++i) ops.push_back(op(i));
    if (cpu::Chain c = cpu::compile_chain(ops); c.fn) {
      for (size_t i = begin; i < end; ++i) s_.joined[steps_.size()].push_back(s_.step_item[i]);
      steps_.push_back({c.fn, nullptr});
      item_.push_back(s_.step_item[begin]);
      by_kernel_.push_back(0);
      s_.list.owned.push_back(std::move(c.memory));
    } else if (end - begin == 1) {
      keep(begin);
    } else {
      compile(begin, begin + (end - begin) / 2);
      compile(begin + (end - begin) / 2, end);
    }
  }

  Sizes& s_;
  std::unordered_map<const void*, const cpu::ChainOp*> ops_;
  std::vector<Step> steps_;
  std::vector<int> item_;
  std::vector<uint8_t> by_kernel_;
};

}  // namespace

void compile_chains(Sizes& s) {
  if (!s.list.notes.empty()) Chains(s).run();
}

}  // namespace ortmod
