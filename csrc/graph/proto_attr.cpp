// ModelProto -> Graph: attributes, Constant nodes and calls of local functions.
#include <algorithm>
#include <mutex>

#include "graph/canon.h"
#include "graph/proto_read.h"
#include "graph/schema.h"
#include "ortmod_onnx.pb.h"

namespace ortmod {
namespace onnx = ortmod_onnx;
namespace {

constexpr int kMaxCallDepth = 100;
constexpr int kMaxGraphDepth = 32;

[[noreturn]] void bad(const std::string& what) { fail(ErrorKind::kModel, "import", what); }

std::string label(const onnx::NodeProto& p) {
  const std::string name = !p.name().empty() ? p.name() : p.output_size() ? p.output(0) : std::string();
  return " (node \"" + shown(name) + "\" " + (p.domain().empty() ? "ai.onnx" : shown(p.domain())) +
         "::" + shown(p.op_type()) + ")";
}

/// The kind of an attribute; old files do not state it.
int kind_of(const onnx::AttributeProto& a) {
  if (a.has_type() && a.type() != onnx::AttributeProto::UNDEFINED) return a.type();
  if (a.has_f()) return onnx::AttributeProto::FLOAT;
  if (a.has_i()) return onnx::AttributeProto::INT;
  if (a.has_s()) return onnx::AttributeProto::STRING;
  if (a.has_t()) return onnx::AttributeProto::TENSOR;
  if (a.has_g()) return onnx::AttributeProto::GRAPH;
  if (a.floats_size()) return onnx::AttributeProto::FLOATS;
  if (a.ints_size()) return onnx::AttributeProto::INTS;
  if (a.strings_size()) return onnx::AttributeProto::STRINGS;
  return onnx::AttributeProto::UNDEFINED;
}

std::mutex marks_mutex;
std::unordered_set<Op>& marks() {
  static auto* functions = new std::unordered_set<Op>;
  return *functions;
}

bool is_marked(Op function) {
  std::lock_guard lock(marks_mutex);
  return marks().contains(function);
}

}  // namespace

Attr ModelReader::read_attr(onnx::AttributeProto& a, const Place& at, const std::string& node, bool movable) {
  const std::string what = node + ", attribute \"" + shown(a.name()) + "\"";
  const int kind = kind_of(a);
  if ((kind == onnx::AttributeProto::GRAPH || kind == onnx::AttributeProto::GRAPHS) && at.depth >= kMaxGraphDepth)
    bad("sub-graphs are nested deeper than " + std::to_string(kMaxGraphDepth) + what);
  switch (kind) {
    case onnx::AttributeProto::FLOAT:
      return static_cast<double>(a.f());
    case onnx::AttributeProto::INT:
      return static_cast<int64_t>(a.i());
    case onnx::AttributeProto::STRING:
      return a.s();
    case onnx::AttributeProto::FLOATS:
      return std::vector<double>(a.floats().begin(), a.floats().end());
    case onnx::AttributeProto::INTS:
      return std::vector<int64_t>(a.ints().begin(), a.ints().end());
    case onnx::AttributeProto::STRINGS:
      return std::vector<std::string>(a.strings().begin(), a.strings().end());
    case onnx::AttributeProto::TENSOR:
      if (!a.has_t()) bad("the attribute holds no tensor" + what);
      return tensors_.read(*a.mutable_t(), movable, a.t().name().empty() ? a.name() : a.t().name());
    case onnx::AttributeProto::SPARSE_TENSOR:
      return tensors_.read(*a.mutable_sparse_tensor(), a.name());
    case onnx::AttributeProto::TYPE_PROTO:
      return std::make_shared<const Type>(read_type(a.tp(), a.name()));
    case onnx::AttributeProto::GRAPH:
      return std::shared_ptr<Graph>(read_graph(*a.mutable_g(), &at, at.depth + 1));
    case onnx::AttributeProto::GRAPHS: {
      std::vector<std::shared_ptr<Graph>> list;
      for (auto& g : *a.mutable_graphs()) list.push_back(read_graph(g, &at, at.depth + 1));
      return list;
    }
    default:
      bad("the attribute has no value of a kind that is supported" + what);
  }
}

Attrs ModelReader::read_attrs(onnx::NodeProto& p, const Place& at) {
  Attrs attrs;
  for (auto& a : *p.mutable_attribute()) {
    if (a.name().empty() || !is_utf8(a.name())) bad("an attribute has no name that can be read" + label(p));
    for (const auto& [key, value] : attrs)
      if (key == a.name()) bad("the attribute \"" + shown(key) + "\" is given twice" + label(p));
    if (a.ref_attr_name().empty()) {
      attrs.emplace_back(a.name(), read_attr(a, at, label(p), !at.frame));
      continue;
    }
    if (!at.frame && keep_references_) {
      attrs.emplace_back(a.name(), AttrRef{a.ref_attr_name()});
      continue;
    }
    if (!at.frame)
      bad("the attribute \"" + shown(a.name()) +
          "\" refers to an attribute of a function, but stands outside of functions" + label(p));
    const auto it = at.frame->attrs.find(a.ref_attr_name());
    if (it == at.frame->attrs.end()) continue;  // not given by the caller and without default: absent
    attrs.emplace_back(a.name(), read_attr(*it->second.attr, *it->second.place, label(p), false));
  }
  return attrs;
}

/// In a gradient rule: a Constant whose value is an attribute of the operator.
bool ModelReader::stays_open(const onnx::NodeProto& p, const Place& at) const {
  if (!keep_references_ || at.frame) return false;
  for (const auto& a : p.attribute())
    if (!a.ref_attr_name().empty()) return true;
  return false;
}

void ModelReader::read_constant(onnx::NodeProto& p, const Place& at) {
  Attrs attrs = read_attrs(p, at);
  if (attrs.size() != 1 || p.output_size() != 1 || p.output(0).empty() || p.input_size())
    bad("a Constant has one attribute and one output" + label(p));
  const auto& [key, value] = attrs[0];
  LiteralPtr literal = constant_value(key, value);
  if (!literal) bad("the attribute \"" + shown(key) + "\" is unknown or has the wrong type" + label(p));
  Value* w = at.graph->add_weight(graph_name(p.output(0), at, label(p)), std::move(literal));
  at.scope->set(p.output(0), w);
  const Type own = w->type;
  describe(w, p.output(0), at);
  w->type = own;
}

void mark_function(Op function, bool marked) {
  std::lock_guard lock(marks_mutex);
  if (marked)
    marks().insert(function);
  else
    marks().erase(function);
}

void ModelReader::inline_call(onnx::NodeProto& p, onnx::FunctionProto& f, Values inputs, const Place& at) {
  int calls = 0;
  for (const Frame* c = at.frame; c; c = c->caller) {
    if (c->function == &f) bad("the function \"" + shown(f.name()) + "\" calls itself" + label(p));
    if (++calls >= kMaxCallDepth) bad("functions are nested deeper than " + std::to_string(kMaxCallDepth) + label(p));
  }
  if (static_cast<int>(inputs.size()) > f.input_size())
    bad("wrong number of inputs of the function: got " + std::to_string(inputs.size()) + ", expected at most " +
        std::to_string(f.input_size()) + label(p));
  if (p.output_size() > f.output_size())
    bad("wrong number of outputs of the function: got " + std::to_string(p.output_size()) + ", expected at most " +
        std::to_string(f.output_size()) + label(p));
  const std::string call = !p.name().empty()                         ? p.name()
                           : p.output_size() && !p.output(0).empty() ? p.output(0)
                                                                     : f.name();
  Frame frame{&f, at.frame, at.depth, (at.frame ? at.frame->prefix : std::string()) + call + "/", {}, {}, {}};
  for (const auto& o : f.opset_import()) {
    const std::string domain = o.domain() == "ai.onnx" ? std::string() : o.domain();
    const int newest = newest_opset(domain);
    if (o.version() < 1 || (newest && o.version() > newest))
      bad("opset " + std::to_string(o.version()) + " of " + (domain.empty() ? "ai.onnx" : shown(domain)) +
          " is not known (function \"" + shown(f.name()) + "\")");
    frame.opsets[domain] = static_cast<int>(o.version());
  }
  for (auto& a : *f.mutable_attribute_proto()) frame.attrs[a.name()] = {&a, &at};
  for (auto& a : *p.mutable_attribute()) {
    if (a.ref_attr_name().empty()) {
      frame.attrs[a.name()] = {&a, &at};
    } else if (at.frame) {
      if (const auto it = at.frame->attrs.find(a.ref_attr_name()); it != at.frame->attrs.end())
        frame.attrs[a.name()] = it->second;
    } else {
      bad("the attribute \"" + shown(a.name()) +
          "\" refers to an attribute of a function, but stands outside of functions" + label(p));
    }
  }
  Scope scope;
  for (int i = 0; i < f.input_size(); ++i) {
    Value* v = static_cast<size_t>(i) < inputs.size() ? inputs[static_cast<size_t>(i)] : nullptr;
    if (f.input(i).empty() || !scope.names.emplace(f.input(i), v).second)
      bad("the function \"" + shown(f.name()) + "\" names its inputs wrongly");
  }
  const std::string domain = f.domain() == "ai.onnx" ? std::string() : f.domain();
  const bool marked = is_marked(intern(domain, f.name()));
  Values boundary = inputs;
  boundary.resize(static_cast<size_t>(f.input_size()));
  std::vector<std::string> wanted;
  for (int i = 0; i < p.output_size(); ++i) {
    const auto first = p.output().begin(), here = first + i;
    if (!here->empty() && std::find(first, here, *here) != here)
      bad("the name \"" + shown(*here) + "\" is given to two values" + label(p));
    wanted.push_back(p.output(i).empty() ? std::string() : graph_name(p.output(i), at, label(p)));
    if (!wanted.back().empty() && !marked) frame.outputs.emplace(f.output(i), wanted.back());
  }
  const Place inside{at.graph, &scope, &frame, at.depth};
  NodeList nodes;
  for (auto& n : *f.mutable_node()) nodes.push_back(&n);
  read_nodes(nodes, inside);
  std::vector<Value*> outputs(static_cast<size_t>(f.output_size()));
  for (int i = 0; i < p.output_size(); ++i) {
    const std::string& name = wanted[static_cast<size_t>(i)];
    if (name.empty()) continue;
    const auto it = scope.names.find(f.output(i));
    if (it == scope.names.end())
      bad("output \"" + shown(f.output(i)) + "\" of the function \"" + shown(f.name()) +
          "\" is not computed by any node");
    if (!it->second) bad("output \"" + shown(f.output(i)) + "\" of the function is an absent input" + label(p));
    Value* v = it->second;
    if (marked) {
      v = outputs[static_cast<size_t>(i)] = at.graph->add_value(name);
    } else if (v->name != name) {
      Value* copy = at.graph->add_value(name);
      at.graph->add_node(intern("Identity"), {v}, Values{copy}, {}, frame.prefix + f.output(i));
      v = copy;
    }
    at.scope->set(p.output(i), v);
    describe(v, p.output(i), at);
  }
  if (!marked) return;
  for (const std::string& name : f.output()) {
    const auto it = scope.names.find(name);
    boundary.push_back(it == scope.names.end() ? nullptr : it->second);
  }
  Attrs attrs = read_attrs(p, at);
  attrs.emplace_back("function_name", domain + "::" + f.name());
  attrs.emplace_back("function_inputs", static_cast<int64_t>(f.input_size()));
  at.graph->add_node(intern("ortmod", "WithGradient"), std::move(boundary), std::move(outputs), std::move(attrs),
                     at.frame && !p.name().empty() ? at.frame->prefix + p.name() : p.name());
}

}  // namespace ortmod
