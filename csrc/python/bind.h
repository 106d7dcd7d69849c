// What the parts of the extension module share.
#pragma once
#include <torch/extension.h>

#include <memory>

#include "exec/executable.h"
#include "graph/graph.h"

namespace ortmod {

/// A model as Python holds it: an immutable graph in canonical form.
struct Model {
  std::shared_ptr<const Graph> graph;
};

/// Sets the Python exception of an error's kind (ortmod._errors).
void set_python_error(const Error& e);

/// A tensor that shares the literal's memory and keeps it alive; only to be read.
at::Tensor tensor_of(const LiteralPtr& literal);
/// A literal that shares the memory of a (contiguous, CPU) tensor.
LiteralPtr literal_of(const at::Tensor& tensor);
/// (element type, dims or None, kind); a dim is an int, a name, an expression ('+', a, b), or None.
pybind11::tuple type_tuple(const Type& t);
Type type_from(int dtype, const pybind11::sequence& dims);

void bind_graph(pybind11::module_& m);
void bind_passes(pybind11::module_& m);
void bind_exec(pybind11::module_& m);
void bind_autograd(pybind11::module_& m);
void bind_train(pybind11::module_& m);

}  // namespace ortmod
