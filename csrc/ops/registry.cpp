// The list of all operator tables and look-up by interned name.
#include "ops/registry.h"

#include <unordered_map>

#include "ops/pointwise_program.h"

namespace ortmod {
namespace {

struct Registry {
  std::vector<OpTable> tables;
  std::vector<const OpDef*> all;
  std::unordered_map<Op, const OpDef*> by_op;

  Registry() {
    // clang-format off
    constexpr OpTable (*kFamilies[])() = {
        pointwise_ops,
        cast_ops,
        compare_ops,
        activation_ops,
        reduce_ops,
        cumulative_ops,
        view_ops,
        repeat_ops,
        layout_ops,
        slice_ops,
        pad_ops,
        gather_ops,
        index_ops,
        scatter_ops,
        creation_ops,
        matmul_ops,
        einsum_ops,
        conv_ops,
        conv_transpose_ops,
        pool_ops,
        pool_mean_ops,
        norm_ops,
        batch_norm_ops,
        group_norm_ops,
        softmax_ops,
        attention_ops,
        loss_ops,
        random_ops,
        ml_ops,
        sequence_ops,
        control_ops,
        fused_ops,
        fused_matmul_ops, fused_pointwise_ops,
        engine_ops,
        parts_ops,
    };
    // clang-format on
    for (const auto make : kFamilies) tables.push_back(make());
    for (OpTable& t : tables)
      for (OpDef& d : t) {
        if (!d.bind && d.pointwise != Pw::kNone) d.bind = bind_pointwise;
        all.push_back(&d);
        by_op.emplace(intern(d.domain, d.name), &d);
      }
  }
};

const Registry& registry() {
  static const Registry r;
  return r;
}

}  // namespace

const OpDef* find_op(Op op) {
  const auto& m = registry().by_op;
  const auto it = m.find(op);
  return it == m.end() ? nullptr : it->second;
}

std::span<const OpDef* const> all_ops() { return registry().all; }

Grads no_grad(const Grad& g) { return Grads(g.num_inputs()); }

}  // namespace ortmod
