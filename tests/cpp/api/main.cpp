// Calls of the C++ API for the tests: `api sums CHECKPOINT`, `api nominal ARTIFACTS`, `api steps ARTIFACTS CHECKPOINT`.
#include <ATen/ATen.h>
#include <ortmod/training.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <stdexcept>

namespace {

void sums(const std::string& path) {
  const auto state = ortmod::CheckpointState::LoadCheckpoint(path);
  for (const std::string& name : state.ParameterNames())
    std::printf("%s %.17g\n", name.c_str(), state.GetParameter(name).to(at::kDouble).sum().item<double>());
}

void refused(const char* what, const std::function<void()>& f) {
  try {
    f();
  } catch (const std::runtime_error& e) {
    std::printf("%s: %s\n", what, e.what());
    return;
  }
  throw std::logic_error(std::string(what) + " should be refused");
}

at::Tensor inputs() { return at::linspace(-1, 1, 16 * 10).view({16, 10}); }
at::Tensor labels() { return at::arange(16) % 3; }

void train(ortmod::TrainingSession& session) {
  session.SetLearningRate(0.01f);
  for (int i = 0; i < 5; ++i) {
    std::printf("loss %.9g\n", session.TrainStep({inputs(), labels()})[0].item<double>());
    session.OptimizerStep();
    session.LazyResetGrad();
  }
}

ortmod::TrainingSession session_of(ortmod::CheckpointState& state, const std::string& folder) {
  return {state, folder + "training_model.onnx", folder + "eval_model.onnx", folder + "optimizer_model.onnx"};
}

void nominal(const std::string& folder) {
  auto whole = ortmod::CheckpointState::LoadCheckpoint(folder + "checkpoint");
  const at::Tensor buffer = session_of(whole, folder).ToBuffer(false);
  auto state = ortmod::CheckpointState::LoadCheckpoint(folder + "nominal_checkpoint");
  auto session = session_of(state, folder);
  refused("step", [&] { session.TrainStep({inputs(), labels()}); });
  refused("parameter", [&] { state.GetParameter(state.ParameterNames()[0]); });
  refused("trainable", [&] { session.FromBuffer(buffer, true); });
  session.FromBuffer(buffer);
  train(session);
  ortmod::CheckpointState::SaveCheckpoint(state, folder + "saved", true);
}

void steps(const std::string& folder, const std::string& checkpoint) {
  auto state = ortmod::CheckpointState::LoadCheckpoint(checkpoint);
  auto session = session_of(state, folder);
  train(session);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string what = argc > 2 ? argv[1] : "";
  if (what == "sums") sums(argv[2]);
  if (what == "nominal") nominal(std::string(argv[2]) + "/");
  if (what == "steps" && argc > 3) steps(std::string(argv[2]) + "/", argv[3]);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
