// The pointwise engine: runs planned programs tile by tile.
#include <ATen/Parallel.h>

#include <algorithm>

#include "kernels/cpu/pointwise_plan.h"

namespace ortmod::cpu {
namespace {

void run_list(const PwPlan& p, const PwList& l, char* const* base, int64_t o, int64_t n) {
  for (const PwCode *c = l.code, *e = l.code + l.n; c != e; ++c) {
    if (c->jit) {
      char* operands[PwDesc::kMaxIn + PwDesc::kMaxOut];
      const PwRef* r = p.refs + c->first_ref;
      for (int i = 0; i < c->n_refs; ++i) operands[i] = base[r[i].ptr] + o * r[i].step;
      c->jit(operands, n);
      continue;
    }
    const char* src[3] = {base[c->src[0].ptr] + o * c->src[0].step, base[c->src[1].ptr] + o * c->src[1].step,
                          base[c->src[2].ptr] + o * c->src[2].step};
    c->fn(base[c->dst.ptr] + o * c->dst.step, src, n, c->imm);
  }
}

/// Elements [o, o + n) of the space of an operand with general strides.
void load_strided(const PwPlan& p, const PwLoad& l, char* dst, const char* src, int64_t o, int64_t n) {
  if (l.flat) return l.fn(dst, src + o * l.bytes, 1, n);
  const int last = p.ndim - 1;
  int64_t index[PwDesc::kMaxDims];
  int64_t rest = o, at = 0;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % p.sizes[d];
    rest /= p.sizes[d];
    at += index[d] * l.strides[d];
  }
  while (n > 0) {
    const int64_t m = std::min(n, p.sizes[last] - index[last]);
    l.fn(dst, src + at * l.bytes, l.strides[last], m);
    dst += m * l.dst_bytes;
    n -= m;
    at += m * l.strides[last];
    index[last] += m;
    for (int d = last; d > 0 && index[d] == p.sizes[d]; --d) {
      at += l.strides[d - 1] - index[d] * l.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

void prepare(const PwPlan& p, char* const* operands, char* scratch, char** base) {
  int k = 0;
  for (; k < p.n_operands; ++k) base[k] = operands[k];
  for (int i = 0; i < p.n_const; ++i) base[k++] = const_cast<char*>(p.constants[i]);
  for (int i = 0; i < p.n_temp; ++i) base[k++] = scratch + p.temp_offsets[i];
  for (int i = 0; i < p.n_once_loads; ++i) {
    const PwLoad& l = p.once_loads[i];
    if (l.one) {
      l.fn(base[l.dst], base[l.src.ptr], 0, 1);
    } else {
      load_strided(p, l, base[l.dst], base[l.src.ptr], 0, std::min(p.tile, p.n));
    }
  }
  run_list(p, p.once, base, 0, 1);
  run_list(p, p.once_full, base, 0, p.tile);
}

void run_flat(const PwPlan& p, char* const* operands, int64_t begin, int64_t end) {
  alignas(64) char scratch[kScratch];
  char* base[kMaxPtr];
  prepare(p, operands, scratch, base);
  for (int64_t o = begin; o < end; o += p.tile) {
    const int64_t n = std::min(p.tile, end - o);
    for (int i = 0; i < p.n_loads; ++i)
      load_strided(p, p.loads[i], base[p.loads[i].dst], base[p.loads[i].src.ptr], o, n);
    run_list(p, p.body, base, o, n);
    for (int i = 0; i < p.n_stores; ++i)
      p.stores[i].fn(base[p.stores[i].dst] + o * p.stores[i].bytes, base[p.stores[i].src], n);
  }
}

void run_rows(const PwPlan& p, char* const* operands, int64_t begin, int64_t end) {
  alignas(64) char scratch[kScratch];
  char* base[kMaxPtr];
  prepare(p, operands, scratch, base);
  const int outer = p.ndim - 1;
  int64_t index[PwDesc::kMaxDims];
  int64_t rest = begin;
  for (int d = outer - 1; d >= 0; --d) {
    index[d] = rest % p.sizes[d];
    rest /= p.sizes[d];
  }
  for (int k = 0; k < p.n_operands; ++k)
    for (int d = 0; d < outer; ++d) base[k] += index[d] * p.outer_strides[k][d];
  for (int64_t r = begin; r < end; ++r) {
    for (int i = 0; i < p.n_row_loads; ++i)
      p.row_loads[i].fn(base[p.row_loads[i].dst], base[p.row_loads[i].src.ptr], 0, 1);
    run_list(p, p.row, base, 0, 1);
    for (int64_t o = 0; o < p.cols; o += p.tile) {
      const int64_t n = std::min(p.tile, p.cols - o);
      for (int i = 0; i < p.n_loads; ++i) {
        const PwLoad& l = p.loads[i];
        const int64_t stride = l.strides[outer];
        l.fn(base[l.dst], base[l.src.ptr] + o * stride * l.bytes, stride, n);
      }
      run_list(p, p.body, base, o, n);
      for (int i = 0; i < p.n_stores; ++i)
        p.stores[i].fn(base[p.stores[i].dst] + o * p.stores[i].bytes, base[p.stores[i].src], n);
    }
    for (int d = outer - 1; d >= 0; --d) {
      ++index[d];
      for (int k = 0; k < p.n_operands; ++k) base[k] += p.outer_strides[k][d];
      if (index[d] < p.sizes[d]) break;
      for (int k = 0; k < p.n_operands; ++k) base[k] -= index[d] * p.outer_strides[k][d];
      index[d] = 0;
    }
  }
}

}  // namespace

bool pw_single(const PwPlan& p, PwSingle& call, int& dst, int (&src)[3]) {
  if (p.rows > 0 || p.parallel || p.n == 0 || p.body.n != 1 || p.n_temp > 0 || p.n_const > 0) return false;
  const PwCode& c = p.body.code[0];
  if (!c.fn) return false;
  call = {c.fn, p.n, {c.imm[0], c.imm[1]}};
  dst = c.dst.ptr;
  for (int i = 0; i < 3; ++i) src[i] = c.src[i].ptr;
  return true;
}

void pw_run(const PwPlan& p, char* const* operands) {
  if (p.n == 0) return;
  if (p.rows > 0) {
    if (p.parallel && at::get_num_threads() > 1) {
      at::parallel_for(0, p.rows, p.grain, [&](int64_t b, int64_t e) { run_rows(p, operands, b, e); });
    } else {
      run_rows(p, operands, 0, p.rows);
    }
    return;
  }
  if (p.parallel && at::get_num_threads() > 1) {
    const int64_t tiles = (p.n + p.tile - 1) / p.tile;
    at::parallel_for(0, tiles, (p.grain + p.tile - 1) / p.tile,
                     [&](int64_t b, int64_t e) { run_flat(p, operands, b * p.tile, std::min(p.n, e * p.tile)); });
  } else {
    run_flat(p, operands, 0, p.n);
  }
}

}  // namespace ortmod::cpu
