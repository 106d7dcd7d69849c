// Frames: tensors over base pointers, and the steps that need tensors.
#include "exec/frame.h"

#include <ATen/ATen.h>

namespace ortmod {
namespace {

c10::DispatchKeySet keys(at::Device d) {
  return c10::DispatchKeySet(c10::computeDispatchKey(std::nullopt, at::kStrided, d));
}

at::Tensor ints_tensor(const HostInts& h, DType t) {
  std::vector<int64_t> sizes(h.dims.begin(), h.dims.end());
  at::Tensor r = at::empty(sizes, at::kLong);
  std::copy(h.v.begin(), h.v.end(), r.mutable_data_ptr<int64_t>());
  return t == DType::kInt64 ? r : r.to(to_scalar_type(t));
}

}  // namespace

Frame::Frame(const Sizes& s)
    : s_(s),
      base_(s.plan->num_bases()),
      storages_(s.plan->num_bases(), c10::Storage(nullptr)),
      tensors_(s.plan->num_values()) {
  base_[kFrame] = reinterpret_cast<char*>(this);
  const auto& c = s.plan->constants();
  for (size_t i = 0; i < c.size(); ++i)
    if (c[i].defined())
      base_[static_cast<size_t>(s.plan->base_of_const(i))] =
          static_cast<char*>(const_cast<void*>(c[i].const_data_ptr()));
}

void Frame::rebind(int32_t b) {
  storages_[static_cast<size_t>(b)].unsafeGetStorageImpl()->set_data_ptr_noswap(
      at::DataPtr(base_[static_cast<size_t>(b)], s_.plan->device()));
}

at::Tensor Frame::over_base(int v) {
  const Operand o = s_.operands[static_cast<size_t>(v)];
  const Type& t = s_.types[static_cast<size_t>(v)];
  c10::Storage& storage = storages_[static_cast<size_t>(o.index)];
  const at::Device device = s_.plan->device();
  if (!storage)
    storage = c10::Storage(c10::Storage::use_byte_size_t(), size_t{1} << 46,
                           at::DataPtr(base_[static_cast<size_t>(o.index)], device), nullptr, false);
  const caffe2::TypeMeta meta = c10::scalarTypeToTypeMeta(to_scalar_type(t.dtype));
  at::Tensor r = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), keys(device), meta);
  r.unsafeGetTensorImpl()->set_storage_offset(o.offset / static_cast<int64_t>(meta.itemsize()));
  r.unsafeGetTensorImpl()->set_sizes_contiguous(at::IntArrayRef(t.dims.data(), t.dims.size()));
  return r;
}

Sizes::Sizes(std::shared_ptr<const Plan> p) : plan(std::move(p)) {}
Sizes::~Sizes() = default;

at::Tensor& Frame::tensor(int v) {
  at::Tensor& t = tensors_[static_cast<size_t>(v)];
  if (t.defined()) return t;
  const size_t i = static_cast<size_t>(v);
  const int c = v - s_.plan->first_const();
  if (c >= 0 && c < static_cast<int>(s_.plan->constants().size())) {
    t = s_.plan->constants()[static_cast<size_t>(c)];
  } else if (s_.places[i] == Place::kBase) {
    t = over_base(v);
  } else if (s_.places[i] == Place::kHost) {
    t = ints_tensor(*s_.host(v), s_.types[i].dtype).to(s_.plan->device());
  } else {  // only its shape is read
    t = at::empty(at::IntArrayRef(s_.types[i].dims.data(), s_.types[i].dims.size()),
                  at::TensorOptions().dtype(to_scalar_type(s_.types[i].dtype)).device(at::kMeta));
  }
  return t;
}

at::Tensor& Frame::host_tensor(int v) {
  const int c = v - s_.plan->first_const();
  const HostInts* h = s_.host(v);
  const bool constant = c >= 0 && c < static_cast<int>(s_.plan->constants().size());
  if (!h && !constant) return tensor(v);
  if (host_tensors_.empty()) host_tensors_.resize(tensors_.size());
  at::Tensor& t = host_tensors_[static_cast<size_t>(v)];
  if (!t.defined())
    t = constant ? s_.plan->host_constants()[static_cast<size_t>(c)]
                 : ints_tensor(*h, s_.types[static_cast<size_t>(v)].dtype);
  return t;
}

at::Tensor& Frame::fresh_slot(int v) {
  at::Tensor& t = tensors_[static_cast<size_t>(v)];
  t = at::empty(
      {0}, at::TensorOptions().dtype(to_scalar_type(s_.types[static_cast<size_t>(v)].dtype)).device(s_.plan->device()));
  return t;
}

