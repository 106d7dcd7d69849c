// Compiles chains of small steps. Operands are handled in pieces of 16, 8, 4, 2 and 1 elements, so that what one step
// stores is what the next one loads: masked stores cannot be forwarded to loads.
#include "kernels/cpu/chain.h"
#include "kernels/cpu/jit.h"
#include "kernels/cpu/jit_memory.h"

#if defined(ORTMOD_XBYAK) && (defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2))
#include "kernels/cpu/jit_chain.h"

namespace ortmod::cpu {
namespace {

constexpr int64_t kMaxElements = 64, kMaxProducts = 128;

template <class V>
void ChainCode<V>::pointwise(const ChainOp& o) {
  const PwDesc& d = *o.desc;
  const int64_t n = pw_elements(d);
  if (n > kMaxElements) throw CannotEmit{};
  std::array<bool, PwDesc::kMaxIn> one{};
  for (int i = 0; i < d.n_in; ++i) {
    const auto [flat, single] = pw_walk(d, d.in[i]);
    if ((!flat && !single) || d.in[i].type != o.type) throw CannotEmit{};
    one[static_cast<size_t>(i)] = !flat;
  }
  for (int i = 0; i < d.n_out; ++i)
    if (d.out[i].type != o.type) throw CannotEmit{};
  for (int k = 0; k < d.n_inst; ++k)
    if (!jit_supported(d, d.inst[k])) throw CannotEmit{};
  for (const Piece& p : pieces(n)) {
    this->begin(d);
    for (int k = 0; k < d.n_inst; ++k) {
      for (int s : d.inst[k].src) {
        if (s < 0 || s >= d.n_in || val(s).kind != Kind::kNone) continue;
        const PwPlace& at = o.places[s];
        val(s).reg = one[static_cast<size_t>(s)] ? load_splat(at) : load(moved(at, p.begin), p.count);
        val(s).kind = Kind::kVector;
        val(s).kept = true;
      }
      this->emit(k);
      const int y = this->first() + k;
      for (int out = 0; out < d.n_out; ++out)
        if (d.out[out].value == y) {
          const PwPlace to = moved(o.places[d.n_in + out], p.begin);
          int r = val(y).reg;
          if (val(y).kept) {  // a second place of the same value
            r = take();
            this->move(V(r), V(val(y).reg));
          }
          store(to, p.count, r);
          val(y).kept = true;
        }
      for (int s : d.inst[k].src) this->release(s, k);
      this->release(y, k);
    }
    unpin();
  }
}

bool power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

/// [1, k] * [k, n], B dense, n a power of two: products of all elements of B, then sums over lanes.
template <class V>
void ChainCode<V>::flat_product(const ChainOp& o) {
  const int n = static_cast<int>(o.n);
  int sum = -1, width = 0;
  for (const Piece& p : pieces(o.k * o.n)) {
    const int b = load(moved(o.b, p.begin), p.count), a = load(moved(o.a, p.begin / n), p.count / n);
    int x = a;
    Temp spread(*this);
    if (n > 1) {
      std::vector<int> index;
      for (int i = 0; i < this->lanes(); ++i) index.push_back(i < p.count ? i / n : 0);
      permute(spread, V(a), index);
      x = spread.r;
    }
    if (sum < 0) {
      sum = take();
      this->mul_(V(sum), V(x), V(b));
    } else {
      fold(sum, width, p.count);
      this->fma231(V(sum), V(x), V(b));
    }
    width = p.count;
  }
  fold(sum, width, n);
  finish(o, sum, o.bias, n, !o.bias_per_column);
  store(o.c, n, sum);
}

/// [m, 1] * [1, n], n a power of two.
template <class V>
void ChainCode<V>::flat_outer(const ChainOp& o) {
  const int n = static_cast<int>(o.n);
  const int row = n > 1 ? load(o.b, n) : load_splat(o.b);
  for (const Piece& p : pieces(o.m * o.n)) {
    const int a = load(moved(o.a, p.begin / n), p.count / n), y = take();
    if (n > 1) {
      std::vector<int> each, again;
      for (int i = 0; i < this->lanes(); ++i) {
        each.push_back(i < p.count ? i / n : 0);
        again.push_back(i % n);
      }
      Temp spread(*this);
      permute(spread, V(a), each);
      permute(V(y), V(row), again);
      this->mul_(V(y), V(y), V(spread));
    } else {
      this->mul_(V(y), V(a), V(row));
    }
    if (o.alpha != 1) this->mul_(V(y), V(y), this->constant_memory(o.alpha));
    store(moved(o.c, p.begin), p.count, y);
  }
}

template <class V>
void ChainCode<V>::product(const ChainOp& o) {
  if (o.m * o.n > kMaxElements || o.k > kMaxElements) throw CannotEmit{};
  const bool flat = power_of_two(o.n) && o.n <= this->lanes() && (o.n == 1 || kWide);
  if (flat && o.m == 1 && o.k * o.n <= kMaxElements && (o.a_col == 1 || o.k == 1) && (o.b_row == o.n || o.k == 1) &&
      (o.b_col == 1 || o.n == 1))
    return flat_product(o);
  if (flat && o.k == 1 && o.bias.index < 0 && !o.relu && (o.a_row == 1 || o.m == 1) && (o.b_col == 1 || o.n == 1))
    return flat_outer(o);
  if ((o.b_col != 1 && o.n != 1) || (o.bias.index >= 0 && o.m > 1)) throw CannotEmit{};
  const auto columns = pieces(o.n);
  if (o.m * o.k * static_cast<int64_t>(columns.size()) > kMaxProducts) throw CannotEmit{};
  for (int64_t i = 0; i < o.m; ++i)
    for (const Piece& p : columns) {
      const int sums = o.k >= 8 ? 4 : o.k >= 4 ? 2 : 1;
      std::vector<int> sum;
      for (int64_t k = 0; k < o.k; ++k) {
        const auto q = static_cast<size_t>(k % sums);
        const int b = load(moved(o.b, k * o.b_row + p.begin), p.count);
        Temp a(*this);
        this->broadcast(a, memory(moved(o.a, i * o.a_row + k * o.a_col)));
        if (q == sum.size()) {
          sum.push_back(take());
          this->mul_(V(sum[q]), a, V(b));
        } else {
          this->fma231(V(sum[q]), a, V(b));
        }
        if (Held* h = find(moved(o.b, k * o.b_row + p.begin), p.count, false)) h->pinned = false;
      }
      for (size_t q = sum.size(); q-- > 1;) {
        this->add(V(sum[q - 1]), V(sum[q - 1]), V(sum[q]));
        this->give(sum[q]);
      }
      finish(o, sum[0], o.bias_per_column ? moved(o.bias, p.begin) : o.bias, p.count, !o.bias_per_column);
      store(moved(o.c, i * o.n + p.begin), p.count, sum[0]);
      unpin();
    }
}

template <class V>
void ChainCode<V>::reduce_op(const ChainOp& o) {
  if (o.n * o.m > kMaxElements) throw CannotEmit{};
  const auto element = [&](const V& d, const V& x) {
    switch (o.reduce) {
      case Reduce::kSum:
      case Reduce::kMean:
        return this->move(d, x);
      case Reduce::kSumSquare:
        return this->mul_(d, x, x);
      default:
        throw CannotEmit{};
    }
  };
  const auto last = [&](int r) {
    if (o.reduce == Reduce::kMean)
      this->mul_(V(r), V(r),
                 this->constant_memory(f64_ ? 1.0 / static_cast<double>(o.n)
                                            : static_cast<double>(1.0f / static_cast<float>(o.n))));
  };
  if (o.m == 1) {
    int sum = -1, width = 0;
    for (const Piece& p : pieces(o.n)) {
      const int x = load(moved(o.a, p.begin), p.count);
      if (sum < 0) {
        sum = take();
        element(V(sum), V(x));
      } else {
        fold(sum, width, p.count);
        Temp t(*this);
        element(t, V(x));
        this->add(V(sum), V(sum), V(t));
      }
      width = p.count;
    }
    fold(sum, width, 1);
    last(sum);
    return store(o.c, 1, sum);
  }
  for (const Piece& p : pieces(o.m)) {
    const int sum = take();
    for (int64_t i = 0; i < o.n; ++i) {
      const int x = load(moved(o.a, i * o.m + p.begin), p.count);
      if (i == 0) {
        element(V(sum), V(x));
      } else {
        Temp t(*this);
        element(t, V(x));
        this->add(V(sum), V(sum), V(t));
      }
      if (Held* h = find(moved(o.a, i * o.m + p.begin), p.count, false)) h->pinned = false;
    }
    last(sum);
    store(moved(o.c, p.begin), p.count, sum);
    unpin();
  }
}

template <class V>
size_t ChainCode<V>::generate(std::span<const ChainOp* const> ops) {
  for (const ChainOp* o : ops) {
    switch (o->kind) {
      case ChainOp::Kind::kPointwise:
        pointwise(*o);
        break;
      case ChainOp::Kind::kProduct:
        product(*o);
        break;
      case ChainOp::Kind::kReduce:
        reduce_op(*o);
        break;
    }
    unpin();
  }
  this->vzeroupper();
  this->ret();
  this->emit_pool();
  this->align(64);
  for (Table& t : tables_) {
    this->L(t.label);
    for (int i : t.index) f64_ ? this->dq(static_cast<uint64_t>(i)) : this->dd(static_cast<uint32_t>(i));
  }
  return this->getSize();
}

template <class V>
Chain compile(std::span<const ChainOp* const> ops) {
  static thread_local std::vector<uint8_t> buffer(64 << 10);
  try {
    ChainCode<V> code(ops[0]->type == Elem::kF64, buffer.data());
    const size_t size = code.generate(ops);
    Chain c;
    c.memory = own_executable(buffer.data(), size);
    c.fn = reinterpret_cast<ChainFn>(const_cast<void*>(c.memory.get()));
    return c;
  } catch (const CannotEmit&) {
  } catch (const Xbyak::Error&) {
  }
  return {};
}

}  // namespace

Chain compile_chain(std::span<const ChainOp* const> ops) {
  if (ops.empty() || jit_level() == JitLevel::kOff) return {};
  return jit_level() == JitLevel::kAvx512 ? compile<Xbyak::Zmm>(ops) : compile<Xbyak::Ymm>(ops);
}

}  // namespace ortmod::cpu

#else

namespace ortmod::cpu {
Chain compile_chain(std::span<const ChainOp* const>) { return {}; }
}  // namespace ortmod::cpu

#endif
