// Decides how a pointwise program runs: how often each value is computed, where it lives, what is compiled together,
// tiles. Included by pointwise_plan.cpp only.
#pragma once
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cpu/pointwise_plan.h"

namespace ortmod::cpu {
namespace {

constexpr int64_t kSlot = 64;  // bytes of a scalar temporary
constexpr int64_t kMaxTile = 4096;

/// Drops dimensions of size 1 and merges neighbours that every input walks as one.
void collapse(PwDesc& d) {
  int w = 0;
  for (int r = 0; r < d.ndim; ++r) {
    if (d.sizes[r] == 1) continue;
    bool merge = w > 0;
    for (int i = 0; merge && i < d.n_in; ++i) merge = d.in[i].strides[w - 1] == d.in[i].strides[r] * d.sizes[r];
    if (merge) {
      d.sizes[w - 1] *= d.sizes[r];
      for (int i = 0; i < d.n_in; ++i) d.in[i].strides[w - 1] = d.in[i].strides[r];
    } else {
      d.sizes[w] = d.sizes[r];
      for (int i = 0; i < d.n_in; ++i) d.in[i].strides[w] = d.in[i].strides[r];
      ++w;
    }
  }
  if (w == 0) {
    d.sizes[0] = 1;
    for (int i = 0; i < d.n_in; ++i) d.in[i].strides[0] = 1;
    w = 1;
  }
  d.ndim = w;
}

enum class Level : uint8_t { kOnce, kRow, kTile };  // how often a value is computed; below kTile it is one element

struct Planner {
  PwDesc d;
  PwPlan p;
  bool rows = false;
  int64_t period = 1;
  int n_values = 0;
  struct Val {
    Level level = Level::kTile;
    Elem type = Elem::kF32;  // as computed
    int ptr = -1, step = 0;
    int last_use = -1;
    int full = -1;  // temporary that holds a splat
  };
  Val v[PwDesc::kMaxIn + PwDesc::kMaxConst + PwDesc::kMaxInst];
  PwCode once[PwDesc::kMaxInst], once_full[PwDesc::kMaxInst], row[PwDesc::kMaxInst],
      body[2 * PwDesc::kMaxInst + PwDesc::kMaxOut];
  PwLoad loads[PwDesc::kMaxIn], once_loads[PwDesc::kMaxIn], row_loads[PwDesc::kMaxIn];
  PwStore stores[PwDesc::kMaxOut];
  // Temporaries: ids are pointer-table entries after operands and constants.
  int n_temp = 0;
  bool small[kMaxPtr];
  bool free_temp[kMaxPtr] = {};
  float cost = 0;
  // Instructions that wait to be compiled together, and the program they make.
  int piece[PwDesc::kMaxInst], n_piece = 0;
  Elem piece_type = Elem::kNone;
  PwDesc part;
  int16_t number[PwDesc::kMaxIn + PwDesc::kMaxConst + PwDesc::kMaxInst];
  PwRef refs[4 * PwDesc::kMaxInst];
  int n_refs = 0;

  int new_temp(bool scalar, bool fresh = false) {
    if (!scalar && !fresh)
      for (int i = 0; i < n_temp; ++i)
        if (free_temp[i]) {
          free_temp[i] = false;
          return first_temp() + i;
        }
    small[n_temp] = scalar;
    return first_temp() + n_temp++;
  }
  int first_temp() const { return d.n_in + d.n_out + d.n_const; }
  bool is_temp(int ptr) const { return ptr >= first_temp(); }

  bool flat(int i) const {
    int64_t s = 1;
    for (int k = d.ndim - 1; k >= 0; --k) {
      if (d.in[i].strides[k] != s) return false;
      s *= d.sizes[k];
    }
    return true;
  }
  bool scalar(int i) const {
    for (int k = 0; k < d.ndim; ++k)
      if (d.in[i].strides[k] != 0) return false;
    return true;
  }
  /// Contiguous over the last dimensions and constant over the others: the number of distinct elements, else 0.
  int64_t periodic(int i) const {
    int64_t s = 1;
    int k = d.ndim - 1;
    for (; k >= 0 && d.in[i].strides[k] == s; --k) s *= d.sizes[k];
    for (; k >= 0; --k)
      if (d.in[i].strides[k] != 0) return 0;
    return s;
  }

  void choose_mode() {
    if (d.ndim < 2) return;
    const int64_t cols = d.sizes[d.ndim - 1];
    for (int i = 0; i < d.n_in; ++i) {
      if (flat(i) || scalar(i)) continue;
      const int64_t s = periodic(i);
      if (s > 0 && s <= 256) {
        period = std::max(period, s);
      } else if (cols >= 64) {
        rows = true;
      }
    }
    if (cols >= 256) rows = true;
    bool all = true;
    for (int i = 0; i < d.n_in; ++i) all = all && (flat(i) || scalar(i));
    if (all) rows = false;
    if (rows) period = 1;
  }

