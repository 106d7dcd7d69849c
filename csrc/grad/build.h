// The shared gradient builder: a graph in, the graph with its gradient out, in the same IR.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "ops/old_form.h"

namespace ortmod {

struct GradientOptions {
  std::vector<std::string> wrt;      // inputs and weights to differentiate by
  std::vector<std::string> outputs;  // empty: the float outputs that depend on wrt
  /// What becomes of those of `wrt` that no gradient reaches.
  enum class Unreachable : uint8_t { kError, kZero, kDrop } unreachable = Unreachable::kError;
  std::string advice = "take it out of wrt or pass unreachable=\"zero\"";  // what the error says to do
};

/// The joint graph: inputs = those of `g`, then `<output>_grad`; outputs = those of `g`, then `<name>_grad` in the
/// order of wrt.
struct Joint {
  std::unique_ptr<Graph> graph;
  size_t num_outputs = 0;            // of `g`
  std::vector<Value*> seeds;         // gradient inputs
  std::vector<std::string> outputs;  // the output that each seed belongs to
  std::vector<std::string> wrt;      // as asked for, without those dropped
  std::vector<Value*> grads;         // gradient outputs, in the order of wrt
};
Joint differentiate(const Graph& g, const GradientOptions& options);
/// The same in place, without a reason when something cannot be reached.
Joint differentiate(std::unique_ptr<Graph> g, const GradientOptions& options);

/// Gradients that a later opset than the graph's has in a cheaper form, or at all; in the order of the reverse walk.
std::vector<OldForm> old_forms(const Graph& g, const GradientOptions& options);

/// Forward and backward cut from a joint graph.
struct Split {
  std::unique_ptr<Graph> forward;   // outputs: those of the base graph, then kept values
  std::unique_ptr<Graph> backward;  // inputs: seeds, kept values, then what it reads of forward; outputs: the gradients
  std::vector<std::string> kept;    // names, in order (the same in both graphs)
  std::vector<std::string> reads;   // inputs, argument weights and outputs of forward that backward reads, by name
};
/// `arguments`: weights that a caller hands to backward again (parameters, buffers); others are copied into backward as
/// constants.
/// The joint graph becomes the backward graph.
Split split(Joint joint, const std::vector<std::string>& arguments);

/// Replaces one node by its OpDef::body (or the body registered for its operator); its outputs stay the values that
/// they are, and so do `outputs`, those of the graph. The graph's order must be sorted afterwards.
bool expand_node(Graph& g, Node* n, const ValueSet& outputs);
/// Replaces all nodes of domain `ortmod` by standard operators (for export).
void expand_bodies(Graph& g);

/// The body of one node as a graph: inputs are the node's present inputs, each once; outputs its wanted outputs.
std::unique_ptr<Graph> body_of(const Node& n);

/// How far gradients get (for explain()).
struct Reach {
  std::string name;  // of a node or weight
  bool reached = false;
  std::string reason;  // where and why it stops
};
/// Per weight or input of `wrt`: is there a differentiable path to an output, and what stops it.
std::vector<Reach> explain_reach(const Graph& g, const std::vector<std::string>& wrt);
/// "yes", "zero", or why not.
std::string gradient_support(const Node& n);

}  // namespace ortmod
