// The eager call of a module: one CPython call that reads the parameters, runs and wraps; no work in Python.
#include <ATen/autocast_mode.h>
#include <structmember.h>

#include "autograd/function.h"
#include "ops/kernel.h"
#include "python/bind.h"

namespace py = pybind11;

namespace ortmod {

namespace {

/// Where one weight is found at call time: in the dicts of the module that owns it, else as its attribute.
struct Slot {
  PyObject *owner, *parameters, *buffers, *name;
};

/// ortmod._C.Call(executable, owners, modal): `call(module, args, kwargs)` runs `module`'s graph on the tensors `args`.
/// What it cannot do itself it hands to `module._bind(args, kwargs)` (names, defaults, conversions) and
/// `module._intercepted(inputs, weights)` (functorch, fake tensors, dispatch modes, other element types).
struct CallObject {
  PyObject_HEAD vectorcallfunc vectorcall;
  std::shared_ptr<Executable>* exe;
  std::vector<Slot>* slots;
  std::vector<at::ScalarType>* types;
  bool modal;  // train() and eval() differ
};

struct Interned {
  PyObject* training = PyUnicode_InternFromString("training");
  PyObject* bind = PyUnicode_InternFromString("_bind");
  PyObject* intercepted = PyUnicode_InternFromString("_intercepted");
};
const Interned& interned() {
  static const Interned names;
  return names;
}

PyObject* wrap_outputs(std::vector<at::Tensor>&& outputs) {
  if (outputs.size() == 1) return THPVariable_Wrap(std::move(outputs[0]));
  py::tuple result(outputs.size());
  for (size_t i = 0; i < outputs.size(); i++) {
    PyObject* o = THPVariable_Wrap(std::move(outputs[i]));
    if (!o) throw python_error();
    PyTuple_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), o);
  }
  return result.release().ptr();
}

/// The weight in a slot: a borrowed reference where possible, otherwise kept alive by `keep`.
PyObject* weight_of(const Slot& s, std::vector<py::object>& keep) {
  for (PyObject* dict : {s.parameters, s.buffers}) {
    PyObject* found = PyDict_GetItemWithError(dict, s.name);
    if (found) return found;
    if (PyErr_Occurred()) throw python_error();
  }
  PyObject* found = PyObject_GetAttr(s.owner, s.name);
  if (!found) throw python_error();
  keep.push_back(py::reinterpret_steal<py::object>(found));
  return found;
}

