// Gradient rules that users register for an operator.
#pragma once
#include <memory>
#include <string>

#include "graph/graph.h"

namespace ortmod {

/// `rule`: a graph whose inputs are the operator's inputs, then its outputs, then one gradient per output, and whose outputs are one gradient
/// per input of the operator (by position; fewer outputs: none for the rest). It wins over the built-in rule. Thread-safe.
void register_gradient(const std::string& domain, const std::string& op, std::shared_ptr<const Graph> rule);
void unregister_gradient(const std::string& domain, const std::string& op);
std::shared_ptr<const Graph> custom_gradient(Op op);

}  // namespace ortmod