  PwLoad make_load(int i, int temp, bool is_flat, bool one) const {
    const Elem e = d.in[i].type;
    return {load_fn(e),
            {static_cast<int16_t>(i), 0},
            static_cast<int16_t>(temp),
            is_flat,
            one,
            static_cast<int16_t>(elem_size(e)),
            static_cast<int16_t>(elem_size(compute_type(e))),
            nullptr};
  }

  void place_inputs() {
    const int last = d.ndim - 1;
    for (int i = 0; i < d.n_in; ++i) {
      Val& x = v[i];
      const Elem e = d.in[i].type;
      x.type = compute_type(e);
      x.ptr = i;
      const bool same = x.type == e;
      const int64_t inner = d.in[i].strides[last];
      const bool one = scalar(i) && !flat(i);
      if (one || (rows && inner == 0)) {
        x.level = one ? Level::kOnce : Level::kRow;
        if (!same) {  // convert one element
          const int t = new_temp(true);
          (one ? once_loads[p.n_once_loads++] : row_loads[p.n_row_loads++]) = make_load(i, t, false, true);
          x.ptr = t;
        }
        continue;
      }
      if (same && (rows ? inner == 1 : flat(i))) {
        x.step = static_cast<int>(elem_size(e));
        continue;
      }
      const bool repeat = !rows && periodic(i) > 0 && periodic(i) <= period && !flat(i);
      const int t = new_temp(false);
      (repeat ? once_loads[p.n_once_loads++] : loads[p.n_loads++]) = make_load(i, t, flat(i), false);
      x.ptr = t;
    }
  }

  bool output_of(int value, int* which) const {
    for (int o = 0; o < d.n_out; ++o)
      if (d.out[o].value == value) {
        *which = o;
        return true;
      }
    return false;
  }

  PwRef full(int value) {
    Val& x = v[value];
    if (x.level == Level::kTile) return {static_cast<int16_t>(x.ptr), static_cast<int16_t>(x.step)};
    if (x.full < 0) {
      x.full = new_temp(false, x.level == Level::kOnce);
      PwCode c{};
      c.fn = tile_fn(Pw::kIdentity, x.type, x.type, 1);
      c.src[0] = {static_cast<int16_t>(x.ptr), 0};
      c.dst = {static_cast<int16_t>(x.full), 0};
      if (x.level == Level::kOnce) {
        once_full[p.once_full.n++] = c;
      } else {
        body[p.body.n++] = c;
        const int keep = x.full;
        x.full = -1;  // again at the next use: it belongs to a row
        splats[n_splats++] = keep;
        return {static_cast<int16_t>(keep), 0};
      }
    }
    return {static_cast<int16_t>(x.full), 0};
  }
  int splats[3], n_splats = 0;

  void release(int value, int at) {
    Val& x = v[value];
    if (x.level == Level::kTile && x.last_use == at && is_temp(x.ptr) && !small[x.ptr - first_temp()] && !pinned(value))
      free_temp[x.ptr - first_temp()] = true;
  }
  bool pinned(int value) const {
    if (value >= d.n_in) return false;
    for (int i = 0; i < p.n_once_loads; ++i)
      if (once_loads[i].dst == v[value].ptr) return true;
    return false;
  }

  /// Instructions in order; false when one has no function.
  bool emit() {
    const int first = d.n_in + d.n_const;
    n_values = first + d.n_inst;
    for (int k = 0; k < d.n_inst; ++k)
      for (int s : d.inst[k].src)
        if (s >= 0) v[s].last_use = k;
    for (int o = 0; o < d.n_out; ++o) v[d.out[o].value].last_use = d.n_inst;
    for (int i = 0; i < d.n_const; ++i) {
      Val& x = v[d.n_in + i];
      x.level = Level::kOnce;
      x.type = compute_type(d.consts[i].type);
      x.ptr = d.n_in + d.n_out + i;
    }
    for (int k = 0; k < d.n_inst; ++k) {
      const PwInst& in = d.inst[k];
      Val& x = v[first + k];
      x.type = compute_type(in.out);
      x.level = Level::kOnce;
      for (int s : in.src)
        if (s >= 0) x.level = std::max(x.level, v[s].level);
      if (x.level != Level::kTile) {
        if (!emit_scalar(k)) return false;
      } else {
        cost += tile_cost(in.op) * (elem_size(x.type) == 8 ? 2.0f : 1.0f);
        if (!compilable(k)) {
          if (!emit_piece(piece, std::exchange(n_piece, 0))) return false;
          if (!compilable(k)) {
            if (!emit_tile(k)) return false;
            continue;
          }
        }
        piece[n_piece++] = k;
      }
    }
    return emit_piece(piece, std::exchange(n_piece, 0));
  }

