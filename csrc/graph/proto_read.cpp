// ModelProto -> Graph: graphs, values and nodes.
#include "graph/proto_read.h"

#include <algorithm>
#include <climits>

#include "google/protobuf/arena.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "graph/schema.h"
#include "graph/symbol.h"
#include "ortmod_onnx.pb.h"

namespace ortmod {
namespace onnx = ortmod_onnx;
namespace {

constexpr int kParseDepth = 512;
constexpr int kOldestOpset = 7;
constexpr size_t kMaxNodes = 10'000'000, kMaxInlined = 500'000;

[[noreturn]] void bad(const std::string& what) { fail(ErrorKind::kModel, "import", what); }

std::string normal_domain(const std::string& d) { return d == "ai.onnx" ? std::string() : d; }

std::string label(const onnx::NodeProto& p) {
  const std::string name = !p.name().empty() ? p.name() : p.output_size() ? p.output(0) : std::string();
  return " (node \"" + shown(name) + "\" " + (p.domain().empty() ? "ai.onnx" : shown(p.domain())) +
         "::" + shown(p.op_type()) + ")";
}

void check_text(const std::string& text, const char* what) {
  if (!is_utf8(text)) bad(std::string(what) + " is not UTF-8: got \"" + shown(text) + "\"");
}

template <class List>
std::vector<std::pair<std::string, std::string>> metadata(const List& list) {
  std::vector<std::pair<std::string, std::string>> r;
  for (const auto& e : list) {
    check_text(e.key(), "a metadata key");
    check_text(e.value(), "a metadata value");
    r.emplace_back(e.key(), e.value());
  }
  return r;
}

}  // namespace

std::string shown(std::string_view text) {
  constexpr size_t kMost = 120;
  std::string s;
  const bool plain = is_utf8(text);
  for (size_t i = 0; i < text.size() && s.size() < kMost; ++i) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f || (c >= 0x80 && !plain)) {
      constexpr char kHex[] = "0123456789abcdef";
      s += {'\\', 'x', kHex[c >> 4], kHex[c & 15]};
    } else {
      s += static_cast<char>(c);
    }
  }
  while (plain && !is_utf8(s)) s.pop_back();
  return text.size() > kMost ? s + "..." : s;
}

bool is_utf8(std::string_view t) {
  for (size_t i = 0; i < t.size();) {
    const unsigned char c = static_cast<unsigned char>(t[i]);
    const size_t n = c < 0x80                ? 1
                     : c >= 0xc2 && c < 0xe0 ? 2
                     : c >= 0xe0 && c < 0xf0 ? 3
                     : c >= 0xf0 && c < 0xf5 ? 4
                                             : 0;
    if (n == 0 || i + n > t.size()) return false;
    uint32_t code = n == 1 ? c : c & (0xffu >> (n + 1));
    for (size_t k = 1; k < n; ++k) {
      const unsigned char d = static_cast<unsigned char>(t[i + k]);
      if ((d & 0xc0) != 0x80) return false;
      code = code << 6 | (d & 0x3f);
    }
    if ((n == 3 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) ||
        (n == 4 && (code < 0x10000 || code > 0x10ffff)))
      return false;
    i += n;
  }
  return true;
}

bool ModelReader::Scope::find(const std::string& name, Value** v) const {
  for (const Scope* s = this; s; s = s->outer) {
    if (Value* found = s->own ? s->own->find(name) : nullptr) {
      *v = found;
      return true;
    }
    if (const auto it = s->names.find(name); it != s->names.end()) {
      *v = it->second;
      return true;
    }
  }
  return false;
}

bool ModelReader::Scope::has(const std::string& name) const { return (own && own->find(name)) || names.contains(name); }

void ModelReader::Scope::set(const std::string& name, Value* v) {
  if (!own || v->name != name) names[name] = v;
}

ModelReader::ModelReader(onnx::ModelProto& model, const std::string& base_dir, const Literals& given)
    : model_(model), tensors_{ExternalFiles(base_dir), given} {}

