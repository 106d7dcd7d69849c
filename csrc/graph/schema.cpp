// Look-up of standard schemas and the checks of a node against them.
#include "graph/schema.h"

#include <algorithm>
#include <climits>
#include <map>

#include "graph/proto.h"

namespace ortmod {
namespace {

struct Row {
  const char* domain;
  const char* name;
  int since, min_in, max_in, min_out, max_out;
  bool deprecated;
  const char *inputs, *outputs, *attrs;
};

constexpr Row kRows[] = {
#define ORTMOD_SCHEMAS
#include "onnx_schemas.inc"
#undef ORTMOD_SCHEMAS
};

struct Newest {
  std::string_view domain;
  int version;
};
constexpr Newest kNewest[] = {
#define ORTMOD_NEWEST
#include "onnx_schemas.inc"
#undef ORTMOD_NEWEST
};

struct OpsetIr {
  int opset, ir;
};
constexpr OpsetIr kOpsetIr[] = {
#define ORTMOD_IR_VERSIONS
#include "onnx_schemas.inc"
#undef ORTMOD_IR_VERSIONS
};

constexpr int kNewestIr =
#define ORTMOD_NEWEST_IR
#include "onnx_schemas.inc"
#undef ORTMOD_NEWEST_IR
    ;

/// Words of `text` between commas, each cut at colons into three fields.
template <class F>
void words(std::string_view text, F&& take) {
  while (!text.empty()) {
    const size_t end = text.find(',');
    const std::string_view word = text.substr(0, end);
    const size_t a = word.find(':'), b = word.find(':', a + 1);
    take(word.substr(0, a), word.substr(a + 1, b - a - 1), word.substr(b + 1));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
}

std::vector<Schema::Formal> formals(std::string_view text) {
  std::vector<Schema::Formal> r;
  words(text, [&](std::string_view name, std::string_view mask, std::string_view how) {
    r.push_back({std::string(name), static_cast<uint32_t>(std::stoul(std::string(mask), nullptr, 16)),
                 how.empty() ? ' ' : how[0]});
  });
  return r;
}

using Table = std::unordered_map<Op, std::vector<Schema>>;

const Table& table() {
  static const Table* t = [] {
    auto* made = new Table;
    for (const Row& r : kRows) {
      Schema s{r.domain,  r.name,       r.since,           r.min_in,           r.max_in, r.min_out,
               r.max_out, r.deprecated, formals(r.inputs), formals(r.outputs), {}};
      words(r.attrs, [&](std::string_view name, std::string_view type, std::string_view required) {
        s.attrs.push_back({std::string(name), std::stoi(std::string(type)), required == "1"});
      });
      (*made)[intern(r.domain, r.name)].push_back(std::move(s));
    }
    return made;
  }();
  return *t;
}

int attr_type(const Attr& a) {
  struct Code {
    int operator()(int64_t) const { return 2; }
    int operator()(double) const { return 1; }
    int operator()(const std::string&) const { return 3; }
    int operator()(const std::vector<int64_t>&) const { return 7; }
    int operator()(const std::vector<double>&) const { return 6; }
    int operator()(const std::vector<std::string>&) const { return 8; }
    int operator()(const LiteralPtr&) const { return 4; }
    int operator()(const std::shared_ptr<Graph>&) const { return 5; }
    int operator()(const std::vector<std::shared_ptr<Graph>>&) const { return 10; }
    int operator()(const AttrRef&) const { return 0; }
    int operator()(const std::shared_ptr<const Type>&) const { return 13; }
  };
  return std::visit(Code{}, a);
}

const char* type_word(int code) {
  static constexpr const char* kWords[] = {"?",       "a float",         "an integer",     "a string", "a tensor",
                                           "a graph", "floats",          "integers",       "strings",  "tensors",
                                           "graphs",  "a sparse tensor", "sparse tensors", "a type",   "types"};
  return code >= 0 && code < 15 ? kWords[code] : "?";
}

bool empty_list(const Attr& a) {
  const auto* i = std::get_if<std::vector<int64_t>>(&a);
  const auto* f = std::get_if<std::vector<double>>(&a);
  const auto* s = std::get_if<std::vector<std::string>>(&a);
  return (i && i->empty()) || (f && f->empty()) || (s && s->empty());
}

std::string between(int lo, int hi) {
  if (lo == hi) return std::to_string(lo);
  return hi > 1000000 ? "at least " + std::to_string(lo) : std::to_string(lo) + " to " + std::to_string(hi);
}

}  // namespace

const Schema* find_schema(Op op, int version) {
  const auto it = table().find(op);
  if (it == table().end()) return nullptr;
  const Schema* best = nullptr;
  for (const Schema& s : it->second)
    if (s.since <= version) best = &s;
  return best;
}

int first_version(Op op) {
  const auto it = table().find(op);
  return it == table().end() || it->second.empty() ? 0 : it->second.front().since;
}

bool is_standard_domain(std::string_view domain) { return newest_opset(domain) != 0; }

int newest_opset(std::string_view domain) {
  if (domain == "ai.onnx") domain = "";
  for (const Newest& n : kNewest)
    if (n.domain == domain) return n.version;
  return 0;
}

int newest_ir_version() { return kNewestIr; }

int ir_version_of_opset(int opset) {
  int ir = 3;
  for (const OpsetIr& r : kOpsetIr)
    if (r.opset <= opset) ir = std::max(ir, r.ir);
  return ir;
}

int since_version(std::string_view domain, std::string_view op, int version) {
  const Schema* s = find_schema(intern(domain, op), version);
  return s ? s->since : 0;
}

void check_node(const Node& n) {
  const Schema* s = find_schema(n.op, n.version);
  if (!s) return;
  if (s->deprecated && s->since == find_schema(n.op, INT_MAX)->since)  // GroupNormalization-18 came again in 21
    fail(ErrorKind::kUnsupportedOp, "import", "the operator is deprecated in this opset", n, -1,
         "convert the model with onnx.version_converter");
  const auto arity = [&](size_t got, int lo, int hi, const char* what) {
    if (static_cast<int64_t>(got) < lo || static_cast<int64_t>(got) > hi)
      fail(ErrorKind::kModel, "import",
           std::string("wrong number of ") + what + ": got " + std::to_string(got) + ", expected " + between(lo, hi),
           n);
  };
  arity(n.inputs.size(), s->min_inputs, s->max_inputs, "inputs");
  arity(n.outputs.size(), s->min_outputs, s->max_outputs, "outputs");
  for (size_t i = 0; i < n.inputs.size() && i < s->inputs.size(); ++i)
    if (!n.inputs[i] && s->inputs[i].how == ' ')
      fail(ErrorKind::kModel, "import", "required input " + std::to_string(i) + " is missing", n);
  for (const auto& [key, value] : n.attrs) {
    const auto it =
        std::find_if(s->attrs.begin(), s->attrs.end(), [&, k = &key](const auto& a) { return a.name == *k; });
    if (it == s->attrs.end())
      fail(ErrorKind::kModel, "import", "unknown attribute \"" + key + "\"", n, -1,
           "remove it or check the opset of the model");
    const int got = attr_type(value);
    if (got != it->type && !std::holds_alternative<AttrRef>(value) && !(got == 4 && it->type == 11) &&
        !empty_list(value))
      fail(ErrorKind::kModel, "import",
           "attribute \"" + key + "\" has the wrong type: got " + type_word(got) + ", expected " + type_word(it->type),
           n);
  }
  for (const auto& a : s->attrs)
    if (a.required && !n.find(a.name))
      fail(ErrorKind::kModel, "import", "required attribute \"" + a.name + "\" is missing", n);
}

void check_input_types(const Node& n) {
  const Schema* s = find_schema(n.op, n.version);
  if (!s || s->inputs.empty()) return;
  constexpr uint32_t kFloats = 1u << 1 | 1u << 10 | 1u << 11 | 1u << 16;
  struct Bound {
    const std::string* constraint;
    const Type* type;
  };
  SmallVec<Bound, 8> bound;
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const Value* v = n.inputs[i];
    if (!v || v->type.dtype == DType::kUndefined) continue;
    const auto& f = s->inputs[std::min(i, s->inputs.size() - 1)];
    const bool tensor = v->type.kind == Kind::kTensor;
    uint32_t allowed = f.allowed;
    if (allowed & kFloats) allowed |= kFloats;  // our kernels take every float type where the standard takes one
    const uint32_t bit = tensor ? 1u << static_cast<int>(v->type.dtype) : 1u << 31;
    if (!(allowed & bit))
      fail(ErrorKind::kType, "import", "an input of type " + to_string(v->type) + " is not accepted by this operator",
           n, static_cast<int>(i));
    if (f.constraint == "-" || f.how == '+') continue;
    for (const Bound& b : bound)
      if (*b.constraint == f.constraint && (b.type->dtype != v->type.dtype || b.type->kind != v->type.kind))
        fail(ErrorKind::kType, "import",
             "inputs of different types: got " + to_string(v->type) + " beside " + to_string(*b.type) +
                 ", expected the same",
             n, static_cast<int>(i), "insert a Cast");
    bound.push_back({&f.constraint, &v->type});
  }
}

}  // namespace ortmod
