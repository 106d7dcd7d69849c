// Sessions over training artifacts for Python; steps run without the GIL.
#include "python/bind.h"
#include "train/session.h"

namespace py = pybind11;

namespace ortmod {

void bind_session(py::module_& m) {
  using Guard = py::call_guard<py::gil_scoped_release>;
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
      .def("train_step", &Session::train_step, Guard())
      .def("eval_step", &Session::eval_step, Guard())
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
      .def_property_readonly("steps", &Session::steps);
}

}  // namespace ortmod
