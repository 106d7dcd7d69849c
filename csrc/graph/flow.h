// What a value is made of, for the choice of trainable weights: inputs, weights, normalised activations, positions.
#pragma once
#include "graph/graph.h"

namespace ortmod {

class Flow {
 public:
  explicit Flow(const Graph& g);

  /// Input `i` passes through the node with its elements as they are (moved, selected or cast).
  static bool is_view(const Node& n, int i);
  /// Computed from the elements (not only the shape) of some input of the graph.
  bool depends_on_input(const Value* v) const { return v && inputs_.contains(v); }
  /// The same for float inputs and for looked-up rows of float tables.
  bool depends_on_float(const Value* v) const { return v && floats_.contains(v); }
  /// A constant, seen through views.
  bool is_fixed(const Value* v) const;
  /// A float initializer of rank >= 2, seen through views.
  bool is_weight_view(const Value* v) const;
  /// A normalisation whose scale is all ones and whose bias all zeros: a module's own ones may follow.
  bool only_normalises(const Node& n) const;
  /// Multiplied by a constant, seen through views.
  bool is_scaled(const Value* v) const;
  /// x / sqrt(mean + epsilon) in elementary operators, or the result of a node that only normalises, seen through
  /// views.
  bool is_normalised(const Value* v) const;
  /// The result of a product with a weight, or a scaled normalised value: what a bias is added to.
  bool takes_bias(const Value* v) const;
  /// All that reads it, through views and concatenation, are Sin and Cos (both).
  bool leads_to_sine_and_cosine(const Value* v) const;

 private:
  void scan(const Graph& g);
  static const Value* through_views(const Value* v);
  ValueSet inputs_, floats_;
};

/// A table whose columns are sines or cosines of the row number times a frequency (rotary and sinusoidal positions).
bool is_sinusoidal(const Literal& l);

}  // namespace ortmod
