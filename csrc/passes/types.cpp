// Types of all values, operators without an entry, and what follows the reading of a model.
#include <map>

#include "graph/canon.h"
#include "graph/schema.h"
#include "ops/op.h"
#include "passes/pass.h"
#include "passes/walk.h"

namespace ortmod {
namespace {

[[noreturn]] void contradicts(const Value& v, const Type& declared) {
  fail(ErrorKind::kModel, "import",
       "\"" + v.name + "\" is declared as " + to_string(declared) + ", but is " + to_string(v.type), *v.producer);
}

/// A declared type against the inferred one. Ranks, and the dimensions of inner values, are often wrong in files that
/// run: those yield.
void check_declared(const Value& v, const Type& declared, bool output) {
  if (declared.dtype == DType::kUndefined || v.type.dtype == DType::kUndefined) return;
  if (declared.kind != Kind::kTensor && v.type.kind == Kind::kTensor && v.producer->is("ai.onnx.ml", "ZipMap"))
    return;  // see its limits
  if (declared.dtype != v.type.dtype || declared.kind != v.type.kind) contradicts(v, declared);
  if (!output || v.type.kind != Kind::kTensor || declared.rank() != v.type.rank()) return;
  for (size_t i = 0; i < declared.dims.size(); ++i)
    if (is_known(declared.dims[i]) && is_known(v.type.dims[i]) && declared.dims[i] != v.type.dims[i])
      contradicts(v, declared);
}

/// What a sub-graph is called with: types that its inputs do not declare.
void type_inner_inputs(const Node& n, Graph& s) {
  const bool loop = n.is("Loop");
  for (size_t i = 0; i < s.inputs.size(); ++i) {
    Value* v = s.inputs[i];
    if (v->type.dtype != DType::kUndefined) continue;
    if (loop && i < 2)
      v->type = Type(i == 0 ? DType::kInt64 : DType::kBool, {});
    else if (const Value* outer = n.in(i); outer && outer->type.dtype != DType::kUndefined) {
      v->type = Type::unranked(outer->type.dtype);
      v->type.kind = outer->type.kind;
    }
  }
}

void infer(Graph& g, bool check) {
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  std::vector<Type> before;
  for (Node* n : g.nodes()) {
    each_subgraph(*n, [&](Graph& s) {
      type_inner_inputs(*n, s);
      infer(s, check);
    });
    if (check) check_input_types(*n);
    before.clear();
    for (const Value* v : n->outputs) before.push_back(v ? v->type : Type());
    infer_node(*n);
    for (size_t i = 0; i < n->outputs.size(); ++i) {
      Value* v = n->outputs[i];
      if (!v) continue;
      if (check) check_declared(*v, before[i], outputs.contains(v));
      if (check && v->type.kind == Kind::kTensor && v->type.dtype == DType::kUndefined && !find_op(*n))
        fail(ErrorKind::kModel, "import",
             "the type of \"" + v->name + "\" is not known: an operator of another domain computes it", *n, -1,
             "declare it in value_info");
      if (!v->type.has_rank && before[i].has_rank && before[i].dtype == v->type.dtype && v->type.kind == Kind::kTensor)
        v->type = Type(v->type.dtype, Dims(before[i].dims.size(), kAnyDim));
    }
  }
}

using Missing = std::map<std::string, std::vector<std::string>>;

void collect_missing(const Graph& g, bool foreign, Missing& missing) {
  for (Node* n : g.nodes()) {
    const OpDef* def = find_op(*n);
    if (foreign && !def && !is_standard_domain(n->op->domain)) continue;
    const int first = first_version(n->op);
    if (!def || n->version < std::max(def->since, first) || (!def->kernel && !def->bind && !def->body)) {
      std::string op =
          (n->op->domain.empty() ? "ai.onnx" : n->op->domain) + "::" + n->op->name + "-" + std::to_string(n->version);
      if (n->version < first) op += ", which came with opset " + std::to_string(first);
      missing[op].push_back(n->name.empty() && n->out() ? n->out()->name : n->name);
    }
    each_subgraph(*n, [&](const Graph& s) { collect_missing(s, foreign, missing); });
  }
}

void check_tensor(const Value& v, const std::string& what) {
  if (v.type.kind == Kind::kTensor) return;
  const Node* n = v.producer ? v.producer : v.uses.empty() ? nullptr : v.uses[0].node;
  fail(ErrorKind::kUnsupportedOp, "import",
       what + " \"" + v.name + "\" is no tensor: got " + to_string(v.type) + ", expected a tensor" +
           (n ? where(*n) : "") + "; give its elements names of their own");
}

}  // namespace

void infer_all(Graph& g) { infer(g, false); }

void check_supported(const Graph& g, bool foreign) {
  Missing missing;
  collect_missing(g, foreign, missing);
  if (missing.empty()) return;
  constexpr size_t kNamed = 5;
  std::string what =
      std::to_string(missing.size()) + (missing.size() == 1 ? " operator is" : " operators are") + " not supported: ";
  bool first = true, lists = false;
  for (const auto& [op, nodes] : missing) {
    for (const char* part : {"::Sequence", "FromSequence-", "ToSequence-", "::Optional"})
      lists = lists || op.find(part) != std::string::npos;
    what += (first ? "" : "; ") + op + " (node";
    for (size_t i = 0; i < nodes.size() && i < kNamed; ++i) what += (i ? ", \"" : " \"") + nodes[i] + "\"";
    if (nodes.size() > kNamed) what += " and " + std::to_string(nodes.size() - kNamed) + " more";
    what += ")";
    first = false;
  }
  if (lists)
    what +=
        "; sequences and optionals run where constants say what is in them: positions, sizes of pieces, how many there "
        "are. Others have no "
        "form as tensors: export the model without them";
  fail(ErrorKind::kUnsupportedOp, "import", what);
}

void prepare(Graph& g, bool foreign) {
  canonicalise(g);
  check_supported(g, foreign);
  infer(g, true);
  canonicalise(g);  // what types made clear
  for (const Value* v : g.inputs) check_tensor(*v, "input");
  for (const Value* v : g.outputs) check_tensor(*v, "output");
  verify(g, "import");
}

}  // namespace ortmod
