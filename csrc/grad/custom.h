// Gradient rules that users register for an operator.
#pragma once
#include <memory>
#include <string>

#include "graph/graph.h"

namespace ortmod {

/// `rule`: a graph whose inputs are the operator's inputs, then its outputs, then one gradient per output, and whose
/// outputs are one gradient per input of the operator (by position; fewer outputs: none for the rest). It wins over the
/// built-in rule. Thread-safe.
void register_gradient(const std::string& domain, const std::string& op, std::shared_ptr<const Graph> rule);
void unregister_gradient(const std::string& domain, const std::string& op);
/// The rule registered for the node's operator, or for the local function whose call it bounds (mark_function); null:
/// none.
std::shared_ptr<const Graph> custom_gradient(const Node& n);
/// How many of the node's inputs that rule knows: those of the function, not what it was inlined to.
size_t rule_inputs(const Node& n);
/// Whether a gradient can come back through input i.
bool returns_gradient(const Node& n, size_t i);

}  // namespace ortmod
