// The C++ contender of benchmarks/artifacts.py: `trainer FOLDER` says "ready", then runs as many steps as each line
// says and answers with the seconds of process time and the last loss.
#include <ATen/ATen.h>
#include <ortmod/training.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <iostream>

double now() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  const std::string folder = std::string(argv[1]) + "/", ours = folder + "ours/";
  const auto data = ortmod::CheckpointState::LoadCheckpoint(folder + "data.safetensors");
  const std::vector<at::Tensor> inputs{data.GetParameter("x"), data.GetParameter("y")};
  auto state = ortmod::CheckpointState::LoadCheckpoint(ours + "checkpoint");
  ortmod::TrainingSession session(state, ours + "training_model.onnx", ours + "eval_model.onnx",
                                  ours + "optimizer_model.onnx");
  session.SetLearningRate(1e-3f);
  std::cout << "ready" << std::endl;
  for (int steps = 0; std::cin >> steps;) {
    const double begin = now();
    at::Tensor loss;
    for (int i = 0; i < steps; ++i) {
      loss = session.TrainStep(inputs)[0];
      session.OptimizerStep();
      session.LazyResetGrad();
    }
    const double taken = now() - begin;
    std::printf("%.9f %.9g\n", taken, loss.item<double>());
    std::fflush(stdout);
  }
  return 0;
} catch (const std::exception& e) {
  std::cout << e.what() << std::endl;
  return 1;
}
