// Building the text of errors.
#include "graph/error.h"

#include "graph/graph.h"

namespace ortmod {

std::string where(const Node& n, int input) {
  std::string s = " (node \"" + (n.name.empty() && n.out() ? n.out()->name : n.name) + "\" ";
  s += (n.op->domain.empty() ? "ai.onnx" : n.op->domain) + "::" + n.op->name + "-" + std::to_string(n.version);
  if (input >= 0) {
    s += ", input " + std::to_string(input);
    if (const Value* v = n.in(static_cast<size_t>(input))) s += " \"" + v->name + "\"";
  }
  return s + ")";
}

void fail(ErrorKind kind, const std::string& stage, const std::string& what) {
  throw Error(kind, "[" + stage + "] " + what);
}

void fail(ErrorKind kind, const std::string& stage, const std::string& what, const Node& node, int input,
          const std::string& advice) {
  throw Error(kind, "[" + stage + "] " + what + where(node, input) + (advice.empty() ? "" : "; " + advice));
}

}  // namespace ortmod
