// Operators that the cutting of graphs inserts.
#include <ATen/ATen.h>

#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

void infer_shape_only(Infer& c) {
  const auto t = static_cast<DType>(c.node.attr("dtype", 1));
  const HostInts* s = c.ints(0);
  if (s) return c.out(0, t, Dims(s->v.begin(), s->v.end()));
  if (c.ranked(0) && is_known(c.dims(0)[0])) return c.out(0, t, Dims(static_cast<size_t>(c.dims(0)[0]), kAnyDim));
  c.out_unranked(0, t);
}

Kernel shape_only(const Node& n) {
  const at::ScalarType t = to_scalar_type(static_cast<DType>(n.attr("dtype", 1)));
  return [t](Call& c) { c.set(0, at::empty(c.ints(0), at::TensorOptions().dtype(t).device(c.device()))); };
}

}  // namespace

OpTable engine_ops() {
  return {
      // Stands for a value of which only the shape is read.
      {.name = "ShapeOnly",
       .domain = "ortmod",
       .infer = infer_shape_only,
       .kernel = shape_only,
       .grad = no_grad,
       .body = [](const Grad& g) -> Grads {
         const auto t = static_cast<DType>(g.attr("dtype", 1));
         return {expand(g.builder().scalar(0, t), g.x(0))};
       },
       .host_inputs = 1},
  };
}

}  // namespace ortmod
