// Batches: permutation by Fisher and Yates, gathering by blocks that fit in the cache.
#include "train/feed.h"

#include <ATen/ATen.h>

#include <numeric>

#include "kernels/cpu/gather_rows.h"

namespace ortmod {
namespace {

constexpr int64_t kBlockBytes = 64 << 10;

/// SplitMix64.
struct Random {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
};

/// Uniform in [0, n) from 32 random bits, by multiplication; draws again what would be biased.
uint64_t below(uint32_t bits, uint32_t n, Random& random) {
  uint64_t m = uint64_t{bits} * n;
  if (static_cast<uint32_t>(m) < n) {
    const uint32_t threshold = -n % n;
    while (static_cast<uint32_t>(m) < threshold) m = (random() >> 32) * n;
  }
  return m >> 32;
}

/// The same for numbers beyond 32 bits.
uint64_t below(uint64_t n, Random& random) {
  auto m = static_cast<unsigned __int128>(random()) * n;
  const uint64_t threshold = -n % n;
  while (static_cast<uint64_t>(m) < threshold) m = static_cast<unsigned __int128>(random()) * n;
  return static_cast<uint64_t>(m >> 64);
}

}  // namespace

void permute(std::vector<int64_t>& order, int64_t n, uint64_t seed, int64_t epoch) {
  order.resize(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  Random mix{seed};
  Random random{mix() ^ (static_cast<uint64_t>(epoch) * 0xd1342543de82ef95u)};
  int64_t* at = order.data();
  int64_t i = n - 1;
  for (; i >= int64_t{1} << 31; --i) std::swap(at[i], at[below(static_cast<uint64_t>(i) + 1, random)]);
  for (; i > 1; i -= 2) {  // two numbers of one draw
    const uint64_t bits = random();
    std::swap(at[i], at[below(static_cast<uint32_t>(bits), static_cast<uint32_t>(i) + 1, random)]);
    std::swap(at[i - 1], at[below(static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(i), random)]);
  }
  if (i == 1) std::swap(at[1], at[below(static_cast<uint32_t>(random()), 2, random)]);
}

Feed::Feed(std::vector<at::Tensor> columns, int64_t batch)
    : columns_(std::move(columns)), rows_(columns_.empty() ? 0 : columns_[0].size(0)) {
  batch_ = batch <= 0 ? rows_ : std::min(batch, rows_);
  int64_t widest = 1;
  for (const at::Tensor& c : columns_) {
    data_.push_back(static_cast<char*>(const_cast<void*>(c.const_data_ptr())));
    bytes_.push_back(rows_ ? static_cast<size_t>(static_cast<int64_t>(c.nbytes()) / rows_) : 0);
    widest = std::max(widest, static_cast<int64_t>(bytes_.back()));
  }
  const int64_t batches = std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(1, widest * batch_));
  block_rows_ = std::min(rows_, batches * batch_);
  block_.resize(columns_.size());
  at_ = data_;
}

void Feed::start(bool shuffle, uint64_t seed, int64_t epoch) {
  shuffled_ = shuffle;
  position_ = last_ = 0;
  block_begin_ = block_end_ = 0;
  if (!shuffle) return;
  permute(order_, rows_, seed, epoch);
  if (blocks_.empty())
    for (size_t c = 0; c < columns_.size(); ++c) {
      std::vector<int64_t> dims = columns_[c].sizes().vec();
      dims[0] = block_rows_;
      blocks_.push_back(at::empty(dims, columns_[c].options()));
      block_[c] = static_cast<char*>(blocks_[c].mutable_data_ptr());
    }
}

void Feed::gather() {
  block_begin_ = position_;
  block_end_ = std::min(rows_, position_ + block_rows_);
  const int64_t n = block_end_ - block_begin_;
  const int64_t* order = order_.data() + position_;
  if (!columns_.empty() && !columns_[0].is_cpu()) {
    const at::Tensor index = at::from_blob(const_cast<int64_t*>(order), {n}, at::kLong).to(columns_[0].device());
    for (size_t c = 0; c < columns_.size(); ++c) {
      at::Tensor to = blocks_[c].narrow(0, 0, n);
      at::index_select_out(to, columns_[c], 0, index);
    }
    return;
  }
  for (size_t c = 0; c < columns_.size(); ++c) cpu::gather_rows(block_[c], data_[c], bytes_[c], order, n);
}

int64_t Feed::next() {
  position_ += last_;
  last_ = std::min(batch_, rows_ - position_);
  if (last_ <= 0) return last_ = 0;
  if (shuffled_ && position_ >= block_end_) gather();
  const int64_t row = shuffled_ ? position_ - block_begin_ : position_;
  for (size_t c = 0; c < at_.size(); ++c)
    at_[c] = (shuffled_ ? block_[c] : data_[c]) + static_cast<size_t>(row) * bytes_[c];
  return last_;
}

}  // namespace ortmod
