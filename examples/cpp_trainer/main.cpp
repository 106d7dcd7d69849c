// Trains artifacts on rows of a CSV file (label, then features) without Python, and goes on where the last run stopped.
//
//   python examples/cpp_trainer/prepare.py artifacts        (once, where Python is)
//   cpp_trainer artifacts artifacts/digits.csv 20
#include <ATen/ATen.h>
#include <ortmod/training.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>

struct Rows {
  at::Tensor features, labels;
};

Rows read_csv(const std::string& path) {
  std::ifstream file(path);
  std::vector<float> values;
  std::vector<int64_t> labels;
  for (std::string line; std::getline(file, line);) {
    std::stringstream cells(line);
    std::string cell;
    std::getline(cells, cell, ',');
    labels.push_back(std::stoll(cell));
    while (std::getline(cells, cell, ',')) values.push_back(std::stof(cell));
  }
  if (labels.empty()) throw std::runtime_error("no rows in " + path);
  const auto n = static_cast<int64_t>(labels.size());
  return {at::tensor(values).view({n, -1}), at::tensor(labels)};
}

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: cpp_trainer ARTIFACTS ROWS.csv STEPS\n");
    return 2;
  }
  const std::string folder = std::string(argv[1]) + "/";
  const Rows rows = read_csv(argv[2]);
  const int64_t steps = std::stoll(argv[3]), batch = std::min<int64_t>(64, rows.labels.size(0));

  auto state = ortmod::CheckpointState::LoadCheckpoint(folder + "checkpoint");
  ortmod::TrainingSession session(state, folder + "training_model.onnx", folder + "eval_model.onnx",
                                  folder + "optimizer_model.onnx");
  session.SetLearningRate(0.01f);
  const int64_t batches = rows.labels.size(0) / batch;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t from = step % batches * batch;
    const at::Tensor loss =
        session.TrainStep({rows.features.slice(0, from, from + batch), rows.labels.slice(0, from, from + batch)})[0];
    session.OptimizerStep();
    session.LazyResetGrad();
    std::printf("step %lld loss %.8f\n", static_cast<long long>(step), loss.item<float>());
  }
  const std::vector<at::Tensor> found = session.EvalStep({rows.features, rows.labels});
  const at::Tensor right = found[1].argmax(1).eq(rows.labels);
  std::printf("loss %.6f accuracy %.4f\n", found[0].item<float>(), right.to(at::kDouble).mean().item<double>());

  state.AddProperty("steps", steps);
  ortmod::CheckpointState::SaveCheckpoint(state, folder + "checkpoint", true);
  session.ExportModelForInferencing(folder + "inference.onnx", {session.OutputNames(false)[1]});
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