void ModelReader::read_opsets() {
  if (model_.opset_import_size() == 0) bad("the model imports no operator set (opset_import is empty)");
  for (const auto& o : model_.opset_import()) {
    const std::string domain = normal_domain(o.domain());
    check_text(domain, "a domain");
    const int newest = newest_opset(domain);
    const std::string named = domain.empty() ? "ai.onnx" : shown(domain);
    if (o.version() < 1 || o.version() > INT_MAX)
      bad("opset " + std::to_string(o.version()) + " of " + named + " does not exist");
    if (newest && o.version() > newest)
      bad("opset " + std::to_string(o.version()) + " of " + named + " is not known: expected at most " +
          std::to_string(newest) +
          "; convert the model with onnx.version_converter or install a newer onnx and rebuild");
    if (domain.empty() && o.version() < kOldestOpset)
      bad("opset " + std::to_string(o.version()) + " of ai.onnx is too old: expected at least " +
          std::to_string(kOldestOpset) + "; convert the model with onnx.version_converter");
    const auto [it, added] = opsets_.emplace(domain, static_cast<int>(o.version()));
    if (!added && it->second != o.version()) bad("two versions of the operator set " + named + " are imported");
  }
  constexpr int kDefault = 9;  // of a model that uses other domains only
  root_->opsets = opsets_;
  root_->opsets.emplace("", kDefault);
}

void ModelReader::collect_functions() {
  for (auto& f : *model_.mutable_functions()) {
    const std::string key = normal_domain(f.domain()) + "\n" + f.name() + "\n" + f.overload();
    if (!functions_.emplace(key, &f).second) bad("the function \"" + shown(f.name()) + "\" is defined twice");
  }
}

void ModelReader::collect_names(const onnx::GraphProto& p) {
  for (const auto& v : p.input()) used_.insert(v.name());
  for (const auto& v : p.initializer()) used_.insert(v.name());
  for (const auto& v : p.sparse_initializer()) used_.insert(v.values().name());
  for (const auto& n : p.node()) {
    used_.insert(n.output().begin(), n.output().end());
    for (const auto& a : n.attribute()) {
      if (a.has_g()) collect_names(a.g());
      for (const auto& g : a.graphs()) collect_names(g);
    }
  }
}

std::string ModelReader::fresh(const std::string& base) {
  if (!std::exchange(collected_, true)) collect_names(model_.graph());
  if (used_.insert(base).second) return base;
  for (int& i = copies_.try_emplace(base, 1).first->second;;)
    if (std::string name = base + "_" + std::to_string(++i); used_.insert(name).second) return name;
}

std::unique_ptr<Graph> ModelReader::read() {
  if (!model_.has_graph()) bad("the model has no graph (empty, or not an ONNX model)");
  if (model_.ir_version() < 1) bad("the model states no IR version");
  if (model_.ir_version() > newest_ir_version())
    bad("IR version " + std::to_string(model_.ir_version()) + " is not known: expected at most " +
        std::to_string(newest_ir_version()));
  auto placeholder = std::make_unique<Graph>();
  root_ = placeholder.get();
  read_opsets();
  collect_functions();
  std::unique_ptr<Graph> g = read_graph(*model_.mutable_graph(), nullptr, 0);
  for (const auto& [name, literal] : tensors_.given)
    if (const Value* v = g->find(name); !v || !v->literal)
      bad("a tensor was handed in for \"" + shown(name) + "\", which is no initializer of the model");
  return g;
}

/// The name in the graph of the value called `name` at this place.
std::string ModelReader::graph_name(const std::string& name, const Place& at, const std::string& by) {
  check_text(name, "a name");
  if (at.scope->has(name)) bad("the name \"" + shown(name) + "\" is given to two values" + by);
  if (at.frame) {
    const auto it = at.depth == at.frame->depth ? at.frame->outputs.find(name) : at.frame->outputs.end();
    return it != at.frame->outputs.end() ? it->second : fresh(at.frame->prefix + name);
  }
  Value* hidden = nullptr;
  return at.scope->outer && at.scope->outer->find(name, &hidden) ? fresh(name) : name;
}

void ModelReader::describe(Value* v, const std::string& original, const Place& at) {
  const auto it = at.scope->infos.find(original);
  if (it == at.scope->infos.end()) return;
  if (v->type.dtype == DType::kUndefined && it->second->has_type()) v->type = read_type(it->second->type(), original);
  if (it->second->metadata_props_size()) v->metadata = metadata(it->second->metadata_props());
}

Value* ModelReader::declare(const std::string& name, const Place& at, const std::string& by) {
  Value* v = at.graph->add_value(graph_name(name, at, by));
  at.scope->set(name, v);
  describe(v, name, at);
  return v;
}

