// The tables of operators, one per family; registry.cpp lists them.
#pragma once
#include <vector>

#include "ops/op.h"

namespace ortmod {

using OpTable = std::vector<OpDef>;

OpTable pointwise_ops();
OpTable cast_ops();
OpTable compare_ops();
OpTable activation_ops();
OpTable reduce_ops();
OpTable cumulative_ops();
OpTable view_ops();
OpTable repeat_ops();
OpTable layout_ops();
OpTable slice_ops();
OpTable pad_ops();
OpTable gather_ops();
OpTable index_ops();
OpTable scatter_ops();
OpTable creation_ops();
OpTable matmul_ops();
OpTable einsum_ops();
OpTable conv_ops();
OpTable conv_transpose_ops();
OpTable pool_ops();
OpTable pool_mean_ops();
OpTable norm_ops();
OpTable batch_norm_ops();
OpTable group_norm_ops();
OpTable softmax_ops();
OpTable attention_ops();
OpTable loss_ops();
OpTable random_ops();
OpTable ml_ops();
OpTable sequence_ops();
OpTable control_ops();
OpTable fused_ops();
OpTable fused_matmul_ops();
OpTable fused_pointwise_ops();
OpTable engine_ops();
OpTable parts_ops();

}  // namespace ortmod
