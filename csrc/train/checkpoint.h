// Checkpoints: safetensors files whose metadata says what trains, the properties and the state of the optimizer.
//
// Tensors: each parameter under its name, each optimizer state under `optimizer.<state>/<parameter>`. Metadata:
// "ortmod.checkpoint" (JSON).
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace ortmod {

struct Checkpoint {
  std::map<std::string, at::Tensor> parameters;  // of a nominal checkpoint: tensors of device "meta"
  std::vector<std::string> trainable;
  std::map<std::string, std::variant<int64_t, double, std::string>> properties;
  std::map<std::string, std::map<std::string, at::Tensor>> optimizer;  // state -> parameter -> value
  int64_t step = 0;
  std::optional<double> learning_rate;

  /// Names and types without values.
  bool nominal() const {
    for (const auto& [name, t] : parameters)
      if (t.is_meta()) return true;
    return false;
  }
};

/// What to write: all, or less.
struct CheckpointContent {
  bool optimizer = true;
  bool nominal = false;  // parameters without their values
};

/// A file of ours, another safetensors file, or one of onnxruntime-training 1.19.2.
Checkpoint load_checkpoint(const std::string& path);
Checkpoint load_ort_checkpoint(const std::string& path);
/// The file is the old one or the new one at every moment; folders are made.
void save_checkpoint(const Checkpoint& c, const std::string& path, CheckpointContent content = {});
/// The same, straight into the file.
void write_checkpoint(const Checkpoint& c, const std::string& path, CheckpointContent content = {});

}  // namespace ortmod
