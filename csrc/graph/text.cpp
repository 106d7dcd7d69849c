// The graph as ONNX text, in the syntax of onnx.parser; long tensors are declared without their elements.
#include <charconv>
#include <cmath>

#include "graph/digest.h"
#include "graph/graph.h"
#include "graph/symbol.h"

namespace ortmod {
namespace {

constexpr int64_t kMostElements = 16;

std::string quoted(std::string_view s) {
  std::string r = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') r += '\\';
    r += c;
  }
  return r + "\"";
}

bool is_plain(std::string_view s) {
  if (s.empty() || (s[0] >= '0' && s[0] <= '9')) return false;
  for (const char c : s)
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_')) return false;
  for (int code = 1; is_known_dtype(code); ++code)
    if (s == dtype_name(static_cast<DType>(code))) return false;
  return s != "seq" && s != "optional" && s != "map" && s != "sparse_tensor";
}

std::string id(std::string_view s) { return is_plain(s) ? std::string(s) : quoted(s); }

std::string number(double v, bool single) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto r = single ? std::to_chars(buffer, buffer + sizeof buffer, static_cast<float>(v))
                        : std::to_chars(buffer, buffer + sizeof buffer, v);
  return {buffer, r.ptr};
}

template <class List, class F>
std::string joined(const List& list, F&& text) {
  std::string r;
  for (const auto& x : list) r += (r.empty() ? "" : ", ") + text(x);
  return r;
}

std::string dims_text(const Dims& d) {
  return joined(d, [](Dim x) {
    return is_known(x) ? std::to_string(x) : x == kAnyDim ? std::string("?") : id(dim_text(x));
  });
}

std::string tensor_type(const Type& t) {
  std::string r(dtype_name(t.dtype));
  if (!t.has_rank) return r + "[]";
  return t.dims.empty() ? r : r + "[" + dims_text(t.dims) + "]";
}

std::string type_text(const Type& t) {
  if (t.dtype == DType::kUndefined) return "";
  const std::string map = "map(" + std::string(dtype_name(t.key)) + ", " + std::string(dtype_name(t.dtype)) + ")";
  switch (t.kind) {
    case Kind::kTensor:
      return tensor_type(t) + " ";
    case Kind::kSequence:
      return "seq(" + (t.key == DType::kUndefined ? tensor_type(t) : map) + ") ";
    case Kind::kOptional:
      return "optional(" + tensor_type(t) + ") ";
    case Kind::kOptionalSequence:
      return "optional(seq(" + tensor_type(t) + ")) ";
    case Kind::kMap:
      return map + " ";
  }
  return "";
}

std::string elements(const Literal& l) {
  if (l.dtype() == DType::kString)
    return "{" + joined(l.string_values(), [](const std::string& s) { return quoted(s); }) + "}";
  if (!is_float(l.dtype())) return "{" + joined(l.to_ints(), [](int64_t v) { return std::to_string(v); }) + "}";
  const bool wide = l.dtype() == DType::kDouble;
  return "{" + joined(l.to_doubles(), [&](double v) { return number(v, !wide); }) + "}";
}

bool has_elements(const Literal& l) {
  return l.numel() <= kMostElements &&
         (is_float(l.dtype()) || is_integer(l.dtype()) || l.dtype() == DType::kBool || l.dtype() == DType::kString);
}

std::string declared(const Value& v) { return type_text(v.type) + id(v.name); }

void write_graph(const Graph& g, const std::string& indent, std::string& out);

std::string attr_text(const std::string& key, const Attr& a, const std::string& indent) {
  const auto named = [&](const char* type, const std::string& value) { return id(key) + ": " + type + " = " + value; };
  if (const auto* i = std::get_if<int64_t>(&a)) return named("int", std::to_string(*i));
  if (const auto* f = std::get_if<double>(&a)) return named("float", number(*f, true));
  if (const auto* s = std::get_if<std::string>(&a)) return named("string", quoted(*s));
  if (const auto* v = std::get_if<std::vector<int64_t>>(&a))
    return named("ints", "[" + joined(*v, [](int64_t x) { return std::to_string(x); }) + "]");
  if (const auto* v = std::get_if<std::vector<double>>(&a))
    return named("floats", "[" + joined(*v, [](double x) { return number(x, true); }) + "]");
  if (const auto* v = std::get_if<std::vector<std::string>>(&a))
    return named("strings", "[" + joined(*v, [](const std::string& x) { return quoted(x); }) + "]");
  if (const auto* l = std::get_if<LiteralPtr>(&a))
    return named("tensor", tensor_type((*l)->type()) + " " + (has_elements(**l) ? elements(**l) : "{...}"));
  if (const auto* t = std::get_if<std::shared_ptr<const Type>>(&a)) return named("type_proto", type_text(**t));
  if (const auto* r = std::get_if<AttrRef>(&a)) return id(key) + " = @" + r->name;
  std::string body;
  if (const auto* g = std::get_if<std::shared_ptr<Graph>>(&a)) {
    write_graph(**g, indent + "  ", body);
    return named("graph", body);
  }
  for (const auto& g : std::get<std::vector<std::shared_ptr<Graph>>>(a)) {
    if (!body.empty()) body += ", ";
    write_graph(*g, indent + "  ", body);
  }
  return named("graphs", "[" + body + "]");
}

