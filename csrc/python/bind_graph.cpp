// Models, gradients of models and what is known of operators, for Python.
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <tuple>
#include <variant>

#include "grad/build.h"
#include "grad/custom.h"
#include "graph/mode.h"
#include "graph/proto.h"
#include "graph/schema.h"
#include "graph/symbol.h"
#include "graph/trainable.h"
#include "kernels/cpu/jit_memory.h"
#include "ops/kernel.h"
#include "ops/op.h"
#include "passes/edit.h"
#include "passes/pass.h"
#include "python/bind.h"

namespace py = pybind11;

namespace ortmod {

at::Tensor tensor_of(const LiteralPtr& literal) {
  std::vector<int64_t> dims(literal->dims().begin(), literal->dims().end());
  return at::from_blob(
      const_cast<void*>(literal->data()), dims, [literal](void*) {}, to_scalar_type(literal->dtype()));
}

LiteralPtr literal_of(const at::Tensor& tensor) {
  at::Tensor t = tensor.detach().cpu().contiguous().resolve_neg();
  auto owner = std::make_shared<at::Tensor>(t);
  return std::make_shared<Literal>(from_scalar_type(t.scalar_type()), Dims(t.sizes().begin(), t.sizes().end()), owner,
                                   t.data_ptr(), t.nbytes());
}

namespace {

py::object dim_object(Dim d) {
  if (is_known(d)) return py::int_(d);
  if (d == kAnyDim) return py::none();
  const DimExpr e = dim_expr(d);
  if (e.op == 'n') return py::str(e.name);
  if (e.op == 'c') return py::int_(e.a);
  return py::make_tuple(std::string(1, e.op), dim_object(e.a), dim_object(e.b));
}

py::list values(const std::vector<Value*>& list) {
  py::list r;
  for (const Value* v : list) r.append(py::make_tuple(v->name, type_tuple(v->type), v->literal != nullptr));
  return r;
}

/// Data of an initializer: (element type, dims, bytes), shared with Python.
using Raw = std::tuple<int, std::vector<int64_t>, py::bytes>;
using Given = std::map<std::string, std::variant<at::Tensor, Raw>>;

LiteralPtr data_of(const at::Tensor& tensor) { return literal_of(tensor); }

LiteralPtr data_of(const Raw& raw) {
  const auto& [code, dims, bytes] = raw;
  const std::string_view data(bytes);
  const std::shared_ptr<const void> owner(new py::bytes(bytes), [](const py::bytes* p) {
    if (!Py_IsInitialized()) return;
    const py::gil_scoped_acquire gil;
    delete p;
  });
  return std::make_shared<Literal>(static_cast<DType>(code), Dims(dims.begin(), dims.end()), owner, data.data(),
                                   data.size());
}

LiteralPtr data_of(const std::variant<at::Tensor, Raw>& given) {
  return std::visit([](const auto& data) { return data_of(data); }, given);
}

template <class Data>
Literals literals_of(const std::map<std::string, Data>& given) {
  Literals r;
  for (const auto& [name, data] : given) r.emplace(name, data_of(data));
  return r;
}

Model prepared(std::unique_ptr<Graph> g, bool foreign = false) {
  prepare(*g, foreign);
  return {std::move(g)};
}

Value* find_output(Graph& g, const std::string& name) {
  Value* v = g.find(name);
  if (!v) fail(ErrorKind::kModel, "import", "outputs: got \"" + name + "\", expected the name of a value of the graph");
  return v;
}

Model keep_outputs(const Model& m, const std::vector<std::string>& names) {
  auto g = m.graph->clone();
  g->outputs.clear();
  for (const std::string& name : names) g->outputs.push_back(find_output(*g, name));
  PassContext context;
  for (Value* w : g->weights) context.variable.insert(w);
  dce(*g, context);
  g->compact();
  return {std::move(g)};
}

/// A copy after `change`, with types inferred again.
template <class F>
Model changed(const Model& m, F change) {
  auto g = m.graph->clone();
  change(*g);
  infer_all(*g);
  return {std::move(g)};
}

Model with_training(const Model& m, bool training) {
  return changed(m, [&](Graph& g) { set_training(g, training); });
}

/// Weights of these names become inputs with a default.
void weights_to_inputs(Graph& g, const std::vector<std::string>& names) {
  ValueSet moved;
  for (const std::string& name : names) {
    Value* v = g.find(name);
    if (v && v->is_constant() && moved.insert(v)) g.inputs.push_back(v);
  }
  std::erase_if(g.weights, [&](const Value* v) { return moved.contains(v); });
}

/// The same, as a model whose inputs come in the order `listed`, those that it does not name last.
Model with_default_inputs(const Model& m, const std::vector<std::string>& names, const std::vector<std::string>& listed,
                          bool defaults) {
  auto g = m.graph->clone();
  weights_to_inputs(*g, names);
  const auto place = [&](const Value* v) { return std::find(listed.begin(), listed.end(), v->name) - listed.begin(); };
  std::stable_sort(g->inputs.begin(), g->inputs.end(),
                   [&](const Value* a, const Value* b) { return place(a) < place(b); });
  if (!defaults)
    for (Value* v : g->inputs) v->literal = nullptr;
  return {std::move(g)};
}

py::list seed_names(const Joint& j) {
  py::list r;
  for (size_t i = 0; i < j.seeds.size(); i++) r.append(py::make_tuple(j.outputs[i], j.seeds[i]->name));
  return r;
}

py::list gradient_names(const Joint& j) {
  py::list r;
  for (size_t i = 0; i < j.grads.size(); i++) r.append(py::make_tuple(j.wrt[i], j.grads[i] ? j.grads[i]->name : ""));
  return r;
}

py::tuple joint_of(const Model& m, const GradientOptions& options) {
  Joint j = differentiate(*m.graph, options);
  py::list seeds = seed_names(j), grads = gradient_names(j);
  weights_to_inputs(*j.graph, options.wrt);
  return py::make_tuple(Model{std::move(j.graph)}, seeds, grads);
}

py::tuple split_of(const Model& m, const GradientOptions& options) {
  Joint j = differentiate(*m.graph, options);
  std::vector<std::string> weights;
  for (const Value* w : m.graph->weights)
    if (std::find(options.wrt.begin(), options.wrt.end(), w->name) != options.wrt.end()) weights.push_back(w->name);
  py::list seeds = seed_names(j), grads = gradient_names(j);
  Split s = split(std::move(j), weights);
  return py::make_tuple(Model{std::move(s.forward)}, Model{std::move(s.backward)}, s.kept, s.reads, seeds, grads);
}

py::list old_forms_of(const Model& m, const GradientOptions& options) {
  py::list r;
  for (const OldForm& f : old_forms(*m.graph, options)) r.append(py::make_tuple(f.node, f.opset, f.cost));
  return r;
}

Model expanded(const Model& m) {
  auto g = m.graph->clone();
  expand_bodies(*g);
  copy_statistics(*g);
  return {std::move(g)};
}

/// The body of each node of domain ortmod, in order, as a serialized model.
py::list bodies(const Model& m) {
  py::list r;
  for (const Node* n : m.graph->nodes())
    if (n->op->domain == "ortmod") r.append(py::bytes(to_bytes(*body_of(*n), {.value_info = false})));
  return r;
}

py::list choices(const Model& m) {
  py::list r;
  for (const WeightChoice& c : choose_trainable(*m.graph)) {
    py::dict d;
    d["name"] = c.name;
    d["trainable"] = c.trainable;
    d["reason"] = c.reason;
    d["role"] = c.role;
    d["consumers"] = c.consumers;
    d["merged"] = c.merged;
    r.append(d);
  }
  return r;
}

py::list nodes(const Model& m) {
  py::list r;
  for (const Node* n : m.graph->nodes()) {
    const OpDef* def = find_op(*n);
    py::dict d;
    d["name"] = n->name;
    d["domain"] = n->op->domain;
    d["op"] = n->op->name;
    d["version"] = n->version;
    d["output"] = n->out() ? n->out()->name : "";
    d["runs"] = def ? "yes" : "unknown operator";
    d["gradient"] = gradient_support(*n);
    d["fused"] = def && def->pointwise != Pw{0};
    r.append(d);
  }
  return r;
}

py::list reach(const Model& m, const std::vector<std::string>& wrt) {
  py::list r;
  for (const Reach& x : explain_reach(*m.graph, wrt)) r.append(py::make_tuple(x.name, x.reached, x.reason));
  return r;
}

py::list operators() {
  py::list r;
  for (const OpDef* def : all_ops()) {
    const bool zero = def->grad == &no_grad;
    py::dict d;
    d["domain"] = std::string(def->domain);
    d["op"] = std::string(def->name);
    d["since"] = def->since;
    d["newest"] = newest_opset(def->domain);
    d["forward"] = def->kernel || def->bind || def->body;
    d["gradient"] = zero ? "zero" : def->grad || def->body ? "yes" : "no";
    d["limits"] = std::string(def->limits);
    r.append(d);
  }
  return r;
}

}  // namespace

py::tuple type_tuple(const Type& t) {
  py::object dims = py::none();
  if (t.has_rank) {
    py::list l;
    for (Dim d : t.dims) l.append(dim_object(d));
    dims = l;
  }
  return py::make_tuple(static_cast<int>(t.dtype), dims, static_cast<int>(t.kind));
}

Type type_from(int dtype, const py::sequence& dims) {
  Dims d;
  for (const auto& x : dims) {
    if (x.is_none())
      d.push_back(fresh_symbol());
    else if (py::isinstance<py::str>(x))
      d.push_back(symbol(x.cast<std::string>()));
    else
      d.push_back(x.cast<int64_t>());
  }
  return Type(static_cast<DType>(dtype), d);
}

void bind_graph(py::module_& m) {
  py::class_<GradientOptions>(m, "GradientOptions")
      .def(py::init([](std::vector<std::string> wrt, std::vector<std::string> outputs, bool zero) {
             using enum GradientOptions::Unreachable;
             return GradientOptions{std::move(wrt), std::move(outputs), zero ? kZero : kError};
           }),
           py::arg("wrt"), py::arg("outputs") = std::vector<std::string>{}, py::arg("unreachable_is_zero") = false);
  py::class_<Model>(m, "Model")
      .def_static(
          "from_bytes",
          [](const py::bytes& bytes, const std::string& base_dir, const Given& given, bool foreign) {
            return prepared(from_bytes(std::string_view(bytes), base_dir, literals_of(given)), foreign);
          },
          py::arg("bytes"), py::arg("base_dir") = "", py::arg("given") = Given{}, py::arg("foreign") = false)
      .def_static(
          "from_file", [](const std::string& path, bool foreign) { return prepared(from_file(path), foreign); },
          py::arg("path"), py::arg("foreign") = false)
      .def_static(
          "unchecked_from_bytes",
          [](const py::bytes& bytes, const Given& given) {
            return Model{from_bytes(std::string_view(bytes), "", literals_of(given))};
          },
          py::arg("bytes"), py::arg("given") = Given{})
      .def_static("unchecked_from_file", [](const std::string& path) { return Model{from_file(path)}; })
      .def_property_readonly("name", [](const Model& m) { return m.graph->name; })
      .def_property_readonly("inputs", [](const Model& m) { return values(m.graph->inputs); })
      .def_property_readonly("outputs", [](const Model& m) { return values(m.graph->outputs); })
      .def_property_readonly("weights", [](const Model& m) { return values(m.graph->weights); })
      .def_property_readonly("opsets", [](const Model& m) { return m.graph->opsets; })
      .def_property_readonly("metadata", [](const Model& m) { return m.graph->metadata; })
      .def("weight",
           [](const Model& m, const std::string& name) {
             const Value* v = m.graph->find(name);
             if (!v || !v->literal)
               fail(ErrorKind::kModel, "import", "no initializer or default of the name \"" + name + "\"");
             return tensor_of(v->literal);
           })
      .def("choices", &choices)
      .def("nodes", &nodes)
      .def("reach", &reach)
      .def("keep_outputs", &keep_outputs)
      .def("with_training", &with_training)
      .def("expanded", &expanded)
      .def("bodies", &bodies)
      .def_property_readonly("ir_version", [](const Model& m) { return m.graph->ir_version; })
      .def("with_default_inputs", &with_default_inputs, py::arg("names"), py::arg("listed"), py::arg("defaults") = true)
      .def("untied",
           [](const Model& m, const std::vector<std::string>& names) {
             return changed(m, [&](Graph& g) { untie(g, names); });
           })
      .def("tied",
           [](const Model& m, const std::vector<std::vector<std::string>>& groups) {
             return changed(m, [&](Graph& g) { tie(g, groups); });
           })
      .def("to_dtype",
           [](const Model& m, int from, int to, const std::unordered_set<std::string>& tensors) {
             return changed(m,
                            [&](Graph& g) { to_dtype(g, static_cast<DType>(from), static_cast<DType>(to), tensors); });
           })
      .def_property_readonly("modal", [](const Model& m) { return is_modal(*m.graph); })
      .def("differentiate", &joint_of)
      .def("split", &split_of)
      .def("old_forms", &old_forms_of)
      .def(
          "to_bytes",
          [](const Model& m, const std::map<std::string, at::Tensor>& weights) {
            const Literals w = literals_of(weights);
            return py::bytes(to_bytes(*m.graph, {.weights = &w}));
          },
          py::arg("weights") = std::map<std::string, at::Tensor>{})
      .def(
          "to_file",
          [](const Model& m, const std::string& path, const std::map<std::string, at::Tensor>& weights) {
            const Literals w = literals_of(weights);
            to_file(*m.graph, path, {.weights = &w});
          },
          py::arg("path"), py::arg("weights") = std::map<std::string, at::Tensor>{})
      .def("__str__", [](const Model& m) { return to_text(*m.graph); })
      .def("__deepcopy__", [](const Model& m, const py::dict&) { return m; })
      .def("__copy__", [](const Model& m) { return m; })
      .def(py::pickle(
          [](const Model& m) { return py::make_tuple(py::bytes(to_bytes(*m.graph))); },
          [](const py::tuple& state) { return prepared(from_bytes(std::string_view(state[0].cast<py::bytes>()))); }));
  m.def("operators", &operators);
  m.def("listed_inputs", [](const py::bytes& bytes) { return listed_inputs(std::string_view(bytes)); });
  m.def("listed_inputs_of_file", &listed_inputs_of_file);
  m.def("machine_code", [] {
    switch (cpu::jit_level()) {
      case cpu::JitLevel::kAvx512:
        return "avx512";
      case cpu::JitLevel::kAvx2:
        return "avx2";
      default:
        return "off";
    }
  });
  m.def("newest_opset", &newest_opset, py::arg("domain") = "");
  m.def("register_gradient", [](const std::string& domain, const std::string& op, const py::bytes& rule) {
    std::shared_ptr<const Graph> graph(rule_from_bytes(std::string_view(rule)));
    for (const Node* n : graph->nodes())
      if (is_standard_domain(n->op->domain) && first_version(n->op) == 0)
        fail(ErrorKind::kUnsupportedOp, "differentiate", "the standard has no operator of this name", *n);
    register_gradient(domain, op, std::move(graph));
  });
  m.def("unregister_gradient", &unregister_gradient);
}

}  // namespace ortmod
