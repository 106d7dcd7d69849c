// Composing a training step: model, losses, penalties, their gradients, clipping and the update of all weights as one
// graph.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "exec/plan.h"
#include "graph/graph.h"

namespace ortmod {

using GraphPtr = std::shared_ptr<const Graph>;

/// inputs: expected, predicted[, weight (one per row)]; outputs: the sum over the rows[, the summands, one per row].
struct LossPart {
  GraphPtr graph;
  std::string output;  // of the model
};
/// inputs: a weight[, `rows`: what the loss of the batch is divided by]; output: one number.
struct PenaltyPart {
  GraphPtr graph;
  std::vector<std::string> weights;
};

/// What a step is made of. The step minimises (sum of the losses) / rows + penalties, where rows is the number of rows
/// of the batch or the sum of their weights.
struct StepSpec {
  GraphPtr model;
  std::vector<std::string> weights;  // to train, all of the arena's element type after a cast
  std::vector<LossPart> losses;      // empty: the loss is the output `loss_output` of the model
  std::string loss_output;
  std::string row_weights;  // loss in the graph: its input of weights per row, or empty
  bool weighted = false;    // losses have a third input
  bool divide = true;       // by rows; false: the loss is a mean already
  std::vector<PenaltyPart> penalties;
  /// inputs by name: weight, gradient, learning_rate, step (1-based, double), anything else is a state of the weight's
  /// shape that starts at zero; outputs in order: the new weight, then the new states in the order of their inputs.
  GraphPtr update;
  DType arena =
      DType::kUndefined;  // element type of the trained copies of the weights; kUndefined: that of the first weight
  double clip_norm = 0, clip_value = 0;
  bool report_norm = false;
  bool training = true;  // how Dropout and BatchNormalization behave
};

enum class StepKind {
  kUpdate,             // one whole step
  kAccumulate,         // adds the gradient to `accumulated`
  kUpdateAccumulated,  // one whole step with the mean of `accumulated` and the gradient, by rows
  kLoss,               // the loss without an update
  kOutputs,            // the outputs of the model
};

/// A piece of a trained weight in the arena.
struct ArenaPart {
  std::string name;
  Type type;           // of the initializer
  int64_t offset = 0;  // in elements
};

/// One composed graph. Its inputs are columns (data), then fixed ones by name: rows, inverse_rows, learning_rate, step,
/// parameters, the states, accumulated, accumulated_rows, and the running statistics of the model; those that it does
/// not read are left out.
struct Composed {
  std::unique_ptr<Graph> graph;
  std::vector<std::string> columns, fixed,
      outputs;  // outputs by role: loss (the sum), rows, penalty, scores, gradient_norm, new values by the name of the
                // old
  std::vector<Plan::Donation> donations;
  std::vector<ArenaPart> parts;
  int64_t arena_size = 0;
  DType arena = DType::kUndefined;
  std::vector<std::string> states;   // names of the optimizer's states
  std::vector<std::string> buffers;  // running statistics that the step updates
  bool divides = true;               // the mean loss is loss / rows + penalty; else loss + penalty
  bool flat = false;                 // the update is one pointwise graph over the arena
};

Composed compose(const StepSpec& spec, StepKind kind);

/// Copies the nodes of `piece` into `g`; its inputs are `args`. Types are inferred again. Returns its outputs.
std::vector<Value*> paste(Graph& g, const Graph& piece, const std::vector<Value*>& args);

}  // namespace ortmod