namespace {

struct KernelArgs {
  const Plan::Item* item;
  const Sizes* sizes;
  const int* release;
  int n_release;
};

void run_kernel(const KernelArgs& a, char* const* base) {
  Frame& f = *reinterpret_cast<Frame*>(base[kFrame]);
  const Plan::Item& item = *a.item;
  constexpr size_t kSmall = 16;
  at::Tensor* small[2 * kSmall];
  bool small_placed[kSmall];
  const size_t ni = item.in.size(), no = item.node->outputs.size();
  std::vector<at::Tensor*> large;
  std::unique_ptr<bool[]> large_placed;
  at::Tensor **in = small, **out = small + kSmall;
  bool* placed = small_placed;
  if (ni > kSmall || no > kSmall) {
    large.resize(ni + no);
    large_placed = std::make_unique<bool[]>(no);
    in = large.data();
    out = in + ni;
    placed = large_placed.get();
  }
  for (size_t i = 0; i < ni; ++i) {
    const int v = item.in[i];
    in[i] = v < 0 ? nullptr : (i < 32 && (item.def->host_inputs >> i & 1)) ? &f.host_tensor(v) : &f.tensor(v);
  }
  for (size_t o = 0; o < no; ++o) {
    const int v = item.first_out + static_cast<int>(o);
    placed[o] = a.sizes->places[static_cast<size_t>(v)] == Place::kBase;
    out[o] = !(item.wanted >> o & 1)                                   ? nullptr
             : placed[o]                                               ? &f.tensor(v)
             : a.sizes->places[static_cast<size_t>(v)] == Place::kSlot ? &f.fresh_slot(v)
                                                                       : nullptr;
  }
  Call call(*item.node, in, ni, out, placed, no, a.sizes->plan->device());
  item.kernel(call);
  for (int i = 0; i < a.n_release; ++i) f.drop(a.release[i]);
}

struct CopyArgs {
  Operand from, to;
  int64_t bytes;
};

void run_copy(const CopyArgs& a, char* const* base) {
  std::memcpy(a.to.ptr<char>(base), a.from.ptr<char>(base), static_cast<size_t>(a.bytes));
}

struct TensorCopyArgs {
  const Sizes* sizes;
  int from;
  Operand to;
};

void run_tensor_copy(const TensorCopyArgs& a, char* const* base) {
  Frame& f = *reinterpret_cast<Frame*>(base[kFrame]);
  const at::Tensor& src = f.tensor(a.from);
  at::from_blob(a.to.ptr<char>(base), src.sizes(), src.options()).copy_(src);
}

struct FillArgs {
  Operand to;
  const int64_t* values;
  int64_t n;
  DType dtype;
};

template <class T>
void fill(char* to, const int64_t* v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) reinterpret_cast<T*>(to)[i] = static_cast<T>(v[i]);
}

void run_fill(const FillArgs& a, char* const* base) {
  char* to = a.to.ptr<char>(base);
  switch (a.dtype) {
    case DType::kInt64:
      return fill<int64_t>(to, a.values, a.n);
    case DType::kInt32:
      return fill<int32_t>(to, a.values, a.n);
    case DType::kFloat:
      return fill<float>(to, a.values, a.n);
    case DType::kDouble:
      return fill<double>(to, a.values, a.n);
    default:
      return fill<uint8_t>(to, a.values, a.n);
  }
}

struct DeviceFillArgs {
  int v;
};

void run_device_fill(const DeviceFillArgs& a, char* const* base) {
  Frame& f = *reinterpret_cast<Frame*>(base[kFrame]);
  f.tensor(a.v).copy_(f.host_tensor(a.v));
}

template <class Args>
void push(Sizes& s, void (*fn)(const Args&, char* const*), const Args& args, int item) {
  s.list.push(step_fn(fn), &args, sizeof(Args), alignof(Args));
  s.step_item.push_back(item);
}

}  // namespace

void push_kernel_step(Sizes& s, int item, const SmallVec<int, 8>& release) {
  int* r = nullptr;
  if (!release.empty()) {
    r = static_cast<int*>(s.list.alloc(release.size() * sizeof(int), alignof(int)));
    std::copy(release.begin(), release.end(), r);
  }
  const Plan::Item& of = s.plan->items()[static_cast<size_t>(item)];
  s.plan->general_kernel(of);
  push(s, run_kernel, KernelArgs{&of, &s, r, static_cast<int>(release.size())}, item);
  s.has_kernels = true;
}

void push_copy_step(Sizes& s, int from, int output) {
  const Operand to{s.plan->base_of_output(static_cast<size_t>(output)), 0};
  const size_t i = static_cast<size_t>(from);
  const Type& t = s.types[i];
  if (s.plan->device().is_cpu() && s.places[i] == Place::kBase) {
    push(s, run_copy, CopyArgs{s.operands[i], to, numel(t.dims) * static_cast<int64_t>(dtype_size(t.dtype))}, -1);
  } else {
    push(s, run_tensor_copy, TensorCopyArgs{&s, from, to}, -1);
    s.has_kernels = true;
  }
}

void push_fill_step(Sizes& s, int v) {
  const size_t i = static_cast<size_t>(v);
  if (!s.plan->device().is_cpu()) {
    push(s, run_device_fill, DeviceFillArgs{v}, -1);
    s.has_kernels = true;
    return;
  }
  const HostInts& h = *s.host(v);
  auto* values = static_cast<int64_t*>(s.list.alloc(h.v.size() * sizeof(int64_t) + 8, alignof(int64_t)));
  std::copy(h.v.begin(), h.v.end(), values);
  push(s, run_fill, FillArgs{s.operands[i], values, static_cast<int64_t>(h.v.size()), s.types[i].dtype}, -1);
}

}  // namespace ortmod
