// Passes, canonical form and modes, for Python (tests and inspection).
#include "graph/canon.h"
#include "graph/mode.h"
#include "passes/pass.h"
#include "python/bind.h"

namespace py = pybind11;

namespace ortmod {
namespace {

py::tuple optimised(const Model& m, const std::vector<std::string>& variable, const std::vector<std::string>& passes) {
  auto g = m.graph->clone();
  PassContext context;
  for (const std::string& name : variable) {
    const Value* v = g->find(name);
    if (!v)
      fail(ErrorKind::kModel, "optimise", "variable: got \"" + name + "\", expected the name of a value of the graph");
    context.variable.insert(v);
  }
  const std::vector<std::string_view> names(passes.begin(), passes.end());
  py::list reports;
  for (const PassReport& r : optimise(*g, context, names)) {
    py::dict d;
    d["name"] = std::string(r.name);
    d["seconds"] = r.seconds;
    d["changes"] = r.changes;
    d["nodes"] = r.nodes;
    d["skipped"] = r.skipped;
    reports.append(d);
  }
  verify(*g, "optimise");
  return py::make_tuple(Model{std::move(g)}, reports);
}

py::tuple switched(const Model& m, bool training, const std::vector<std::string>& frozen) {
  auto g = m.graph->clone();
  py::list updates;
  for (const BufferUpdate& u : set_training(*g, training, {frozen.begin(), frozen.end()})) {
    updates.append(py::make_tuple(u.weight->name, u.new_value->name));
    g->outputs.push_back(u.new_value);
  }
  infer_all(*g);
  verify(*g, "mode");
  return py::make_tuple(Model{std::move(g)}, updates);
}

}  // namespace

void bind_passes(py::module_& m) {
  m.def("passes", [] {
    py::list r;
    for (const Pass& p : all_passes()) r.append(py::make_tuple(std::string(p.name), std::string(p.says)));
    return r;
  });
  m.def("optimised", &optimised, py::arg("model"), py::arg("variable") = std::vector<std::string>{},
        py::arg("passes") = std::vector<std::string>{});
  m.def("canonical", [](const Model& m) {
    auto g = m.graph->clone();
    canonicalise(*g);
    verify(*g, "canonicalise");
    return Model{std::move(g)};
  });
  m.def("switched", &switched, py::arg("model"), py::arg("training"), py::arg("frozen") = std::vector<std::string>{});
}

}  // namespace ortmod
