// Operators: ortmod::Unpack and ortmod::Pack, a flat tensor as consecutive pieces of known shapes, and back.
#include "ops/parts.h"

#include <ATen/ATen.h>

#include "ops/attrs.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

/// The attribute `shapes`: for each piece its rank, then its dims.
std::vector<std::vector<int64_t>> shapes_of(const Node& n) {
  std::vector<std::vector<int64_t>> r;
  const auto list = int_list(n, "shapes");
  for (size_t i = 0; i < list.size();) {
    const auto rank = static_cast<size_t>(list[i++]);
    if (list[i - 1] < 0 || i + rank > list.size())
      fail(ErrorKind::kModel, "model", "the attribute shapes must list rank and dims of each piece", n);
    r.emplace_back(list.begin() + static_cast<std::ptrdiff_t>(i), list.begin() + static_cast<std::ptrdiff_t>(i + rank));
    i += rank;
  }
  return r;
}

int64_t count(const std::vector<int64_t>& dims) {
  int64_t n = 1;
  for (int64_t d : dims) n *= d;
  return n;
}

void infer_unpack(Infer& c) {
  const auto shapes = shapes_of(c.node);
  if (shapes.size() != c.num_out())
    c.fail("the attribute shapes has another number of pieces than the node has outputs");
  int64_t total = 0;
  for (size_t o = 0; o < shapes.size(); ++o) {
    c.out(o, c.dtype(0), Dims(shapes[o].begin(), shapes[o].end()));
    total += count(shapes[o]);
  }
  if (c.ranked(0) && (c.rank(0) != 1 || differ(c.dims(0)[0], total)))
    c.fail("the pieces do not make up the input: got " + to_string(c.dims(0)) + ", expected " + std::to_string(total) +
               " elements",
           0);
}

void infer_pack(Infer& c) {
  Dim total = 0;
  for (size_t i = 0; i < c.num_in(); ++i) {
    if (c.dtype(i) != c.dtype(0)) c.fail("the pieces must have one element type", static_cast<int>(i));
    Dim n = c.ranked(i) ? 1 : kAnyDim;
    if (c.ranked(i))
      for (Dim d : c.dims(i)) n = dim_mul(n, d);
    total = dim_add(total, n);
  }
  c.out(0, c.dtype(0), Dims{total});
}

Kernel unpack_kernel(const Node& n) {
  return [shapes = shapes_of(n)](Call& c) {
    int64_t at = 0;
    for (size_t o = 0; o < shapes.size(); ++o) {
      const int64_t size = count(shapes[o]);
      const at::Tensor piece = c.in(0).narrow(0, at, size).view(shapes[o]);
      if (c.wants(o) && c.out(o).unsafeGetTensorImpl() &&
          !(c.out(o).numel() == size && c.out(o).const_data_ptr() == piece.const_data_ptr()))
        c.set(o, piece.clone());
      at += size;
    }
  };
}

Kernel pack_kernel(const Node&) {
  return [](Call& c) {
    int64_t total = 0;
    for (size_t i = 0; i < c.num_in(); ++i) total += c.in(i).numel();
    at::Tensor& y = c.out();
    if (y.numel() != total) y.resize_({total});
    int64_t at = 0;
    for (size_t i = 0; i < c.num_in(); ++i) {
      at::Tensor to = y.narrow(0, at, c.in(i).numel());
      if (to.const_data_ptr() != c.in(i).const_data_ptr()) to.copy_(c.in(i).reshape(-1));
      at += c.in(i).numel();
    }
  };
}

struct CopyArgs {
  Operand from, to;
  size_t bytes;
};

void run_copy(const CopyArgs& a, char* const* base) {
  std::memcpy(a.to.ptr<char>(base), a.from.ptr<char>(base), a.bytes);
}

void emit_copy(Bind& b, Operand from, Operand to, int64_t bytes) {
  if (from.index == to.index && from.offset == to.offset) return;
  b.emit(run_copy, CopyArgs{from, to, static_cast<size_t>(bytes)});
}

bool bind_unpack(Bind& b) {
  Operand from = b.in(0);
  const auto shapes = shapes_of(b.node);
  for (size_t o = 0; o < shapes.size(); ++o) {
    const int64_t bytes = count(shapes[o]) * static_cast<int64_t>(dtype_size(b.dtype(0)));
    if (b.wants(o)) emit_copy(b, from, b.out(o), bytes);
    from.offset += bytes;
  }
  return true;
}

bool bind_pack(Bind& b) {
  Operand to = b.out(0);
  for (size_t i = 0; i < b.num_in(); ++i) {
    const int64_t bytes = b.numel(i) * static_cast<int64_t>(dtype_size(b.dtype(i)));
    emit_copy(b, b.in(i), to, bytes);
    to.offset += bytes;
  }
  return true;
}

Grads unpack_body(const Grad& g) {
  Grads r;
  int64_t at = 0;
  for (const auto& shape : shapes_of(g.node())) {
    const int64_t size = count(shape);
    r.push_back(reshape(
        slice(g.x(), std::vector<int64_t>{at}, std::vector<int64_t>{at + size}, std::vector<int64_t>{0}), shape));
    at += size;
  }
  return r;
}

Grads pack_body(const Grad& g) {
  std::vector<Expr> flat;
  for (size_t i = 0; i < g.num_inputs(); ++i) flat.push_back(flatten_all(g.x(i)));
  return {concat(flat, 0)};
}

}  // namespace

OpTable parts_ops() {
  return {
      {.name = "Unpack",
       .domain = "ortmod",
       .infer = infer_unpack,
       .kernel = unpack_kernel,
       .bind = bind_unpack,
       .body = unpack_body,
       .alias = kPiecesOfInput},
      {.name = "Pack",
       .domain = "ortmod",
       .infer = infer_pack,
       .kernel = pack_kernel,
       .bind = bind_pack,
       .body = pack_body,
       .alias = kPiecesOfOutput},
  };
}

}  // namespace ortmod
