// Sessions over training artifacts for Python; steps run without the GIL.
#include <torch/csrc/autograd/python_variable.h>

#include "python/arrays.h"
#include "python/bind.h"
#include "train/checkpoint.h"

namespace py = pybind11;

namespace ortmod {
namespace {

py::object returned(std::vector<py::object>& results) {
  if (results.size() == 1) return std::move(results[0]);
  py::tuple r(results.size());
  for (size_t i = 0; i < results.size(); ++i) r[i] = std::move(results[i]);
  return r;
}

/// Inputs or outputs that the session cannot use where they are.
py::object step_on_copies(Session& s, bool training, const py::args& inputs, bool tensors) {
  std::vector<at::Tensor> given, found;
  for (const py::handle value : inputs) given.push_back(to_tensor(value));
  {
    const py::gil_scoped_release release;
    found = training ? s.train_step(given) : s.eval_step(given);
  }
  std::vector<py::object> results;
  for (const at::Tensor& t : found) results.push_back(tensors ? py::cast(t) : to_array(t));
  return returned(results);
}

/// A step on numpy arrays, tensors or whatever can become one; outputs are tensors if all inputs are, else arrays.
py::object step(Session& s, bool training, const py::args& inputs) {
  SmallVec<Column, 4> columns;
  bool in_place = s.device().is_cpu(), tensors = inputs.size() > 0;
  for (const py::handle value : inputs) {
    Column c;
    in_place = in_place && as_column(value, c);
    tensors = tensors && THPVariable_Check(value.ptr());
    columns.push_back(c);
  }
  if (!in_place) return step_on_copies(s, training, inputs, tensors);
  const c10::ArrayRef<at::Tensor> types = s.begin(training, {columns.data(), columns.size()});
  std::vector<py::object> results(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    const at::Tensor& t = types[i];
    py::array array;
    if (!t.defined()) {
      continue;
    } else if (!tensors && new_array(t.scalar_type(), t.sizes(), array)) {
      s.bind_output(i, array.mutable_data());
      results[i] = std::move(array);
    } else {
      at::Tensor made = at::empty_like(t);
      s.bind_output(i, made.data_ptr());
      results[i] = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(made)));
    }
  }
  {
    const py::gil_scoped_release release;
    s.finish();
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (!results[i]) results[i] = py::cast(types[i]);
    if (!tensors && THPVariable_Check(results[i].ptr())) results[i] = to_array(THPVariable_Unpack(results[i].ptr()));
  }
  return returned(results);
}

}  // namespace

void bind_session(py::module_& m) {
  using Guard = py::call_guard<py::gil_scoped_release>;
  py::class_<Checkpoint>(m, "Checkpoint")
      .def(py::init<>())
      .def_readwrite("parameters", &Checkpoint::parameters)
      .def_readwrite("trainable", &Checkpoint::trainable)
      .def_readwrite("properties", &Checkpoint::properties)
      .def_readwrite("optimizer", &Checkpoint::optimizer)
      .def_readwrite("step", &Checkpoint::step)
      .def_readwrite("learning_rate", &Checkpoint::learning_rate);
  m.def("load_checkpoint", &load_checkpoint, Guard());
  const auto with = [](auto* write) {
    return [write](const Checkpoint& c, const std::string& path, bool optimizer, bool nominal) {
      write(c, path, {.optimizer = optimizer, .nominal = nominal});
    };
  };
  m.def("save_checkpoint", with(&save_checkpoint), py::arg("checkpoint"), py::arg("path"), py::arg("optimizer") = true,
        py::arg("nominal") = false, Guard());
  m.def("write_checkpoint", with(&write_checkpoint), py::arg("checkpoint"), py::arg("path"),
        py::arg("optimizer") = true, py::arg("nominal") = false, Guard());
  py::class_<Session, std::shared_ptr<Session>>(m, "TrainingSession")
      .def(py::init([](const std::string& training, const std::string& evaluation,
                       const std::map<std::string, py::object>& parameters, const std::string& device) {
             std::map<std::string, at::Tensor> given;
             for (const auto& [name, value] : parameters)
               given[name] = value.is_none() ? at::Tensor() : value.cast<at::Tensor>();
             py::gil_scoped_release release;
             return std::make_shared<Session>(training, evaluation, given, at::Device(device));
           }),
           py::arg("training"), py::arg("evaluation"), py::arg("parameters"), py::arg("device") = "cpu")
      .def("set_optimizer", &Session::set_optimizer, Guard())
      .def("train_step", [](Session& s, const py::args& inputs) { return step(s, true, inputs); })
      .def("eval_step", [](Session& s, const py::args& inputs) { return step(s, false, inputs); })
      .def("lazy_reset_grad", &Session::lazy_reset_grad)
      .def("optimizer_step", &Session::optimizer_step, Guard())
      .def_readwrite("learning_rate", &Session::learning_rate)
      .def_readwrite("step", &Session::step)
      .def("input_names", &Session::input_names)
      .def("output_names", &Session::output_names)
      .def_property_readonly("parameter_names", &Session::parameter_names)
      .def_property_readonly("trainable", &Session::trainable)
      .def_property_readonly("has_eval", &Session::has_eval)
      .def_property_readonly("has_optimizer", &Session::has_optimizer)
      .def_property_readonly("has_gradients", &Session::has_gradients)
      .def("parameter", &Session::parameter)
      .def("gradient", &Session::gradient)
      .def("set_parameter", &Session::set_parameter)
      .def("optimizer_states", &Session::optimizer_states)
      .def("set_optimizer_states", &Session::set_optimizer_states)
      .def("to_buffer", &Session::to_buffer)
      .def("from_buffer", &Session::from_buffer)
      .def("parameters_size", &Session::parameters_size)
      .def("export_for_inferencing", &Session::export_for_inferencing)
      .def_property_readonly("steps", &Session::steps)
      .def_property_readonly("update_steps", &Session::update_steps);
}

}  // namespace ortmod
