// The shared gradient builder: a graph in, the graph with its gradient out, in the same IR.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

struct GradientOptions {
  std::vector<std::string> wrt;      // inputs and weights to differentiate by
  std::vector<std::string> outputs;  // empty: the float outputs that depend on wrt
  bool unreachable_is_zero = false;  // else a GradientError
};

/// The joint graph: inputs = those of `g`, then `<output>_grad`; outputs = those of `g`, then `<name>_grad` in the order of wrt.
struct Joint {
  std::unique_ptr<Graph> graph;
  std::vector<Value*> seeds;                // gradient inputs, in the order of `outputs`
  std::vector<std::string> outputs;         // outputs that have a gradient input
  std::vector<Value*> grads;                // gradient outputs, in the order of wrt
};
Joint differentiate(const Graph& g, const GradientOptions& options);

/// Forward and backward cut from a joint graph.
struct Split {
  std::unique_ptr<Graph> forward;    // outputs: those of the joint's forward part, then kept values
  std::unique_ptr<Graph> backward;   // inputs: seeds, kept values, then the inputs and weights it reads (by their names)
  std::vector<std::string> kept;     // names, in order
  std::vector<std::string> reads;    // inputs, argument weights and outputs of forward that backward reads, by name
};
/// `arguments`: values that a caller can hand to backward again without keeping them (inputs, weights, outputs), by name.
Split split(const Joint& joint);

/// Replaces nodes that carry a body by standard operators: all nodes of domain `ortmod` (for export).
void expand_bodies(Graph& g);

/// Per node and per weight: runs?, differentiable?, reached?, stopped where and why (for explain()).
struct Reach {
  std::string name, reason;
  bool reached = false;
};
std::vector<Reach> explain_reach(const Graph& g, const std::vector<std::string>& wrt);

}  // namespace ortmod