PyObject* run_call(CallObject* self, PyObject* module, PyObject* args, PyObject* kwargs) {
  const size_t n_inputs = (*self->exe)->num_inputs();
  py::object bound;
  if (PyDict_GET_SIZE(kwargs) || static_cast<size_t>(PyTuple_GET_SIZE(args)) != n_inputs) {
    PyObject* argv[] = {module, args, kwargs};
    PyObject* b = PyObject_VectorcallMethod(interned().bind, argv, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
    if (!b) throw python_error();
    bound = py::reinterpret_steal<py::object>(b);
    args = b;
  }

  const size_t n = n_inputs + self->slots->size();
  std::vector<at::Tensor> tensors;
  tensors.reserve(n);
  std::vector<py::object> keep;
  bool direct = is_ordinary_context();
  for (size_t i = 0; i < n; i++) {
    PyObject* o = i < n_inputs ? PyTuple_GET_ITEM(args, static_cast<Py_ssize_t>(i))
                               : weight_of((*self->slots)[i - n_inputs], keep);
    if (!THPVariable_Check(o)) {
      if (i < n_inputs && !bound) {  // numbers and arrays become tensors there
        PyObject* argv[] = {module, args, kwargs};
        PyObject* b = PyObject_VectorcallMethod(interned().bind, argv, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
        if (!b) throw python_error();
        bound = py::reinterpret_steal<py::object>(b);
        args = b;
        tensors.clear();
        i = static_cast<size_t>(-1);
        continue;
      }
      fail(ErrorKind::kType, "run",
           "weight " + std::to_string(i - n_inputs) + ": got " + Py_TYPE(o)->tp_name + ", expected a torch.Tensor");
    }
    const at::Tensor& t = THPVariable_Unpack(o);
    direct = direct && is_plain(t) &&
             (t.scalar_type() == (*self->types)[i] || at::autocast::is_autocast_enabled(t.device().type()));
    tensors.push_back(t);
  }

  if (!direct) {
    py::list weights;
    for (size_t i = n_inputs; i < n; i++) weights.append(tensors[i]);
    PyObject* argv[] = {module, args, weights.ptr()};
    PyObject* r = PyObject_VectorcallMethod(interned().intercepted, argv, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
    if (!r) throw python_error();
    return r;
  }

  bool training = false;
  if (self->modal) {
    PyObject* flag = PyObject_GetAttr(module, interned().training);
    if (!flag) throw python_error();
    const int truth = PyObject_IsTrue(flag);
    Py_DECREF(flag);
    if (truth < 0) throw python_error();
    training = truth == 1;
  }
  std::vector<at::Tensor> outputs;
  {
    py::gil_scoped_release release;
    outputs = run(*self->exe, tensors, training);
  }
  return wrap_outputs(std::move(outputs));
}

PyObject* call_vectorcall(PyObject* self, PyObject* const* argv, size_t nargsf, PyObject* names) {
  HANDLE_TH_ERRORS
  if (names || PyVectorcall_NARGS(nargsf) != 3 || !PyTuple_Check(argv[1]) || !PyDict_Check(argv[2])) {
    PyErr_SetString(PyExc_TypeError, "call(module, args, kwargs)");
    return nullptr;
  }
  try {
    return run_call(reinterpret_cast<CallObject*>(self), argv[0], argv[1], argv[2]);
  } catch (const Error& e) {
    set_python_error(e);
    return nullptr;
  }
  END_HANDLE_TH_ERRORS
}

int call_clear(PyObject* o) {
  auto* self = reinterpret_cast<CallObject*>(o);
  if (!self->slots) return 0;
  std::vector<Slot> slots;
  slots.swap(*self->slots);
  for (Slot& s : slots)
    for (PyObject* p : {s.owner, s.parameters, s.buffers, s.name}) Py_DECREF(p);
  return 0;
}

int call_traverse(PyObject* o, visitproc visit, void* arg) {
  auto* self = reinterpret_cast<CallObject*>(o);
  Py_VISIT(Py_TYPE(o));
  if (self->slots)
    for (Slot& s : *self->slots)
      for (PyObject* p : {s.owner, s.parameters, s.buffers, s.name}) Py_VISIT(p);
  return 0;
}

void call_dealloc(PyObject* o) {
  auto* self = reinterpret_cast<CallObject*>(o);
  PyObject_GC_UnTrack(o);
  call_clear(o);
  delete self->exe;
  delete self->slots;
  delete self->types;
  PyTypeObject* type = Py_TYPE(o);
  type->tp_free(o);
  Py_DECREF(type);
}

PyObject* call_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  HANDLE_TH_ERRORS
  PyObject *exe, *owners;
  int modal;
  static const char* names[] = {"executable", "owners", "modal", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOp", const_cast<char**>(names), &exe, &owners, &modal))
    return nullptr;
  auto executable = py::handle(exe).cast<std::shared_ptr<Executable>>();
  auto* self = reinterpret_cast<CallObject*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->vectorcall = &call_vectorcall;
  self->slots = new std::vector<Slot>();
  self->types = new std::vector<at::ScalarType>();
  for (size_t i = 0; i < executable->num_args(); i++)
    self->types->push_back(to_scalar_type(executable->arg_type(i).dtype));
  self->exe = new std::shared_ptr<Executable>(std::move(executable));
  self->modal = modal;
  for (const auto& item : py::reinterpret_borrow<py::list>(owners)) {
    auto pair = item.cast<py::tuple>();
    py::object owner = pair[0], name = pair[1];
    py::object parameters = owner.attr("_parameters"), buffers = owner.attr("_buffers");
    PyObject* key = name.release().ptr();
    PyUnicode_InternInPlace(&key);
    self->slots->push_back({owner.release().ptr(), parameters.release().ptr(), buffers.release().ptr(), key});
  }
  return reinterpret_cast<PyObject*>(self);
  END_HANDLE_TH_ERRORS
}

bool unpack_sizes(PyObject* tuple, std::vector<int64_t>& to) {
  if (!PyTuple_Check(tuple)) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
    const long value = PyLong_AsLong(PyTuple_GET_ITEM(tuple, i));
    if (value < 0) {
      PyErr_Clear();
      return false;
    }
    to.push_back(value);
  }
  return true;
}

PyObject* empty_function_vectorcall(PyObject*, PyObject* const* argv, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  std::vector<at::Tensor> tensors;
  tensors.reserve(static_cast<size_t>(n));
  std::vector<int64_t> shape;
  if (n < 2 || !unpack_sizes(argv[0], shape)) {
    PyErr_SetString(PyExc_TypeError, "empty_function(shape, *tensors)");
    return nullptr;
  }
  for (Py_ssize_t i = 1; i < n; i++) {
    if (!THPVariable_Check(argv[i])) {
      PyErr_SetString(PyExc_TypeError, "empty_function(shape, *tensors)");
      return nullptr;
    }
    tensors.push_back(THPVariable_Unpack(argv[i]));
  }
  at::Tensor result;
  {
    py::gil_scoped_release release;
    result = empty_function(tensors, shape);
  }
  return THPVariable_Wrap(std::move(result));
  END_HANDLE_TH_ERRORS
}

PyMemberDef call_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(CallObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};
PyType_Slot call_slots[] = {
    {Py_tp_doc, const_cast<char*>("call(module, args, kwargs): runs the graph of an OnnxModule eagerly.")},
    {Py_tp_new, reinterpret_cast<void*>(&call_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(&call_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(&call_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(&call_clear)},
    {Py_tp_call, reinterpret_cast<void*>(&PyVectorcall_Call)},
    {Py_tp_members, call_members},
    {0, nullptr},
};
PyType_Spec call_spec = {"ortmod._C.Call", sizeof(CallObject), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, call_slots};
PyMethodDef empty_function_def = {
    "empty_function", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&empty_function_vectorcall)),
    METH_FASTCALL,
    "empty_function(shape, *tensors): a C++ autograd Function that computes nothing, to measure against."};

}  // namespace

void bind_autograd(py::module_& m) {
  PyObject* type = PyType_FromSpec(&call_spec);
  if (!type) throw py::error_already_set();
  m.add_object("Call", type);
  PyObject* empty = PyCFunction_NewEx(&empty_function_def, nullptr, m.attr("__name__").ptr());
  if (!empty) throw py::error_already_set();
  m.add_object("empty_function", empty);
  m.def(
      "run",
      [](const std::shared_ptr<Executable>& exe, const std::vector<at::Tensor>& args, bool training) {
        py::gil_scoped_release release;
        return run(exe, args, training);
      },
      py::arg("executable"), py::arg("args"), py::arg("training") = false);
}

}  // namespace ortmod