std::unique_ptr<Graph> ModelReader::read_graph(onnx::GraphProto& p, const Place* outer, int depth) {
  auto g = std::make_unique<Graph>(outer ? outer->graph : nullptr);
  if (!outer) {
    g->opsets = root_->opsets;
    g->ir_version = model_.ir_version();
    g->metadata = metadata(model_.metadata_props());
    root_ = g.get();
  }
  check_text(p.name(), "the name of the graph");
  g->name = p.name();
  g->doc = is_utf8(p.doc_string()) ? p.doc_string() : std::string();
  Scope scope;
  scope.outer = outer ? outer->scope : nullptr;
  const Place at{g.get(), &scope, outer ? outer->frame : nullptr, depth};
  const size_t n_nodes = static_cast<size_t>(p.node_size()),
               n_values = n_nodes + static_cast<size_t>(p.initializer_size());
  g->reserve(n_nodes, n_values);
  if (!outer && functions_.empty())
    scope.own = g.get();
  else
    scope.names.reserve(n_values);
  for (auto& v : *p.mutable_value_info()) scope.infos.emplace(v.name(), &v);
  for (auto& v : *p.mutable_output()) scope.infos.emplace(v.name(), &v);
  read_values(p, at);
  NodeList nodes;
  nodes.reserve(static_cast<size_t>(p.node_size()));
  for (auto& n : *p.mutable_node()) nodes.push_back(&n);
  read_nodes(nodes, at);
  read_outputs(p, at);
  return g;
}

void ModelReader::read_values(onnx::GraphProto& p, const Place& at) {
  std::unordered_set<std::string_view> listed, initialized;
  if (at.depth == 0) {
    for (const auto& v : p.input()) listed.insert(v.name());
    const auto note = [&](const std::string& name) {
      if (listed.contains(name)) initialized.insert(name);
    };
    for (const auto& t : p.initializer()) note(t.name());
    for (const auto& t : p.sparse_initializer()) note(t.values().name());
  }
  std::unordered_set<std::string> seen;
  for (auto& v : *p.mutable_input()) {
    if (v.name().empty()) bad("an input of the graph has no name");
    if (!seen.insert(v.name()).second) bad("two inputs of the graph are called \"" + shown(v.name()) + "\"");
    if (initialized.contains(v.name())) continue;
    if (at.depth == 0 && !v.has_type() && !keep_references_) bad("input \"" + shown(v.name()) + "\" has no type");
    check_text(v.name(), "a name");
    Value* made =
        at.graph->add_input(graph_name(v.name(), at, ""), v.has_type() ? read_type(v.type(), v.name()) : Type());
    made->metadata = metadata(v.metadata_props());
    at.scope->set(v.name(), made);
  }
  const auto weight = [&](const std::string& name, LiteralPtr literal) {
    if (name.empty()) bad("an initializer has no name");
    Value* w = at.graph->add_weight(graph_name(name, at, ""), std::move(literal));
    at.scope->set(name, w);
    describe(w, name, at);
  };
  for (auto& t : *p.mutable_initializer()) weight(t.name(), tensors_.read_initializer(t, !at.frame));
  for (auto& t : *p.mutable_sparse_initializer()) weight(t.values().name(), tensors_.read(t, t.values().name()));
}

void ModelReader::read_outputs(onnx::GraphProto& p, const Place& at) {
  if (p.output_size() == 0 && at.depth == 0) bad("the graph has no outputs");
  for (auto& o : *p.mutable_output()) {
    Value* v = nullptr;
    if (o.name().empty() || !at.scope->find(o.name(), &v) || !v)
      bad("output \"" + shown(o.name()) + "\" of the graph is not computed by any node");
    if (v->graph != at.graph) {
      // An outer value as the result of a sub-graph: named here, so that links within the sub-graph say all.
      Value* copy = at.graph->add_value(fresh(v->name), v->type);
      at.graph->add_node(intern("Identity"), {v}, Values{copy});
      v = copy;
    }
    if (o.has_type() && v->type.dtype != DType::kUndefined && v->literal) {
      const Type declared = read_type(o.type(), o.name());
      if (declared.dtype != DType::kUndefined && declared.dtype != v->type.dtype)
        fail(ErrorKind::kModel, "import",
             "output \"" + shown(o.name()) + "\" is declared as " + to_string(declared) + ", but is " +
                 to_string(v->type));
    }
    at.graph->outputs.push_back(v);
  }
}

