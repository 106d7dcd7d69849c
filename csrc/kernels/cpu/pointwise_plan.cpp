// Plans a pointwise program: what the planner decided, as tables in the memory of the step list.
#include "kernels/cpu/pointwise_planner.h"

#include <algorithm>
#include <new>

namespace ortmod::cpu {
namespace {

constexpr float kParallelNs = 40e3f;

template <class T>
T* copy_table(const T* from, size_t n, Alloc alloc, void* context) {
  if (n == 0) return nullptr;
  T* to = static_cast<T*>(alloc(context, n * sizeof(T), alignof(T)));
  std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
  return to;
}

void store_constant(char* at, Elem e, double value) {
  switch (e) {
    case Elem::kF64:
      *reinterpret_cast<double*>(at) = value;
      break;
    case Elem::kI64:
      *reinterpret_cast<int64_t*>(at) = static_cast<int64_t>(value);
      break;
    case Elem::kI32:
      *reinterpret_cast<int32_t*>(at) = static_cast<int32_t>(value);
      break;
    case Elem::kBool:
      *reinterpret_cast<uint8_t*>(at) = value != 0;
      break;
    default:
      *reinterpret_cast<float*>(at) = static_cast<float>(value);
      break;
  }
}

}  // namespace

bool pw_supported(Pw op, Elem type, Elem out) { return tile_fn(op, type, out, 0) != nullptr; }

const PwPlan* pw_plan(const PwDesc& desc, Alloc alloc, void* context) {
  if (desc.n_in > PwDesc::kMaxIn || desc.n_out > PwDesc::kMaxOut || desc.n_const > PwDesc::kMaxConst ||
      desc.n_inst > PwDesc::kMaxInst || desc.ndim > PwDesc::kMaxDims)
    return nullptr;
  static thread_local Planner planner_storage;
  Planner& q = planner_storage;
  q.p = PwPlan{};
  q.d = desc;
  q.rows = false;
  q.period = 1;
  q.n_temp = 0;
  q.cost = 0;
  q.n_splats = q.n_piece = q.n_refs = 0;
  for (int i = 0; i < desc.n_in + desc.n_const + desc.n_inst; ++i) q.v[i] = Planner::Val{};
  std::memset(q.free_temp, 0, sizeof q.free_temp);
  PwPlan& p = q.p;
  p.n = 1;
  for (int k = 0; k < desc.ndim; ++k) p.n *= desc.sizes[k];
  p.n_operands = desc.n_in + desc.n_out;
  if (p.n > 0) {
    collapse(q.d);
    q.choose_mode();
    q.place_inputs();
    if (!q.emit()) return nullptr;
    q.emit_outputs();
    q.size_tiles();
    if (p.n_operands + desc.n_const + q.n_temp > kMaxPtr || p.tile <= 0) return nullptr;
  }
  const PwDesc& d = q.d;
  p.ndim = d.ndim;
  std::copy(d.sizes, d.sizes + d.ndim, p.sizes);
  p.n_const = d.n_const;
  p.n_temp = q.n_temp;
  p.n_ptr = p.n_operands + p.n_const + p.n_temp;
  if (q.rows) {
    p.cols = d.sizes[d.ndim - 1];
    p.rows = p.n / p.cols;
    using Row = int64_t[PwDesc::kMaxDims];
    p.outer_strides =
        static_cast<Row*>(alloc(context, sizeof(Row) * static_cast<size_t>(p.n_operands), alignof(int64_t)));
    for (int i = 0; i < p.n_operands; ++i) {
      int64_t dense = p.cols;
      for (int k = d.ndim - 2; k >= 0; --k) {
        const Elem e = i < d.n_in ? d.in[i].type : d.out[i - d.n_in].type;
        p.outer_strides[i][k] = (i < d.n_in ? d.in[i].strides[k] : dense) * static_cast<int64_t>(elem_size(e));
        dense *= d.sizes[k];
      }
    }
  }
  const auto keep_loads = [&](PwLoad* l, int n) {
    for (int i = 0; i < n; ++i)
      l[i].strides = copy_table(d.in[l[i].src.ptr].strides, static_cast<size_t>(d.ndim), alloc, context);
    return copy_table(l, static_cast<size_t>(n), alloc, context);
  };
  p.loads = keep_loads(q.loads, p.n_loads);
  p.once_loads = keep_loads(q.once_loads, p.n_once_loads);
  p.row_loads = keep_loads(q.row_loads, p.n_row_loads);
  p.stores = copy_table(q.stores, static_cast<size_t>(p.n_stores), alloc, context);
  p.once.code = copy_table(q.once, static_cast<size_t>(p.once.n), alloc, context);
  p.once_full.code = copy_table(q.once_full, static_cast<size_t>(p.once_full.n), alloc, context);
  p.row.code = copy_table(q.row, static_cast<size_t>(p.row.n), alloc, context);
  p.refs = copy_table(q.refs, static_cast<size_t>(q.n_refs), alloc, context);
  p.body.code = copy_table(q.body, static_cast<size_t>(p.body.n), alloc, context);
  if (d.n_const > 0) {
    p.constants =
        static_cast<const char**>(alloc(context, sizeof(char*) * static_cast<size_t>(d.n_const), alignof(char*)));
    char* values = static_cast<char*>(alloc(context, 8 * static_cast<size_t>(d.n_const), 8));
    for (int i = 0; i < d.n_const; ++i) {
      store_constant(values + 8 * i, d.consts[i].type, d.consts[i].value);
      p.constants[i] = values + 8 * i;
    }
  }
  if (p.n_temp > 0) {
    p.temp_offsets =
        static_cast<int64_t*>(alloc(context, sizeof(int64_t) * static_cast<size_t>(p.n_temp), alignof(int64_t)));
    int64_t at = 0;
    for (int i = 0; i < p.n_temp; ++i) {
      p.temp_offsets[i] = at;
      at += q.small[i] ? kSlot : (q.temp_bytes + 63) / 64 * 64;
    }
    if (at > kScratch) return nullptr;
  }
  p.parallel = q.cost * static_cast<float>(p.n) > kParallelNs;
  const float per_unit = q.cost * static_cast<float>(q.rows ? p.cols : 1);
  p.grain = std::max<int64_t>(1, static_cast<int64_t>(kParallelNs / 2 / std::max(per_unit, 1e-3f)));
  if (!q.rows && p.body.n == 1 && q.n_wide == 0 && p.parallel) p.tile = 8192;
  void* at = alloc(context, sizeof(PwPlan), alignof(PwPlan));
  return new (at) PwPlan(p);
}

}  // namespace ortmod::cpu
