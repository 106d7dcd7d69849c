// Sessions over training artifacts for Python; steps run without the GIL.
#include "python/bind.h"
#include "train/session.h"

namespace py = pybind11;

namespace ortmod {

void bind_session(py::module_& m) {
  using Guard = py::call_guard<py::gil_scoped_release>;
  py::class_<TrainingSession, std::shared_ptr<TrainingSession>>(m, "TrainingSession")
      .def(py::init([](const std::string& training, const std::string& evaluation,
                       const std::map<std::string, py::object>& parameters, const std::string& device) {
             std::map<std::string, at::Tensor> given;
             for (const auto& [name, value] : parameters)
               given[name] = value.is_none() ? at::Tensor() : value.cast<at::Tensor>();
             py::gil_scoped_release release;
             return std::make_shared<TrainingSession>(training, evaluation, given, at::Device(device));
           }),
           py::arg("training"), py::arg("evaluation"), py::arg("parameters"), py::arg("device") = "cpu")
      .def("set_optimizer", &TrainingSession::set_optimizer, Guard())
      .def("train_step", &TrainingSession::train_step, Guard())
      .def("eval_step", &TrainingSession::eval_step, Guard())
      .def("lazy_reset_grad", &TrainingSession::lazy_reset_grad)
      .def("optimizer_step", &TrainingSession::optimizer_step, Guard())
      .def_readwrite("learning_rate", &TrainingSession::learning_rate)
      .def_readwrite("step", &TrainingSession::step)
      .def("input_names", &TrainingSession::input_names)
      .def("output_names", &TrainingSession::output_names)
      .def_property_readonly("parameter_names", &TrainingSession::parameter_names)
      .def_property_readonly("trainable", &TrainingSession::trainable)
      .def_property_readonly("has_eval", &TrainingSession::has_eval)
      .def_property_readonly("has_optimizer", &TrainingSession::has_optimizer)
      .def_property_readonly("has_gradients", &TrainingSession::has_gradients)
      .def("parameter", &TrainingSession::parameter)
      .def("gradient", &TrainingSession::gradient)
      .def("set_parameter", &TrainingSession::set_parameter)
      .def("optimizer_states", &TrainingSession::optimizer_states)
      .def("set_optimizer_states", &TrainingSession::set_optimizer_states)
      .def("to_buffer", &TrainingSession::to_buffer)
      .def("from_buffer", &TrainingSession::from_buffer)
      .def("parameters_size", &TrainingSession::parameters_size)
      .def("export_for_inferencing", &TrainingSession::export_for_inferencing)
      .def_property_readonly("steps", &TrainingSession::steps);
}

}  // namespace ortmod
