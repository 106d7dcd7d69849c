// A vector of trivially copyable elements that keeps the first N in place.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace ortmod {

template <class T, size_t N>
class SmallVec {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using value_type = T;
  SmallVec() = default;
  explicit SmallVec(size_t n, T v = T{}) { assign(n, v); }
  SmallVec(std::initializer_list<T> l) { append(l.begin(), l.end()); }
  template <class It, class = typename std::iterator_traits<It>::iterator_category>
  SmallVec(It b, It e) {
    append(b, e);
  }
  SmallVec(const std::vector<T>& v) { append(v.begin(), v.end()); }  // NOLINT: implicit on purpose
  SmallVec(const SmallVec& o) { append(o.begin(), o.end()); }
  SmallVec(SmallVec&& o) noexcept { take(o); }
  SmallVec& operator=(const SmallVec& o) {
    if (this != &o) {
      size_ = 0;
      append(o.begin(), o.end());
    }
    return *this;
  }
  SmallVec& operator=(SmallVec&& o) noexcept {
    if (this != &o) {
      release();
      take(o);
    }
    return *this;
  }
  ~SmallVec() { release(); }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T& front() { return data_[0]; }
  const T& front() const { return data_[0]; }
  T& back() { return data_[size_ - 1]; }
  const T& back() const { return data_[size_ - 1]; }
  void clear() { size_ = 0; }
  void push_back(T v) {
    if (size_ == capacity_) reserve(size_ + size_t{1});
    data_[size_++] = v;
  }
  void pop_back() { --size_; }
  void resize(size_t n, T v = T{}) {
    reserve(n);
    for (size_t i = size_; i < n; ++i) data_[i] = v;
    size_ = static_cast<uint32_t>(n);
  }
  void assign(size_t n, T v) {
    size_ = 0;
    resize(n, v);
  }
  template <class It>
  void append(It b, It e) {
    for (; b != e; ++b) push_back(*b);
  }
  void insert(T* at, T v) {
    const size_t i = static_cast<size_t>(at - data_);
    push_back(v);
    std::rotate(data_ + i, data_ + size_ - 1, data_ + size_);
  }
  void erase(T* at) {
    std::move(at + 1, data_ + size_, at);
    --size_;
  }
  void reserve(size_t n) {
    if (n <= capacity_) return;
    const size_t c = std::max(n, capacity_ * size_t{2});
    T* d = new T[c];
    std::copy(data_, data_ + size_, d);
    if (data_ != inline_) delete[] data_;
    data_ = d;
    capacity_ = static_cast<uint32_t>(c);
  }
  template <class F>
  void erase_if(F&& goes) {
    size_ = static_cast<uint32_t>(std::remove_if(begin(), end(), std::forward<F>(goes)) - begin());
  }
  std::vector<T> vec() const { return {begin(), end()}; }

 private:
  void release() {
    if (data_ != inline_) delete[] data_;
    data_ = inline_;
    capacity_ = N;
    size_ = 0;
  }
  void take(SmallVec& o) {
    if (o.data_ == o.inline_) {
      std::copy(o.inline_, o.inline_ + o.size_, inline_);
      size_ = o.size_;
    } else {
      data_ = o.data_;
      capacity_ = o.capacity_;
      size_ = o.size_;
      o.data_ = o.inline_;
      o.capacity_ = N;
    }
    o.size_ = 0;
  }

  T inline_[N];
  T* data_ = inline_;
  uint32_t size_ = 0;
  uint32_t capacity_ = N;
};

}  // namespace ortmod
