// Conversions between arrays of Python and memory of a session.
#include "python/arrays.h"

#include <torch/csrc/autograd/python_variable.h>

namespace py = pybind11;

namespace ortmod {
namespace {

using Api = py::detail::npy_api;
constexpr int kHalf = 23;  // NPY_HALF

bool scalar_type(const py::dtype& t, at::ScalarType& type) {
  const auto size = t.itemsize();
  switch (t.kind()) {
    case 'f':
      type = size == 4 ? at::kFloat : size == 8 ? at::kDouble : at::kHalf;
      return size == 2 || size == 4 || size == 8;
    case 'i':
      type = size == 8 ? at::kLong : size == 4 ? at::kInt : size == 2 ? at::kShort : at::kChar;
      return true;
    case 'u':
      type = at::kByte;
      return size == 1;
    case 'b':
      type = at::kBool;
      return true;
    default:
      return false;
  }
}

int number_of(at::ScalarType t) {
  switch (t) {
    case at::kFloat:
      return Api::NPY_FLOAT_;
    case at::kDouble:
      return Api::NPY_DOUBLE_;
    case at::kHalf:
      return kHalf;
    case at::kLong:
      return Api::NPY_INT64_;
    case at::kInt:
      return Api::NPY_INT32_;
    case at::kShort:
      return Api::NPY_INT16_;
    case at::kChar:
      return Api::NPY_INT8_;
    case at::kByte:
      return Api::NPY_UINT8_;
    case at::kBool:
      return Api::NPY_BOOL_;
    default:
      return -1;
  }
}

py::object values(const char* function, py::handle value) {
  return py::module_::import("ortmod.training._values").attr(function)(value);
}

}  // namespace

bool as_column(py::handle value, Column& column) {
  if (THPVariable_CheckExact(value.ptr())) {
    const at::Tensor& t = THPVariable_Unpack(value.ptr());
    if (!t.is_cpu() || t.layout() != at::kStrided || !t.is_contiguous()) return false;
    column = {t.scalar_type(), t.sizes(), const_cast<void*>(t.const_data_ptr())};
    return true;
  }
  if (!py::isinstance<py::array>(value)) return false;
  const auto array = py::reinterpret_borrow<py::array>(value);
  const py::dtype type = array.dtype();
  const char order = type.byteorder();
  constexpr int kWanted = Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & kWanted) != kWanted || (order != '=' && order != '|') || !scalar_type(type, column.type))
    return false;
  static_assert(sizeof(py::ssize_t) == sizeof(int64_t));
  column.dims = {reinterpret_cast<const int64_t*>(array.shape()), static_cast<size_t>(array.ndim())};
  column.data = const_cast<void*>(array.data());
  return true;
}

at::Tensor to_tensor(py::handle value) { return values("to_tensor", value).cast<at::Tensor>(); }
py::object to_array(const at::Tensor& t) { return values("to_array", py::cast(t)); }

bool new_array(at::ScalarType type, at::IntArrayRef dims, py::array& made) {
  const int number = number_of(type);
  if (number < 0) return false;
  made = py::array(py::dtype(number), py::array::ShapeContainer(dims.begin(), dims.end()));
  return true;
}

}  // namespace ortmod
