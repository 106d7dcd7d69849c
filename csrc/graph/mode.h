// Train and eval: how BatchNormalization and Dropout behave.
#pragma once
#include <string>
#include <unordered_set>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

/// A running statistic (an initializer) and the value it takes after a forward in training mode.
struct BufferUpdate {
  Value* weight;
  Value* new_value;
};

/// Switches Dropout and BatchNormalization of the graph and its sub-graphs; false gives the inference form. Types of
/// new values are set. New running statistics follow torch: momentum as in ONNX, the variance unbiased. A
/// BatchNormalization whose running mean or variance is named in `frozen` normalises with its running statistics in
/// either mode.
std::vector<BufferUpdate> set_training(Graph& g, bool training, const std::unordered_set<std::string>& frozen = {});

/// For onnxruntime, which writes the running statistics of a training BatchNormalization over the tensors they were
/// read from: initializers (its own, and those that it found equal) keep their values when each such node reads a copy
/// that is computed. Of known rank only.
void copy_statistics(Graph& g);

}  // namespace ortmod
