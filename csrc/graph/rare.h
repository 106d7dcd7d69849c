// A member that is empty in nearly all objects: a pointer's worth of room until it is not.
#pragma once
#include <memory>
#include <utility>

namespace ortmod {

template <class T>
class Rare {
 public:
  Rare() = default;
  Rare(const Rare& o) : p_(o.p_ ? std::make_unique<T>(*o.p_) : nullptr) {}
  Rare(Rare&&) noexcept = default;
  Rare& operator=(const Rare& o) {
    if (this != &o) p_ = o.p_ ? std::make_unique<T>(*o.p_) : nullptr;
    return *this;
  }
  Rare& operator=(Rare&&) noexcept = default;
  Rare& operator=(T value) {
    p_ = value.empty() ? nullptr : std::make_unique<T>(std::move(value));
    return *this;
  }
  ~Rare() = default;

  bool empty() const { return !p_ || p_->empty(); }
  const T& operator*() const {
    static const T none{};
    return p_ ? *p_ : none;
  }
  const T* operator->() const { return &**this; }
  /// To write to.
  T& own() {
    if (!p_) p_ = std::make_unique<T>();
    return *p_;
  }

 private:
  std::unique_ptr<T> p_;
};

}  // namespace ortmod