void ModelReader::read_nodes(const NodeList& nodes, const Place& at) {
  for (size_t i = 0; i < nodes.size(); ++i) read_node(nodes, i, at);
}

Values ModelReader::read_inputs(const NodeList& nodes, size_t index, const Place& at) {
  Values in;
  for (const std::string& name : nodes[index]->input()) {
    Value* v = nullptr;
    if (!name.empty() && !at.scope->find(name, &v)) undefined(nodes, index, name);
    in.push_back(v);
  }
  while (!in.empty() && !in.back()) in.pop_back();
  return in;
}

int ModelReader::version(const onnx::NodeProto& p, const Place& at) {
  const std::string domain = normal_domain(p.domain());
  const Opsets& opsets = at.frame ? at.frame->opsets : opsets_;
  const auto it = opsets.find(domain);
  if (it == opsets.end())
    bad("the domain \"" + (domain.empty() ? "ai.onnx" : shown(domain)) + "\" is not declared in opset_import" +
        label(p));
  if (!at.frame) return it->second;
  const int outer = root_->opsets.emplace(domain, it->second).first->second;
  if (since_version(domain, p.op_type(), it->second) != since_version(domain, p.op_type(), outer))
    bad("the function \"" + shown(at.frame->function->name()) +
        "\" imports another opset than the model, in which this operator differs: got " + std::to_string(it->second) +
        ", expected " + std::to_string(outer) + label(p));
  return outer;
}

void ModelReader::read_node(const NodeList& nodes, size_t index, const Place& at) {
  onnx::NodeProto& p = *nodes[index];
  if (++nodes_read_ > kMaxNodes) bad("the model has more than " + std::to_string(kMaxNodes) + " nodes" + label(p));
  if (at.frame && ++nodes_inlined_ > kMaxInlined)
    bad("functions that call functions give more than " + std::to_string(kMaxInlined) +
        " nodes when they are inlined (function \"" + shown(at.frame->function->name()) + "\")" + label(p) +
        "; write fewer calls");
  if (p.op_type().empty()) bad("a node has no operator" + label(p));
  check_text(p.name(), "a node's name");
  check_text(p.op_type(), "an operator");
  const int v = version(p, at);
  Values in = read_inputs(nodes, index, at);
  const std::string domain = normal_domain(p.domain());
  if (!functions_.empty())
    if (const auto f = functions_.find(domain + "\n" + p.op_type() + "\n" + p.overload()); f != functions_.end())
      return inline_call(p, *f->second, std::move(in), at);
  if (domain.empty() && p.op_type() == "Constant" && !stays_open(p, at)) return read_constant(p, at);
  Attrs attrs = read_attrs(p, at);
  Values out;
  for (const std::string& name : p.output()) out.push_back(name.empty() ? nullptr : declare(name, at, label(p)));
  while (!out.empty() && !out.back()) out.pop_back();
  Node* n = at.graph->add_node(intern(domain, p.op_type()), std::move(in), std::move(out), std::move(attrs),
                               at.frame && !p.name().empty() ? at.frame->prefix + p.name() : p.name());
  n->version = v;
  n->metadata = metadata(p.metadata_props());
  check_node(*n);
}

void ModelReader::undefined(const NodeList& nodes, size_t index, const std::string& name) {
  std::unordered_map<std::string, size_t> producer;
  for (size_t i = 0; i < nodes.size(); ++i)
    for (const std::string& o : nodes[i]->output()) producer.emplace(o, i);
  const auto it = producer.find(name);
  if (it == producer.end())
    bad("input \"" + shown(name) + "\" is not defined: no input, initializer or node has this name" +
        label(*nodes[index]));
  std::vector<size_t> parent(nodes.size(), nodes.size()), stack{it->second};
  std::vector<bool> seen(nodes.size());
  seen[it->second] = true;
  while (!stack.empty()) {
    const size_t i = stack.back();
    stack.pop_back();
    if (i == index) {
      std::string path;
      int shown_nodes = 0;
      for (size_t k = i; k < nodes.size() && shown_nodes < 6; k = parent[k], ++shown_nodes)
        path += (path.empty() ? "\"" : " <- \"") +
                shown(!nodes[k]->name().empty() || !nodes[k]->output_size() ? nodes[k]->name() : nodes[k]->output(0)) +
                "\"";
      bad("the graph has a cycle through " + path + label(*nodes[index]));
    }
    for (const std::string& in : nodes[i]->input())
      if (const auto from = producer.find(in); from != producer.end() && !seen[from->second]) {
        seen[from->second] = true;
        parent[from->second] = i;
        stack.push_back(from->second);
      }
  }
  bad("the nodes are not sorted: input \"" + shown(name) + "\" is computed by a later node \"" +
      shown(nodes[it->second]->name()) + "\"" + label(*nodes[index]) + "; write the nodes in the order of computation");
}