  bool emit_scalar(int k) {
    const PwInst& in = d.inst[k];
    Val& x = v[d.n_in + d.n_const + k];
    PwCode c{};
    std::memcpy(c.imm, in.imm, sizeof c.imm);
    c.fn = tile_fn(in.op, in.type, in.out, 0);
    if (!c.fn) return false;
    for (int j = 0; j < 3 && in.src[j] >= 0; ++j) c.src[j] = {static_cast<int16_t>(v[in.src[j]].ptr), 0};
    x.ptr = new_temp(true);
    c.dst = {static_cast<int16_t>(x.ptr), 0};
    PwList& l = x.level == Level::kOnce ? p.once : p.row;
    (x.level == Level::kOnce ? once : row)[l.n++] = c;
    return true;
  }

  /// Can instruction k join those that wait to be compiled?
  bool compilable(int k) {
    const PwInst& in = d.inst[k];
    if (!jit_supported(d, in)) return false;
    Elem type = n_piece > 0 ? piece_type : Elem::kNone;
    const auto fits = [&](Elem e) {
      if (e == Elem::kBool) return true;
      if (type == Elem::kNone) type = e;
      return type == e;
    };
    bool ok = fits(in.type) && fits(in.out);
    for (int s : in.src)
      ok = ok && (s < 0 || (fits(v[s].type) && (v[s].level == Level::kTile || v[s].type != Elem::kBool)));
    if (ok) piece_type = type;
    return ok;
  }

  /// Compiles instructions of one level and type; those that cannot be compiled together are split.
  bool emit_piece(const int* ks, int n) {
    if (n == 0) return true;
    if (n == 1) return emit_tile(ks[0]);
    if (emit_compiled(ks, n)) return true;
    if (n == 2) return emit_tile(ks[0]) && emit_tile(ks[1]);
    return emit_piece(ks, n / 2) && emit_piece(ks + n / 2, n - n / 2);
  }

  bool emit_compiled(const int* ks, int n) {
    const int first = d.n_in + d.n_const, last = ks[n - 1];
    PwDesc& s = part;
    s.ndim = 1;
    s.sizes[0] = 1;
    s.n_in = s.n_const = s.n_inst = s.n_out = 0;
    std::fill(number, number + n_values, int16_t{-1});
    for (int i = 0; i < n; ++i) number[first + ks[i]] = 0;
    int inputs[PwDesc::kMaxIn], outputs[PwDesc::kMaxOut];
    for (int i = 0; i < n; ++i)
      for (int x : d.inst[ks[i]].src) {
        if (x < 0 || number[x] >= 0) continue;
        if (x >= d.n_in && x < first) {
          number[x] = static_cast<int16_t>(s.n_const);
          s.consts[s.n_const++] = d.consts[x - d.n_in];
          continue;
        }
        if (s.n_in == PwDesc::kMaxIn) return false;
        inputs[s.n_in] = x;
        number[x] = static_cast<int16_t>(s.n_in);
        s.in[s.n_in].type = v[x].type;
        s.in[s.n_in++].strides[0] = v[x].level == Level::kTile;
      }
    for (int x = d.n_in; x < first; ++x)
      if (number[x] >= 0) number[x] = static_cast<int16_t>(number[x] + s.n_in);
    for (int i = 0; i < n; ++i) {
      const int x = first + ks[i];
      number[x] = static_cast<int16_t>(s.n_in + s.n_const + i);
      PwInst& in = s.inst[s.n_inst++] = d.inst[ks[i]];
      for (int16_t& y : in.src)
        if (y >= 0) y = number[y];
      if (v[x].last_use <= last) continue;
      if (s.n_out == PwDesc::kMaxOut) return false;
      int o = 0;
      const bool direct = direct_output(x, last, &o);
      const int alias = direct ? d.out[o].alias : -1;
      outputs[s.n_out] = direct ? o : -1;
      s.out[s.n_out++] = {v[x].type, number[x], alias >= 0 ? number[alias] : int16_t{-1}};
    }
    PwCode c{};
    c.jit = s.n_out > 0 ? jit_pointwise(s) : nullptr;
    if (!c.jit) return false;
    c.first_ref = n_refs;
    c.n_refs = s.n_in + s.n_out;
    for (int i = 0; i < s.n_in; ++i)
      refs[n_refs++] = {static_cast<int16_t>(v[inputs[i]].ptr), static_cast<int16_t>(v[inputs[i]].step)};
    int out = 0;
    for (int i = 0; i < n; ++i) {
      Val& x = v[first + ks[i]];
      if (x.last_use <= last) continue;
      const int o = outputs[out++];
      x.ptr = o >= 0 ? d.n_in + o : new_temp(false);
      x.step = o >= 0 ? static_cast<int>(elem_size(x.type)) : 0;
      refs[n_refs++] = {static_cast<int16_t>(x.ptr), static_cast<int16_t>(x.step)};
    }
    for (int i = 0; i < n; ++i)
      for (int x : d.inst[ks[i]].src)
        if (x >= 0) release(x, ks[i]);
    body[p.body.n++] = c;
    return true;
  }