void write_graph(const Graph& g, const std::string& indent, std::string& out) {
  const auto one = [](const Value* v) { return declared(*v); };
  out +=
      id(g.name.empty() ? "graph" : g.name) + " (" + joined(g.inputs, one) + ") => (" + joined(g.outputs, one) + ")\n";
  std::vector<const Value*> listed(g.weights.begin(), g.weights.end());
  for (const Value* v : g.inputs)
    if (v->literal) listed.push_back(v);
  if (!listed.empty()) {
    out += indent + "  <\n";
    for (size_t i = 0; i < listed.size(); ++i) {
      const Literal& l = *listed[i]->literal;
      out += indent + "    " + tensor_type(l.type()) + " " + id(listed[i]->name);
      if (has_elements(l)) out += " = " + elements(l);
      out += i + 1 < listed.size() ? ",\n" : "\n";
    }
    out += indent + "  >\n";
  }
  out += indent + "{\n";
  for (const Node* n : g.nodes()) {
    const auto name_of = [](const Value* v) { return v ? id(v->name) : std::string("\"\""); };
    out += indent + "  ";
    if (!n->name.empty()) out += "[" + id(n->name) + "] ";
    out += joined(n->outputs, name_of) + (n->outputs.empty() ? "" : " = ");
    out += n->op->domain.empty() ? n->op->name : n->op->domain + "." + n->op->name;
    if (!n->attrs.empty())
      out += " <" + joined(n->attrs, [&](const auto& a) { return attr_text(a.first, a.second, indent + "  "); }) + ">";
    out += " (" + joined(n->inputs, name_of) + ")\n";
  }
  out += indent + "}";
}

/// Gathers what write_graph writes, without writing it.
class Digest {
 public:
  uint64_t value() const { return value_; }
  void add(uint64_t x) {
    value_ = (value_ ^ x) * 0x9E3779B97F4A7C15ull;
    value_ ^= value_ >> 29;
  }
  void add(std::string_view s) { add(static_cast<uint64_t>(std::hash<std::string_view>{}(s))); }
  void add(const Type& t) {
    add(static_cast<uint64_t>(t.dtype) << 16 | static_cast<uint64_t>(t.kind) << 8 | static_cast<uint64_t>(t.key));
    add(static_cast<uint64_t>(t.rank()));
    for (const Dim d : t.dims) {
      if (is_known(d) || d == kAnyDim)
        add(static_cast<uint64_t>(d));
      else
        add(dim_text(d));  // numbers of symbols differ between processes
    }
  }
  void graph(const Graph& g) {
    add(g.name);
    for (const auto* list : {&g.inputs, &g.outputs}) {
      add(list->size());
      for (const Value* v : *list) {
        add(v->type);
        add(v->name);
        if (v->literal) weight(*v);
      }
    }
    for (const Value* v : g.weights) weight(*v);
    for (const Node* n : g.nodes()) {
      add(n->name);
      add(n->op->domain);
      add(n->op->name);
      for (const Values* list : {&n->outputs, &n->inputs}) {
        add(list->size());
        for (const Value* v : *list) add(v ? std::string_view(v->name) : std::string_view());
      }
      for (const auto& [key, a] : n->attrs) add(attr_text(key, a, ""));
    }
  }

 private:
  void weight(const Value& v) {
    add(v.literal->type());
    add(v.name);
    if (has_elements(*v.literal)) add(elements(*v.literal));
  }
  uint64_t value_ = 0;
};

}  // namespace

uint64_t digest(const Graph& g) {
  Digest d;
  d.add(static_cast<uint64_t>(g.ir_version));
  for (const auto& [domain, version] : g.opsets) {
    d.add(domain);
    d.add(static_cast<uint64_t>(version));
  }
  for (const auto& [key, value] : g.metadata) {
    d.add(key);
    d.add(value);
  }
  d.graph(g);
  return d.value();
}

std::string to_text(const Graph& g) {
  std::string out = "<\n  ir_version: " + std::to_string(g.ir_version) + ",\n  opset_import: [";
  bool first = true;
  for (const auto& [domain, version] : g.opsets) {
    out += (first ? "" : ", ") + quoted(domain) + " : " + std::to_string(version);
    first = false;
  }
  out += "]";
  if (!g.metadata.empty())
    out += ",\n  metadata_props: [" +
           joined(g.metadata, [](const auto& e) { return quoted(e.first) + ": " + quoted(e.second); }) + "]";
  out += "\n>\n";
  write_graph(g, "", out);
  return out + "\n";
}

}  // namespace ortmod
