// The extension module ortmod._C: errors, then the parts.
#include <cstring>

#include "autograd/function.h"
#include "python/bind.h"

namespace py = pybind11;

namespace ortmod {

namespace {

const char* class_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kModel:
      return "ModelError";
    case ErrorKind::kUnsupportedOp:
      return "UnsupportedOpError";
    case ErrorKind::kGradient:
      return "GradientError";
    case ErrorKind::kShape:
      return "ShapeError";
    case ErrorKind::kType:
      return "DTypeError";
    case ErrorKind::kDevice:
      return "DeviceError";
    case ErrorKind::kRun:
      return "RunError";
  }
  return "OrtmodError";
}

/// From any thread, into torch: the Python error travels inside torch's own exception.
void throw_python_error(const Error& e) {
  py::gil_scoped_acquire gil;
  set_python_error(e);
  python_error carried;
  carried.persist();
  throw python_error(carried);
}

}  // namespace

void set_python_error(const Error& e) {
  py::object type = py::module_::import("ortmod._errors").attr(class_of(e.kind()));
  const auto text = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(e.what(), static_cast<Py_ssize_t>(std::strlen(e.what())), "backslashreplace"));
  PyErr_SetObject(type.ptr(), text.ptr());
}

}  // namespace ortmod

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "The compiled part of ortmod.";
  m.attr("TORCH_VERSION") = ORTMOD_TORCH_VERSION;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ortmod::Error& e) {
      ortmod::set_python_error(e);
    }
  });
  ortmod::on_error = &ortmod::throw_python_error;
  ortmod::bind_graph(m);
  ortmod::bind_passes(m);
  ortmod::bind_exec(m);
  ortmod::bind_autograd(m);
  ortmod::bind_train(m);
}
