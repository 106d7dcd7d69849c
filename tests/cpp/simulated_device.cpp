// A device for the tests of what runs away from the CPU, where there is no accelerator: a PrivateUse1 backend of torch.
//
// Its memory lies in the process, but no one can read or write it except the operators of this file, which compute on
// the CPU: a pointer that host code follows by mistake is a segmentation fault, as it would be on a GPU. Operators
// take no tensors of the CPU, only numbers.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <atomic>
#include <map>
#include <mutex>
#include <utility>

namespace {

constexpr size_t kPage = 4096;
const at::Device kDevice(at::kPrivateUse1, 0);

class Memory final : public c10::Allocator {
 public:
  static Memory& get() {
    static auto* memory = new Memory;
    return *memory;
  }
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &release, kDevice};
    const size_t bytes = (n + kPage - 1) / kPage * kPage;
    void* p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(p != MAP_FAILED, "simulated device: out of memory");
    const std::lock_guard lock(mutex_);
    blocks_[p] = {bytes, 0};
    return {p, p, &release, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t n) const override {
    get().open(to, 1);
    get().open(from, 1);
    std::memcpy(to, from, n);
    get().open(from, -1);
    get().open(to, -1);
  }
  /// Makes the block around an address accessible, or as it was.
  void open(const void* address, int by) {
    if (!address) return;
    const std::lock_guard lock(mutex_);
    auto it = blocks_.upper_bound(const_cast<void*>(address));
    TORCH_CHECK(it != blocks_.begin(), "simulated device: an address that is not in its memory");
    --it;
    Block& b = it->second;
    TORCH_CHECK(static_cast<const char*>(address) < static_cast<char*>(it->first) + b.bytes,
                "simulated device: an address that is not in its memory");
    const int before = b.opened;
    b.opened += by;
    if ((before == 0) != (b.opened == 0)) mprotect(it->first, b.bytes, b.opened ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
  bool contains(const void* address) {
    const std::lock_guard lock(mutex_);
    auto it = blocks_.upper_bound(const_cast<void*>(address));
    if (it == blocks_.begin()) return false;
    --it;
    return static_cast<const char*>(address) < static_cast<char*>(it->first) + it->second.bytes;
  }

 private:
  struct Block {
    size_t bytes;
    int opened;
  };
  static void release(void* p) {
    if (!p) return;
    Memory& m = get();
    const std::lock_guard lock(m.mutex_);
    const auto it = m.blocks_.find(p);
    munmap(p, it->second.bytes);
    m.blocks_.erase(it);
  }
  std::mutex mutex_;
  std::map<void*, Block> blocks_;
};

/// The tensor's memory as a tensor of the CPU, accessible while this lives.
class OnHost {
 public:
  explicit OnHost(const at::Tensor& t) : address_(t.is_privateuseone() ? t.const_data_ptr() : nullptr) {
    if (!t.is_privateuseone()) {
      tensor_ = t;
      return;
    }
    Memory::get().open(address_, 1);
    tensor_ = at::from_blob(const_cast<void*>(address_), t.sizes(), t.strides(), t.options().device(at::kCPU));
    if (t.is_conj()) tensor_ = tensor_.conj();
    if (t.is_neg()) tensor_ = tensor_._neg_view();
  }
  ~OnHost() {
    if (address_) Memory::get().open(address_, -1);
  }
  OnHost(const OnHost&) = delete;
  OnHost& operator=(const OnHost&) = delete;
  const at::Tensor& operator*() const { return tensor_; }

 private:
  const void* address_;
  at::Tensor tensor_;
};

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &Memory::get(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      sizes, strides, &Memory::get(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

std::atomic<long> to_device{0}, to_host{0};
thread_local bool computing = false;

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (from.numel() == 0) return to;
  if (!computing && from.is_cpu()) ++to_device;
  if (!computing && to.is_cpu()) ++to_host;
  const OnHost a(from), b(to);
  (*b).copy_(*a);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const at::Tensor& t) {
  if (!computing) ++to_host;
  return (*OnHost(t)).item();
}

/// Copies of an operator's own are no traffic.
struct Computing {
  Computing() : before(std::exchange(computing, true)) {}
  ~Computing() { computing = before; }
  Computing(const Computing&) = delete;
  Computing& operator=(const Computing&) = delete;
  bool before;
};

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto check = [&](const at::Tensor& t) {
    TORCH_CHECK(!t.defined() || t.is_privateuseone() || t.unsafeGetTensorImpl()->is_wrapped_number(),
                "simulated device: expected all tensors to be on the same device, but got one on ", t.device(), " for ",
                op.schema().operator_name());
  };
  const size_t n = op.schema().arguments().size();
  for (const c10::IValue& v : torch::jit::last(*stack, n)) {
    if (v.isTensor()) check(v.toTensor());
    if (v.isTensorList())
      for (const at::Tensor& t : v.toTensorVector()) check(t);
  }
  const Computing guard;
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

at::Tensor there(const at::Tensor& t) { return t.defined() ? t.to(kDevice) : t; }

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b,
                       at::IntArrayRef stride, at::IntArrayRef pads, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_pads, int64_t groups) {
  const Computing guard;
  const std::optional<at::Tensor> bias = b && b->defined() ? std::make_optional(b->cpu()) : std::nullopt;
  return there(at::convolution(x.cpu(), w.cpu(), bias, stride, pads, dilation, transposed, output_pads, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(const at::Tensor& dy, const at::Tensor& x,
                                                                    const at::Tensor& w, at::IntArrayRef stride,
                                                                    at::IntArrayRef pads, at::IntArrayRef dilation,
                                                                    bool transposed, at::IntArrayRef output_pads,
                                                                    int64_t groups, std::array<bool, 3> wanted) {
  const Computing guard;
  const int64_t n = transposed ? w.size(1) * groups : w.size(0);
  const auto [dx, dw, db] = at::convolution_backward(dy.cpu(), x.cpu(), w.cpu(), at::IntArrayRef(n), stride, pads,
                                                     dilation, transposed, output_pads, groups, wanted);
  return {there(dx), there(dw), there(db)};
}

/// Its schema does not say that it writes the running statistics, so the fallback would drop them.
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(const at::Tensor& x, const std::optional<at::Tensor>& w,
                                                          const std::optional<at::Tensor>& b,
                                                          const std::optional<at::Tensor>& mean,
                                                          const std::optional<at::Tensor>& var, bool training,
                                                          double momentum, double eps) {
  const Computing guard;
  const auto host = [](const std::optional<at::Tensor>& t) { return t && t->defined() ? t->cpu() : at::Tensor(); };
  const at::Tensor new_mean = host(mean), new_var = host(var);
  const auto [y, saved_mean, saved_scale] =
      at::native_batch_norm(x.cpu(), host(w), host(b), new_mean, new_var, training, momentum, eps);
  if (training && new_mean.defined()) mean->copy_(new_mean);
  if (training && new_var.defined()) var->copy_(new_var);
  return {there(y), there(saved_mean), there(saved_scale)};
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Device getDeviceFromPtr(void* data) const override {
    TORCH_CHECK(Memory::get().contains(data), "simulated device: a pointer that is not in its memory");
    return kDevice;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    c10::DataPtr fresh = Memory::get().allocate(bytes);
    if (const size_t kept = std::min(bytes, storage.nbytes()))
      Memory::get().copy_data(fresh.get(), storage.data(), kept);
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

/// One stream, on which everything is done at once.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream getNewStream(c10::Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Device getDevice() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = nullptr;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeEvent(void*) const override {}
};

const bool registered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &Memory::get());
  return true;
}();

}  // namespace

/// Tensors that have gone to the device and come from it so far.
extern "C" __attribute__((visibility("default"))) void simulated_copies(long* counts) {
  counts[0] = to_device;
  counts[1] = to_host;
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("resize_", &at::native::resize_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