namespace {

/// The message lies in a few large pieces of memory: its parts are hundreds of thousands in a large model.
onnx::ModelProto& parse(std::string_view bytes, google::protobuf::Arena& arena) {
  if (bytes.empty()) bad("the model is empty (0 bytes)");
  if (bytes.size() > INT_MAX)
    bad("the model is larger than 2 GiB: got " + std::to_string(bytes.size()) +
        " bytes; keep its tensors as external data");
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  google::protobuf::io::CodedInputStream coded(&stream);
  coded.SetRecursionLimit(kParseDepth);
  auto& model = *google::protobuf::Arena::CreateMessage<onnx::ModelProto>(&arena);
  if (!model.ParseFromCodedStream(&coded) || !coded.ConsumedEntireMessage())
    bad("the bytes are not an ONNX model (truncated, damaged, or another format): got " + std::to_string(bytes.size()) +
        " bytes");
  return model;
}

}  // namespace

std::unique_ptr<Graph> from_bytes(std::string_view bytes, const std::string& base_dir, const Literals& given) {
  google::protobuf::Arena arena;
  return ModelReader(parse(bytes, arena), base_dir, given).read();
}

std::unique_ptr<Graph> rule_from_bytes(std::string_view bytes) {
  google::protobuf::Arena arena;
  const Literals none;
  ModelReader reader(parse(bytes, arena), "", none);
  reader.keep_references();
  return reader.read();
}

std::unique_ptr<Graph> from_file(const std::string& path) {
  const ExternalFiles::Range file = map_file(path);
  if (file.size == 0) bad("the file \"" + shown(path) + "\" is empty");
  const size_t slash = path.rfind('/');
  return from_bytes({file.data, file.size}, slash == std::string::npos ? "."
                                            : slash == 0               ? "/"
                                                                       : path.substr(0, slash));
}

namespace {

/// The length-delimited fields of number `field` in a message; the others are passed over unread.
template <class F>
void each_field(std::string_view message, int field, F&& visit) {
  namespace pb = google::protobuf;
  pb::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(message.data()), static_cast<int>(message.size()));
  const auto broken = [] { bad("the bytes are not an ONNX model (truncated, damaged, or another format)"); };
  while (const uint32_t tag = in.ReadTag()) {
    uint64_t number = 0;
    uint32_t length = 0;
    switch (tag & 7) {
      case 0:
        if (!in.ReadVarint64(&number)) broken();
        break;
      case 1:
        if (!in.Skip(8)) broken();
        break;
      case 2: {
        if (!in.ReadVarint32(&length)) broken();
        const int at = in.CurrentPosition();
        if (!in.Skip(static_cast<int>(length))) broken();
        if (static_cast<int>(tag >> 3) == field) visit(message.substr(static_cast<size_t>(at), length));
        break;
      }
      case 5:
        if (!in.Skip(4)) broken();
        break;
      default:
        broken();
    }
  }
}

}  // namespace

std::vector<std::string> listed_inputs(std::string_view bytes) {
  constexpr int kGraph = 7, kInput = 11, kName = 1;
  std::vector<std::string> names;
  if (bytes.size() > INT_MAX) return names;
  each_field(bytes, kGraph, [&](std::string_view graph) {
    each_field(graph, kInput, [&](std::string_view input) {
      names.emplace_back();
      each_field(input, kName, [&](std::string_view name) { names.back() = name; });
    });
  });
  return names;
}

std::vector<std::string> listed_inputs_of_file(const std::string& path) {
  const ExternalFiles::Range file = map_file(path);
  return listed_inputs({file.data, file.size});
}

}  // namespace ortmod
