// Static CPU steps of matrix products: operands by strides, so that permuted ones are read in place.
#include "ops/bind_matmul.h"

#include <algorithm>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/gemm.h"
#include "ops/attrs.h"

namespace ortmod {
namespace {

using cpu::BatchedGemm;

struct GemmArgs {
  BatchedGemm g;
  Operand a, b, bias, c;
  bool batched;
};

template <class T>
void run_gemm(const GemmArgs& s, char* const* base) {
  if (s.batched) {
    BatchedGemm g = s.g;
    if (s.bias) g.one.epilogue.bias = s.bias.ptr<char>(base);
    return cpu::gemm_batched(g, s.a.ptr<T>(base), s.b.ptr<T>(base), s.c.ptr<T>(base));
  }
  if (s.bias) {
    cpu::Gemm g = s.g.one;
    g.epilogue.bias = s.bias.ptr<char>(base);
    return cpu::gemm(g, s.a.ptr<T>(base), s.b.ptr<T>(base), s.c.ptr<T>(base));
  }
  cpu::gemm(s.g.one, s.a.ptr<T>(base), s.b.ptr<T>(base), s.c.ptr<T>(base));
}

template <class T>
struct TinyArgs {
  cpu::TinyGemm<T> fn;
  cpu::Gemm g;
  Operand a, b, bias, c;
};
template <class T>
void run_tiny(const TinyArgs<T>& s, char* const* base) {
  const auto at = [&](const Operand& o) { return o ? o.ptr<T>(base) : nullptr; };
  s.fn(s.g, at(s.a), at(s.b), at(s.bias), at(s.c));
}

void note(Bind& b, const GemmArgs& s) {
  const cpu::Gemm& g = s.g.one;
  if (!b.steps().noted || s.batched || g.m * g.n > 64 || g.k > 64 || (g.m > 1 && g.ldc != g.n)) return;
  const auto place = [](const Operand& o) { return cpu::PwPlace{o.index, o.offset}; };
  cpu::ChainOp o;
  o.kind = cpu::ChainOp::Kind::kProduct;
  o.type = b.dtype() == DType::kFloat ? cpu::Elem::kF32 : cpu::Elem::kF64;
  o.m = g.m;
  o.n = g.n;
  o.k = g.k;
  o.a_row = g.ta ? 1 : g.lda;
  o.a_col = g.ta ? g.lda : 1;
  o.b_row = g.tb ? 1 : g.ldb;
  o.b_col = g.tb ? g.ldb : 1;
  o.alpha = g.alpha;
  o.relu = g.epilogue.relu;
  o.bias_scale = g.epilogue.scale;
  o.bias_per_column = g.epilogue.col != 0;
  o.a = place(s.a);
  o.b = place(s.b);
  if (s.bias) o.bias = place(s.bias);
  o.c = place(s.c);
  b.steps().note(o);
}

template <class T>
void emit_as(Bind& b, const GemmArgs& s) {
  const auto tiny = s.batched ? nullptr : cpu::gemm_tiny<T>(s.g.one, static_cast<bool>(s.bias));
  if (tiny) {
    b.emit(run_tiny<T>, TinyArgs<T>{tiny, s.g.one, s.a, s.b, s.bias, s.c});
  } else {
    b.emit(run_gemm<T>, s);
  }
  note(b, s);
}

bool emit(Bind& b, const GemmArgs& s) {
  if (b.dtype() == DType::kFloat) {
    emit_as<float>(b, s);
  } else if (b.dtype() == DType::kDouble) {
    emit_as<double>(b, s);
  } else {
    return false;
  }
  return true;
}

/// Dimensions and strides of an operand after its permutation.
struct View {
  Dims dims, strides;
  View(const Dims& stored, std::span<const int64_t> perm) : dims(stored), strides(stored.size(), 1) {
    Dims dense(stored.size(), 1);
    for (size_t i = stored.size(); i-- > 1;) dense[i - 1] = dense[i] * stored[i];
    for (size_t i = 0; i < stored.size(); ++i) {
      const size_t from = perm.empty() ? i : static_cast<size_t>(perm[i]);
      dims[i] = stored[from];
      strides[i] = dense[from];
    }
  }
  int64_t size(size_t from_end) const { return from_end < dims.size() ? dims[dims.size() - 1 - from_end] : 1; }
  int64_t stride(size_t from_end) const { return size(from_end) == 1 ? 0 : strides[dims.size() - 1 - from_end]; }
};

/// A matrix with strides (row, col) as (transposed?, leading dimension); false when neither is contiguous.
bool layout(int64_t rows, int64_t cols, int64_t row, int64_t col, bool& trans, int64_t& ld) {
  if (cols == 1 || col == 1) {
    trans = false;
    ld = rows == 1 ? cols : row;
    if (ld >= cols) return true;
  }
  if (rows == 1 || row == 1) {
    trans = true;
    ld = cols == 1 ? rows : col;
    return ld >= rows;
  }
  return false;
}

}  // namespace

bool bind_gemm(Bind& b) {
  const Node& n = b.node;
  GemmArgs s{};
  cpu::Gemm& g = s.g.one;
  g.ta = n.attr("transA", false);
  g.tb = n.attr("transB", false);
  g.alpha = n.attr("alpha", 1.0);
  const Dims &a = b.dims(0), &w = b.dims(1);
  g.m = a[g.ta ? 1 : 0];
  g.k = a[g.ta ? 0 : 1];
  g.n = w[g.tb ? 0 : 1];
  g.lda = std::max<int64_t>(a[1], 1);
  g.ldb = std::max<int64_t>(w[1], 1);
  g.ldc = std::max<int64_t>(g.n, 1);
  const double beta = n.attr("beta", 1.0);
  if (b.has(2) && beta != 0) {
    const Dims& c = b.dims(2);
    s.bias = b.in(2);
    g.epilogue.scale = beta;
    if (!c.empty()) g.epilogue.col = c.back() == 1 ? 0 : 1;
    if (c.size() > 1) g.epilogue.row = c[0] == 1 ? 0 : c[1];
  }
  s.a = b.in(0);
  s.b = b.in(1);
  s.c = b.out();
  return emit(b, s);
}

bool bind_matmul(Bind& b) {
  const Node& n = b.node;
  if (b.dtype(0) != DType::kFloat && b.dtype(0) != DType::kDouble) return false;
  View a(b.dims(0), int_list(n, "permA")), w(b.dims(1), int_list(n, "permB"));
  if (a.dims.size() == 1) {
    a.dims.insert(a.dims.begin(), 1);
    a.strides.insert(a.strides.begin(), 0);
  }
  if (w.dims.size() == 1) {
    w.dims.push_back(1);
    w.strides.push_back(0);
  }
  // The product in the order (batch..., m, n), with strides of the stored result.
  const size_t rank = std::max(a.dims.size(), w.dims.size());
  Dims out(rank, 1);
  for (size_t i = 0; i < rank; ++i)
    out[rank - 1 - i] = i == 0   ? w.size(0)
                        : i == 1 ? a.size(1)
                                 : std::max(a.size(i), w.size(i)) * (a.size(i) && w.size(i) ? 1 : 0);
  const auto perm_y = int_list(n, "permY");
  Dims c_strides(rank, 1);
  if (!perm_y.empty()) {
    int64_t s = 1;
    for (size_t i = rank; i-- > 0;) {
      c_strides[static_cast<size_t>(perm_y[i])] = s;
      s *= out[static_cast<size_t>(perm_y[i])];
    }
  } else {
    for (size_t i = rank; i-- > 1;) c_strides[i - 1] = c_strides[i] * out[i];
  }
  GemmArgs s{};
  s.a = b.in(0);
  s.b = b.in(1);
  s.c = b.out();
  cpu::Gemm& g = s.g.one;
  g.m = a.size(1);
  g.k = a.size(0);
  g.n = w.size(0);
  g.alpha = n.attr("alpha", 1.0);
  g.epilogue.relu = n.attr("relu", false);

  // Batch dimensions from the inside; neighbours that all three walk as one are merged, and with a shared B they join
  // the rows.
  int64_t row_a = a.stride(1), row_c = rank > 1 ? c_strides[rank - 2] : 0;
  struct Batch {
    int64_t size, a, b, c;
  };
  SmallVec<Batch, 6> batch;
  bool rows_open = true;
  for (size_t i = 2; i < rank; ++i) {
    const Batch d{out[rank - 1 - i], a.stride(i), w.stride(i), c_strides[rank - 1 - i]};
    if (d.size == 1) continue;
    if (rows_open && d.b == 0 && (g.m == 1 ? true : d.a == row_a * g.m && d.c == row_c * g.m)) {
      if (g.m == 1) {
        row_a = d.a;
        row_c = d.c;
      }
      g.m *= d.size;
      continue;
    }
    rows_open = false;
    if (!batch.empty()) {
      Batch& last = batch.back();
      if (d.a == last.a * last.size && d.b == last.b * last.size && d.c == last.c * last.size) {
        last.size *= d.size;
        continue;
      }
    }
    batch.push_back(d);
  }
  if (batch.size() > 2) return false;
  for (size_t i = 0; i < batch.size(); ++i) {  // the outer one first
    const size_t k = batch.size() == 2 ? 1 - i : 1;
    s.g.batch[k] = batch[i].size;
    s.g.stride_a[k] = batch[i].a;
    s.g.stride_b[k] = batch[i].b;
    s.g.stride_c[k] = batch[i].c;
    s.batched = true;
  }
  if (b.has(2)) {  // added to the product: its strides over (m, n); it must not vary over what remains as batch
    const View c(b.dims(2), {});
    if (c.dims.size() > rank || !perm_y.empty()) return false;
    s.bias = b.in(2);
    g.epilogue.col = c.stride(0);
    const bool one_row = ortmod::numel(b.dims(2)) == c.size(0);
    if (!one_row) {
      if (s.batched || ortmod::numel(b.dims(2)) != g.m * c.size(0)) return false;
      g.epilogue.row = c.size(0);
    }
  }
  int64_t col_c = rank > 0 ? c_strides[rank - 1] : 1;
  if (g.n == 1) col_c = 1;
  if (!layout(g.m, g.k, row_a, a.stride(0), g.ta, g.lda) || !layout(g.k, g.n, w.stride(1), w.stride(0), g.tb, g.ldb))
    return false;
  if (col_c == 1) {
    g.ldc = g.m == 1 ? g.n : row_c;
  } else if (row_c == 1 || g.m == 1) {  // C' = B' A'
    std::swap(g.m, g.n);
    std::swap(s.a, s.b);
    std::swap(g.lda, g.ldb);
    std::swap(g.ta, g.tb);
    g.ta = !g.ta;
    g.tb = !g.tb;
    std::swap(s.g.stride_a, s.g.stride_b);
    std::swap(g.epilogue.row, g.epilogue.col);
    g.ldc = col_c;
  } else {
    return false;
  }
  g.lda = std::max<int64_t>(g.lda, 1);
  g.ldb = std::max<int64_t>(g.ldb, 1);
  g.ldc = std::max<int64_t>(g.ldc, 1);
  return emit(b, s);
}

}  // namespace ortmod
