// Checkpoints: safetensors files whose metadata says what trains, the properties and the state of the optimizer (the
// format of ortmod/training/checkpoint.py).
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace ortmod {

struct Checkpoint {
  std::map<std::string, at::Tensor> parameters;
  std::vector<std::string> trainable;
  std::map<std::string, std::variant<int64_t, double, std::string>> properties;
  std::map<std::string, std::map<std::string, at::Tensor>> optimizer;  // state -> parameter -> value
  int64_t step = 0;
  std::optional<double> learning_rate;
};

/// Nominal checkpoints and those of onnxruntime-training are read by Python only: a ModelError says so.
Checkpoint load_checkpoint(const std::string& path);
/// The file is the old one or the new one at every moment.
void save_checkpoint(const Checkpoint& c, const std::string& path, bool with_optimizer);

}  // namespace ortmod
