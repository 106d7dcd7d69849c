// Executables for Python: made from models; output types for fake kernels.
#include "python/bind.h"

namespace py = pybind11;

namespace ortmod {

namespace {

std::vector<Type> types_from(const py::sequence& args) {
  std::vector<Type> r;
  for (const auto& a : args) {
    auto t = a.cast<py::tuple>();
    r.push_back(type_from(t[0].cast<int>(), t[1].cast<py::sequence>()));
  }
  return r;
}

py::list tuples(const std::vector<Type>& types) {
  py::list r;
  for (const Type& t : types) r.append(type_tuple(t));
  return r;
}

Mode mode_from(const Executable& e, const std::vector<int64_t>& needs, bool training) {
  Mode m{{}, training};
  if (!needs.empty()) m.needs.resize(e.num_args());
  for (int64_t i : needs) m.needs.at(static_cast<size_t>(i)) = true;
  return m;
}

}  // namespace

void bind_exec(py::module_& m) {
  py::class_<Executable, std::shared_ptr<Executable>>(m, "Executable")
      .def(py::init([](const Model& model, const std::vector<std::string>& weights) {
             py::gil_scoped_release release;
             return Executable::make(model.graph, weights);
           }),
           py::arg("model"), py::arg("argument_weights") = std::vector<std::string>{})
      .def_static("from_handle", &Executable::from_handle)
      .def_property_readonly("handle", &Executable::handle)
      .def_property_readonly("num_inputs", &Executable::num_inputs)
      .def_property_readonly("num_args", &Executable::num_args)
      .def_property_readonly("num_outputs", &Executable::num_outputs)
      .def_property_readonly("argument_weights", &Executable::argument_weights)
      .def_property_readonly("arg_types",
                             [](const Executable& e) {
                               py::list r;
                               for (size_t i = 0; i < e.num_args(); i++) r.append(type_tuple(e.arg_type(i)));
                               return r;
                             })
      .def("report",
           [](Executable& e, const std::vector<at::Tensor>& args, const std::vector<int64_t>& needs, bool training) {
             const Executable::Report r = e.report(args, mode_from(e, needs, training));
             py::list steps;
             for (const auto& i : r.steps) steps.append(py::make_tuple(i.backward, i.through_aten, i.op, i.node));
             py::dict d;
             d["steps"] = steps;
             d["scratch_bytes"] = r.scratch_bytes;
             d["kept_bytes"] = r.kept_bytes;
             d["backward_scratch_bytes"] = r.backward_scratch_bytes;
             d["forward"] = r.forward_text;
             d["backward"] = r.backward_text;
             return d;
           })
      .def(
          "time_steps",
          [](Executable& e, const std::vector<at::Tensor>& args, const std::vector<int64_t>& needs, bool training,
             int64_t repeats, bool backward) {
            py::gil_scoped_release release;
            return e.time_steps(args, mode_from(e, needs, training), repeats, backward);
          },
          py::arg("args"), py::arg("needs"), py::arg("training"), py::arg("repeats"), py::arg("backward") = false)
      .def("updated_args", &Executable::updated_args)
      .def("joint", [](Executable& e, const std::vector<int64_t>& needs,
                       bool training) { return e.joint(mode_from(e, needs, training)); })
      .def("saved",
           [](Executable& e, const std::vector<int64_t>& needs, bool training) {
             const Executable::Saved& s = e.saved(mode_from(e, needs, training));
             py::dict d;
             d["args"] = s.args;
             d["outputs"] = s.outputs;
             d["joint_args"] = s.joint_args;
             d["seeds"] = s.seeds;
             d["reached"] = s.reached;
             return d;
           })
      .def("output_types",
           [](Executable& e, const py::sequence& args, const std::vector<int64_t>& needs, bool training) {
             return tuples(e.output_types(types_from(args), mode_from(e, needs, training)));
           })
      .def("kept_types", [](Executable& e, const py::sequence& args, const std::vector<int64_t>& needs, bool training) {
        return tuples(e.kept_types(types_from(args), mode_from(e, needs, training)));
      });
}

}  // namespace ortmod
