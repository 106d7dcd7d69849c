// Static CPU steps that move elements.
#include "ops/bind_copy.h"

#include <algorithm>

#include "kernels/cpu/copy.h"
#include "kernels/cpu/gather.h"
#include "ops/indexing.h"

namespace ortmod {
namespace {

struct CopyArgs {
  cpu::StridedCopy c;
  Operand src, dst;
};

void run_copy(const CopyArgs& a, char* const* base) {
  cpu::run(a.c, a.src.ptr<const char>(base), a.dst.ptr<char>(base));
}

Dims dense(const Dims& d) {
  Dims s(d.size(), 1);
  for (size_t i = d.size(); i-- > 1;) s[i - 1] = s[i] * d[i];
  return s;
}

/// Copies dims with these strides between two operands.
bool emit_copy(Bind& b, Operand src, Operand dst, const Dims& dims, const Dims& from, const Dims& to, int64_t item,
               int64_t src_offset = 0, int64_t dst_offset = 0) {
  CopyArgs a;
  if (!cpu::plan(a.c, static_cast<int>(dims.size()), dims.data(), from.data(), to.data(), item)) return false;
  a.c.src_offset = src_offset;
  a.c.dst_offset = dst_offset;
  a.src = src;
  a.dst = dst;
  if (a.c.outer) b.emit(run_copy, a);
  return true;
}

int64_t item_size(const Bind& b) { return static_cast<int64_t>(dtype_size(b.dtype())); }

struct ZeroArgs {
  Operand dst;
  int64_t bytes;
};

void run_zero(const ZeroArgs& a, char* const* base) {
  std::memset(a.dst.ptr<char>(base), 0, static_cast<size_t>(a.bytes));
}

struct FillArgs {
  Operand dst;
  int64_t count;
  char value[8];
};

template <class T>
void run_fill(const FillArgs& a, char* const* base) {
  T v;
  std::memcpy(&v, a.value, sizeof v);
  std::fill_n(a.dst.ptr<T>(base), a.count, v);
}

int64_t normal_axis(int64_t axis, size_t rank) { return axis < 0 ? axis + static_cast<int64_t>(rank) : axis; }

/// The part of a tensor of dims `whole` that a Slice selects: its dims, strides and first element.
struct Section {
  Dims dims, strides;
  int64_t offset = 0;
};

std::optional<Section> section(const Bind& b, const Dims& whole, size_t at) {
  Section s{whole, dense(whole), 0};
  const auto* starts = list_attr(b.node, "starts");
  const auto *ends = list_attr(b.node, "ends"), *axes = list_attr(b.node, "axes");
  const HostInts* h[4] = {};
  for (size_t i = 0; !starts && i < 4; ++i) {
    if (!b.has(at + i)) continue;
    h[i] = b.ints(at + i);
    if (!is_plain(h[i])) return std::nullopt;
  }
  const size_t n = starts ? starts->size() : h[0]->v.size();
  for (size_t i = 0; i < n; ++i) {
    const int64_t given = axes ? (*axes)[i] : h[2] ? h[2]->v[i] : static_cast<int64_t>(i);
    const size_t a = static_cast<size_t>(normal_axis(given, whole.size()));
    const SlicePart p = slice_part(starts ? (*starts)[i] : h[0]->v[i], starts ? (*ends)[i] : h[1]->v[i],
                                   h[3] ? h[3]->v[i] : 1, whole[a]);
    s.offset += p.count ? p.start * s.strides[a] : 0;
    s.strides[a] *= p.count > 1 ? p.step : 1;
    s.dims[a] = p.count;
  }
  return s;
}

cpu::Lookup lookup(const Dims& x, int64_t axis, int64_t count, int64_t item) {
  cpu::Lookup l;
  l.count = count;
  l.item = item;
  l.size = x[static_cast<size_t>(axis)];
  for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i)
    (i < axis ? l.outer : l.width) *= i == axis ? 1 : x[static_cast<size_t>(i)];
  return l;
}

struct LookupArgs {
  cpu::Lookup l;
  Operand slices, indices, data;
  const Node* node;
};

template <class Index>
void check_indices(const LookupArgs& a, const Index* indices) {
  if (const int64_t i = cpu::first_bad(a.l, indices); i < a.l.count)
    fail(ErrorKind::kRun, "run",
         "index out of range: got " + std::to_string(indices[i]) + ", expected -" + std::to_string(a.l.size) + " to " +
             std::to_string(a.l.size - 1),
         *a.node, 1);
}

template <class Index>
void run_gather(const LookupArgs& a, char* const* base) {
  const Index* indices = a.indices.ptr<Index>(base);
  check_indices(a, indices);
  cpu::gather(a.l, a.data.ptr<const char>(base), indices, a.slices.ptr<char>(base));
}

template <class T, class Index>
void run_scatter_add(const LookupArgs& a, char* const* base) {
  const Index* indices = a.indices.ptr<Index>(base);
  check_indices(a, indices);
  cpu::scatter_add(a.l, a.slices.ptr<const T>(base), indices, a.data.ptr<T>(base));
}

}  // namespace

bool bind_same(Bind& b) {
  const Dims n{b.numel()}, one{1};
  return emit_copy(b, b.in(), b.out(), n, one, one, item_size(b));
}

bool bind_transpose(Bind& b) {
  const Dims &d = b.dims(), from = dense(d);
  const auto* perm = list_attr(b.node, "perm");
  Dims strides(d.size());
  for (size_t i = 0; i < d.size(); ++i)
    strides[i] = from[perm ? static_cast<size_t>(normal_axis((*perm)[i], d.size())) : d.size() - 1 - i];
  return emit_copy(b, b.in(), b.out(), b.out_dims(), strides, dense(b.out_dims()), item_size(b));
}

