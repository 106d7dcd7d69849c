// Batches of full data: rows in a seeded order, gathered a block at a time into memory that steps read by address.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace ortmod {

/// A permutation of [0, n), uniform, that depends on the seed and the epoch only.
void permute(std::vector<int64_t>& order, int64_t n, uint64_t seed, int64_t epoch);

class Feed {
 public:
  /// Columns are contiguous and share their first dimension. `batch` rows a step.
  Feed(std::vector<at::Tensor> columns, int64_t batch);

  int64_t rows() const { return rows_; }
  int64_t batch() const { return batch_; }
  size_t num_columns() const { return columns_.size(); }
  /// Starts an epoch; without `shuffle` the rows come as they are, uncopied.
  void start(bool shuffle, uint64_t seed, int64_t epoch);
  /// Moves to the next batch and returns its rows; 0: the epoch is over.
  int64_t next();
  /// The current batch of a column.
  char* column(size_t c) const { return at_[c]; }

 private:
  void gather();
  std::vector<at::Tensor> columns_, blocks_;
  std::vector<char*> data_, block_, at_;
  std::vector<size_t> bytes_;  // of a row
  std::vector<int64_t> order_;
  int64_t rows_ = 0, batch_ = 0, block_rows_ = 0;
  int64_t position_ = 0, block_begin_ = 0, block_end_ = 0, last_ = 0;
  bool shuffled_ = false;
};

}  // namespace ortmod
