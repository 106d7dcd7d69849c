// Canonical form: what exporters write in many ways is written in one.
#pragma once
#include "graph/graph.h"

namespace ortmod {

/// Rewrites in place, idempotent; names of inputs, outputs and weights stay:
/// - CastLike with a known type -> Cast;
/// - SplitToSequence / SequenceConstruct read by SequenceAt, ConcatFromSequence, SequenceLength -> Split, Slice or the
/// element itself;
/// - If with a constant condition -> the branch; Optional, OptionalGetElement, OptionalHasElement of a known value ->
/// the value;
/// - ai.onnx.ml LinearRegressor, LinearClassifier, Scaler, Normalizer -> standard operators whose attribute weights are
/// initializers
///   `<node>.coefficients`, `.intercepts`, `.offset`, `.scale` (the node's name, or that of its output).
void canonicalise(Graph& g);

/// The tensor that attribute `key` of a Constant gives; null when the attribute has another type than its name says.
LiteralPtr constant_value(std::string_view key, const Attr& value);

}  // namespace ortmod