bool bind_expand(Bind& b) {
  const Dims &to = b.out_dims(), &d = b.dims(), from = dense(d);
  Dims strides(to.size(), 0);
  for (size_t i = 0; i < d.size(); ++i)
    if (d[i] != 1) strides[to.size() - d.size() + i] = from[i];
  return emit_copy(b, b.in(), b.out(), to, strides, dense(to), item_size(b));
}

bool bind_tile(Bind& b) {
  const Dims &to = b.out_dims(), &d = b.dims(), from = dense(d), out = dense(to);
  Dims dims, src, dst;
  for (size_t i = 0; i < d.size(); ++i) {
    if (d[i] == 0) return true;
    dims.push_back(to[i] / d[i]);
    src.push_back(0);
    dst.push_back(d[i] * out[i]);
    dims.push_back(d[i]);
    src.push_back(from[i]);
    dst.push_back(out[i]);
  }
  return emit_copy(b, b.in(), b.out(), dims, src, dst, item_size(b));
}

bool bind_concat(Bind& b) {
  const Dims &to = b.out_dims(), out = dense(to);
  const size_t a = static_cast<size_t>(normal_axis(b.node.attr("axis", 1), to.size()));
  int64_t offset = 0;
  if (to.size() > cpu::kCopyDims) return false;
  for (size_t i = 0; i < b.num_in(); ++i) {
    if (!emit_copy(b, b.in(i), b.out(), b.dims(i), dense(b.dims(i)), out, item_size(b), 0, offset)) return false;
    offset += b.dims(i)[a] * out[a];
  }
  return true;
}

bool bind_split(Bind& b) {
  const Dims &d = b.dims(), from = dense(d);
  const size_t a = static_cast<size_t>(normal_axis(b.node.attr("axis", 0), d.size()));
  const int64_t n = static_cast<int64_t>(b.node.outputs.size()), chunk = (d[a] + n - 1) / n;
  const auto* attr = list_attr(b.node, "split");
  const HostInts* h = !attr && b.has(1) ? b.ints(1) : nullptr;
  if (d.size() > cpu::kCopyDims || (!attr && b.has(1) && !is_plain(h))) return false;
  int64_t offset = 0;
  for (size_t o = 0; o < static_cast<size_t>(n); ++o) {
    const int64_t size = attr ? (*attr)[o] : h ? h->v[o] : std::min(chunk, d[a] - offset);
    if (b.wants(o)) {
      const Dims& to = b.out_dims(o);
      if (!emit_copy(b, b.in(), b.out(o), to, from, dense(to), item_size(b), offset * from[a], 0)) return false;
    }
    offset += size;
  }
  return true;
}

bool bind_fill(Bind& b, const Literal& value) {
  FillArgs a{b.out(), b.out_numel(), {}};
  if (value.bytes() > sizeof a.value || value.dtype() != b.out_dtype()) return false;
  std::memcpy(a.value, value.data(), value.bytes());
  const bool zero = std::all_of(a.value, a.value + value.bytes(), [](char c) { return c == 0; });
  if (zero) {
    b.emit(run_zero, ZeroArgs{a.dst, a.count * static_cast<int64_t>(value.bytes())});
    return true;
  }
  switch (value.bytes()) {
    case 1:
      b.emit(run_fill<uint8_t>, a);
      return true;
    case 2:
      b.emit(run_fill<uint16_t>, a);
      return true;
    case 4:
      b.emit(run_fill<uint32_t>, a);
      return true;
    case 8:
      b.emit(run_fill<uint64_t>, a);
      return true;
    default:
      return false;
  }
}

bool bind_slice(Bind& b) {
  const auto s = section(b, b.dims(), 1);
  return s && emit_copy(b, b.in(), b.out(), s->dims, s->strides, dense(s->dims), item_size(b), s->offset, 0);
}

bool bind_slice_grad(Bind& b) {
  const auto s = section(b, b.out_dims(), 2);
  if (!s || s->dims.size() > cpu::kCopyDims) return false;
  b.emit(run_zero, ZeroArgs{b.out(), b.out_numel() * item_size(b)});
  return emit_copy(b, b.in(), b.out(), s->dims, dense(s->dims), s->strides, item_size(b), 0, s->offset);
}

bool bind_gather(Bind& b) {
  const int64_t axis = normal_axis(b.node.attr("axis", 0), b.dims().size());
  const LookupArgs a{lookup(b.dims(), axis, b.numel(1), item_size(b)), b.out(), b.in(1), b.in(0), &b.node};
  if (b.out_numel() == 0 || dtype_size(b.out_dtype()) == 0) return false;
  if (b.dtype(1) == DType::kInt64)
    b.emit(run_gather<int64_t>, a);
  else if (b.dtype(1) == DType::kInt32)
    b.emit(run_gather<int32_t>, a);
  else
    return false;
  return true;
}

bool bind_gather_grad(Bind& b) {
  const int64_t axis = normal_axis(b.node.attr("axis", 0), b.out_dims().size());
  const LookupArgs a{lookup(b.out_dims(), axis, b.numel(1), item_size(b)), b.in(0), b.in(1), b.out(), &b.node};
  if (b.out_numel() == 0) return true;
  const bool wide = b.dtype(1) == DType::kInt64;
  if (!wide && b.dtype(1) != DType::kInt32) return false;
  if (b.out_dtype() == DType::kFloat)
    wide ? b.emit(run_scatter_add<float, int64_t>, a) : b.emit(run_scatter_add<float, int32_t>, a);
  else if (b.out_dtype() == DType::kDouble)
    wide ? b.emit(run_scatter_add<double, int64_t>, a) : b.emit(run_scatter_add<double, int32_t>, a);
  else
    return false;
  return true;
}

}  // namespace ortmod
