// What the view, index and scatter families share.
#include "ops/indexing.h"

#include <algorithm>

#include "ops/old_form.h"

namespace ortmod {

const std::vector<int64_t>* list_attr(const Node& n, std::string_view key) {
  const Attr* a = n.find(key);
  return a ? std::get_if<std::vector<int64_t>>(a) : nullptr;
}

bool is_plain(const HostInts* h) {
  if (!h) return false;
  for (Dim d : h->v)
    if (is_symbolic(d)) return false;
  return true;
}

void pass_ints(Infer& c, const Dims& dims) {
  const HostInts* h = c.ints(0);
  if (h && numel(dims) == static_cast<Dim>(h->v.size())) c.out_ints(0, {dims, h->v});
}

std::optional<Dim> equal_dim(Dim a, Dim b) {
  if (is_known(a)) return is_known(b) && a != b ? std::nullopt : std::optional<Dim>(a);
  return is_known(b) || a == kAnyDim ? b : a;
}

SlicePart slice_part(int64_t start, int64_t end, int64_t step, int64_t d) {
  if (start < 0) start = start < -d ? -1 : start + d;
  if (end < 0) end = end < -d ? -1 : end + d;
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, d);
    end = std::clamp<int64_t>(end, 0, d);
    return {start, step, end > start ? (end - start - 1) / step + 1 : 0};
  }
  if (d == 0) return {0, step, 0};
  start = std::clamp<int64_t>(start, 0, d - 1);
  end = std::clamp<int64_t>(end, -1, d - 1);
  return {start, step, start > end ? (start - end - 1) / -std::max(step, -INT64_MAX) + 1 : 0};
}

Grads only_first(const Grad& g, Expr e) {
  Grads r(g.num_inputs());
  r[0] = e;
  return r;
}

Attrs copy_attrs(const Node& n, std::initializer_list<std::string_view> keys) {
  Attrs r;
  for (std::string_view k : keys)
    if (const Attr* a = n.find(k)) r.emplace_back(k, *a);
  return r;
}

Expr dims_of(Expr x, const std::vector<int64_t>& axes) {
  if (axes.empty()) return x.builder().ints({});
  std::vector<int64_t> known;
  bool all = static_cast<int64_t>(axes.size()) == x.rank();
  for (size_t i = 0; i < axes.size(); ++i) all = all && axes[i] == static_cast<int64_t>(i);
  if (all) return shape(x);
  for (int64_t a : axes) {
    const Dim d = x.rank() < 0 ? kAnyDim : x.type().dims[static_cast<size_t>(a)];
    if (!is_known(d)) return gather(shape(x), x.builder().ints(axes), 0);
    known.push_back(d);
  }
  return x.builder().ints(known);
}

Expr zeros(Expr shape, DType t) {
  Builder& b = shape.builder();
  if (b.opset() < 9) return expand(b.scalar(0, t), shape);
  return b.op("ConstantOfShape", {shape}, {{"value", Literal::scalar(t, 0, Dims{1})}});
}

namespace {

std::optional<std::vector<int64_t>> known_ints(Expr e) {
  const Value* v = e.value();
  if (v->is_constant()) return v->literal->to_ints();
  if (!v->host || !is_plain(v->host.get())) return std::nullopt;
  return std::vector<int64_t>(v->host->v.begin(), v->host->v.end());
}

[[noreturn]] void too_old(const Builder& b, const std::string& what, int opset) {
  cheaper_from(opset, what + " at run time");
  fail(ErrorKind::kGradient, "differentiate",
       what + " at run time needs opset " + std::to_string(opset) + ": got " + std::to_string(b.opset()) +
           "; use opset=\"upgrade\"");
}

}  // namespace

Expr iota(Expr n) {
  Builder& b = n.builder();
  if (b.opset() >= 11) return b.op("Range", {b.int_scalar(0), squeeze(n, {0}), b.int_scalar(1)});
  if (const auto k = known_ints(n)) {
    std::vector<int64_t> r(static_cast<size_t>(k->at(0)));
    for (size_t i = 0; i < r.size(); ++i) r[i] = static_cast<int64_t>(i);
    return b.ints(r);
  }
  if (b.opset() < 9) too_old(b, "counting to a size known", 9);
  cheaper_from(11, "a search for the elements that are not zero in place of a range");
  const Expr ones = b.op("ConstantOfShape", {n}, {{"value", Literal::scalar(DType::kInt64, 1, Dims{1})}});
  return squeeze(b.op("NonZero", {ones}), {0});
}

Expr cut(Expr x, Expr offset, Expr count, int64_t axis) {
  Builder& b = x.builder();
  if (b.opset() < 10) {
    cheaper_from(10, "Gather in place of Slice");
    return gather(x, offset ? iota(count) + offset : iota(count), axis);
  }
  return slice(x, offset ? offset : b.ints({0}), offset ? offset + count : count, b.ints({axis}));
}

Expr index_image(Expr shape) {
  const Expr all = zeros(shape, DType::kInt64);
  return reshape_exactly(iota(reshape(size(all), std::vector<int64_t>{1})), shape);
}

Expr one_hot(Expr indices, Expr depth, int64_t axis, DType t) {
  Builder& b = indices.builder();
  const Expr i = cast(indices, DType::kInt64);
  if (axis < 0) axis += i.rank() + 1;
  std::vector<int64_t> column(static_cast<size_t>(i.rank() - axis) + 1, 1);
  column[0] = -1;
  const Expr wrapped = b.opset() >= 9 ? where(less(i, b.int_scalar(0)), i + squeeze(depth, {0}), i) : i;
  if (b.opset() < 9 && !known_ints(depth)) too_old(b, "an index into a size known", 9);
  return cast(equal(unsqueeze(wrapped, {axis}), reshape(iota(depth), column)), t);
}

Expr scatter_rows(Expr indices, Expr updates, Expr shape) {
  Builder& b = updates.builder();
  const Expr i = cast(indices, DType::kInt64);
  if (b.opset() >= 16)
    return b.op("ScatterND", {zeros(shape, updates.dtype()), unsqueeze(i, {i.rank()}), updates},
                {{"reduction", std::string("add")}});
  cheaper_from(16, "a product with a one-hot matrix in place of additions by index");
  const int64_t q = i.rank();
  const Expr n = slice(shape, {0}, {1}, {0});
  const Expr hot = one_hot(flatten_all(i), n, 0, updates.dtype());
  return reshape_exactly(matmul(hot, b.op("Flatten", {updates}, {{"axis", q}})), shape);
}

}  // namespace ortmod