  /// Value `x` can be written to its output at once: instructions after `k` do not read what that overwrites.
  bool direct_output(int x, int k, int* o) const {
    return output_of(x, o) && d.out[*o].type == v[x].type && !read_later(d.out[*o].alias, k);
  }

  bool emit_tile(int k) {
    const int first = d.n_in + d.n_const;
    const PwInst& in = d.inst[k];
    Val& x = v[first + k];
    PwCode c{};
    std::memcpy(c.imm, in.imm, sizeof c.imm);
    n_splats = 0;
    unsigned scalars = 0;
    int n_src = 0;
    for (; n_src < 3 && in.src[n_src] >= 0; ++n_src)
      if (v[in.src[n_src]].level != Level::kTile) scalars |= 1u << n_src;
    c.fn = tile_fn(in.op, in.type, in.out, scalars);
    const bool splat = !c.fn;
    if (splat) c.fn = tile_fn(in.op, in.type, in.out, 0);
    if (!c.fn) return false;
    for (int j = 0; j < n_src; ++j) {
      const Val& y = v[in.src[j]];
      c.src[j] = splat ? full(in.src[j]) : PwRef{static_cast<int16_t>(y.ptr), static_cast<int16_t>(y.step)};
    }
    // An operand that dies here gives its tile to the result.
    const size_t width = elem_size(x.type);
    for (int j = 0; j < n_src; ++j)
      if (elem_size(v[in.src[j]].type) == width) release(in.src[j], k);
    int o = 0;
    if (direct_output(first + k, k, &o)) {
      x.ptr = d.n_in + o;
      x.step = static_cast<int>(elem_size(x.type));
    } else {
      x.ptr = new_temp(false);
    }
    c.dst = {static_cast<int16_t>(x.ptr), static_cast<int16_t>(x.step)};
    for (int j = 0; j < n_src; ++j)
      if (elem_size(v[in.src[j]].type) != width) release(in.src[j], k);
    for (int j = 0; j < n_splats; ++j) free_temp[splats[j] - first_temp()] = true;
    body[p.body.n++] = c;
    return true;
  }
  bool read_later(int input, int k) const { return input >= 0 && v[input].last_use > k; }

  void emit_outputs() {
    for (int o = 0; o < d.n_out; ++o) {
      const Val& x = v[d.out[o].value];
      const int ptr = d.n_in + o;
      if (x.ptr == ptr) continue;
      if (d.out[o].type != x.type) {
        n_splats = 0;
        stores[p.n_stores++] = {store_fn(d.out[o].type), full(d.out[o].value).ptr, static_cast<int16_t>(ptr), 2};
        continue;
      }
      PwCode c{};
      c.fn = tile_fn(Pw::kIdentity, x.type, x.type, x.level != Level::kTile);
      c.src[0] = {static_cast<int16_t>(x.ptr), static_cast<int16_t>(x.step)};
      c.dst = {static_cast<int16_t>(ptr), static_cast<int16_t>(elem_size(x.type))};
      body[p.body.n++] = c;
    }
  }

  void size_tiles() {
    int wide = 0, esize = 4;
    for (int i = 0; i < n_temp; ++i) wide += !small[i];
    for (int i = 0; i < n_values; ++i) esize = std::max<int>(esize, static_cast<int>(elem_size(v[i].type)));
    int64_t room = kScratch - kSlot * n_temp;
    const bool single = p.body.n == 1 && wide == 0;
    if (single) {
      p.tile = rows ? d.sizes[d.ndim - 1] : p.n;
    } else {
      p.tile = std::min(kMaxTile, room / 2 / (std::max(wide, 4) * esize)) / 64 * 64;
      if (period > 1) p.tile = p.tile / period * period;
    }
    n_wide = wide;
    temp_bytes = p.tile * esize;
  }
  int n_wide = 0;
  int64_t temp_bytes = 0;
};

}  // namespace
}  // namespace ortmod::cpu
