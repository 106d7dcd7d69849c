// The list of passes and the gate: names, switches, times, dumps, stop-after-n, checks.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "passes/pass.h"

namespace ortmod {
namespace {

constexpr Pass kPasses[] = {
    {"simplify", simplify, "operations that do nothing or undo each other"},
    {"fold", fold, "nodes of constants become constants"},
    {"cse", cse, "equal nodes are computed once"},
    {"dce", dce, "nodes that no output depends on are removed"},
    {"fuse_matmul", fuse_matmul, "Transpose, scales, bias rows and Relu become part of matrix products"},
    {"fuse_pointwise", fuse_pointwise, "pointwise nodes of one shape become one"},
};

constexpr std::string_view kStandard[] = {"simplify", "fold",        "simplify",      "cse",
                                          "dce",      "fuse_matmul", "fuse_pointwise"};

std::string variable(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

bool listed(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (list.substr(0, comma) == name) return true;
    list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
  }
  return false;
}

const Pass& find_pass(std::string_view name) {
  const auto* p = std::find_if(std::begin(kPasses), std::end(kPasses), [&](const Pass& x) { return x.name == name; });
  if (p == std::end(kPasses)) fail(ErrorKind::kModel, "optimise", "unknown pass: got \"" + std::string(name) + "\"");
  return *p;
}

/// What the environment asks of the gate.
struct Gate {
  std::string disabled = variable("ORTMOD_DISABLE"), dump = variable("ORTMOD_DUMP");
  long stop_after = -1;
  bool verifies = !variable("ORTMOD_VERIFY").empty() && variable("ORTMOD_VERIFY") != "0";
  int run = 0;

  Gate() {
    if (const std::string n = variable("ORTMOD_STOP_AFTER"); !n.empty())
      stop_after = std::strtol(n.c_str(), nullptr, 10);
#ifndef NDEBUG
    verifies = true;
#endif
    static std::atomic<int> runs{0};
    if (!dump.empty()) run = runs++;
  }

  void write(const Graph& g, size_t number, std::string_view name) const {
    if (dump.empty()) return;
    char file[64];
    std::snprintf(file, sizeof file, "/%03d_%02zu_%.*s.onnxtxt", run, number, static_cast<int>(name.size()),
                  name.data());
    std::ofstream out(dump + file);
    if (!(out << to_text(g)))
      fail(ErrorKind::kModel, "optimise", "ORTMOD_DUMP: the file \"" + dump + file + "\" cannot be written");
  }
};

}  // namespace

std::span<const Pass> all_passes() { return kPasses; }

std::vector<PassReport> optimise(Graph& g, const PassContext& context, std::span<const std::string_view> names) {
  if (names.empty()) names = kStandard;
  const Gate gate;
  gate.write(g, 0, "start");
  std::vector<PassReport> reports;
  for (const std::string_view name : names) {
    const Pass& pass = find_pass(name);
    PassReport report{pass.name};
    report.skipped =
        listed(gate.disabled, name) || (gate.stop_after >= 0 && static_cast<long>(reports.size()) >= gate.stop_after);
    if (!report.skipped) {
      const auto start = std::chrono::steady_clock::now();
      report.changes = pass.run(g, context);
      report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      gate.write(g, reports.size() + 1, name);
      if (gate.verifies) verify(g, name);
    }
    report.nodes = g.nodes().size();
    reports.push_back(report);
  }
  return reports;
}

}  // namespace ortmod
