// Operators of ai.onnx.ml that stay after the linear ones are lowered: thresholds, label look-up, ZipMap.
#include <ATen/ATen.h>

#include <cstring>
#include <memory>
#include <unordered_map>

#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

constexpr std::string_view kMl = "ai.onnx.ml";

void infer_binarizer(Infer& c) { c.same_as(0); }

Kernel binarizer_kernel(const Node& node) {
  const double threshold = node.attr("threshold", 0.0);
  return [=](Call& c) { c.set(0, c.in(0).gt(threshold).to(c.in(0).scalar_type())); };
}

/// Keys, values and default of a LabelEncoder, as numbers.
struct Labels {
  std::unordered_map<uint64_t, double> to;
  double otherwise = 0;
  DType key = DType::kUndefined, value = DType::kUndefined;

  /// Equal numbers have equal bits; all NaN are one.
  static uint64_t bits(double v) {
    if (v == 0) v = 0;
    if (v != v) return ~uint64_t{0};
    uint64_t b;
    std::memcpy(&b, &v, sizeof b);
    return b;
  }
  static std::vector<double> numbers(const Node& n, const std::string& prefix, DType& type) {
    if (n.has(prefix + "_int64s")) {
      type = DType::kInt64;
      const auto v = int_list(n, prefix + "_int64s");
      return {v.begin(), v.end()};
    }
    if (n.has(prefix + "_floats")) {
      type = DType::kFloat;
      return n.floats(prefix + "_floats");
    }
    if (const Attr* a = n.find(prefix + "_tensor"))
      if (const auto* l = std::get_if<LiteralPtr>(a); l && (*l)->dtype() != DType::kString) {
        type = (*l)->dtype();
        return (*l)->to_doubles();
      }
    fail(ErrorKind::kUnsupportedOp, "infer",
         "LabelEncoder of strings: got no " + prefix + "_int64s, _floats or numeric _tensor", n);
  }
  explicit Labels(const Node& n) {
    const std::vector<double> k = numbers(n, "keys", key), v = numbers(n, "values", value);
    if (k.size() != v.size())
      fail(ErrorKind::kModel, "infer",
           "keys and values differ in number: got " + std::to_string(k.size()) + " and " + std::to_string(v.size()), n);
    for (size_t i = 0; i < k.size(); ++i) to.try_emplace(bits(k[i]), v[i]);
    otherwise =
        value == DType::kInt64 ? static_cast<double>(n.attr("default_int64", -1)) : n.attr("default_float", -0.0);
    if (const Attr* a = n.find("default_tensor"))
      if (const auto* l = std::get_if<LiteralPtr>(a)) otherwise = (*l)->at(0);
  }
};

void infer_labels(Infer& c) {
  DType t = DType::kUndefined;
  Labels::numbers(c.node, "values", t);
  if (c.ranked(0))
    c.out(0, t, c.dims(0));
  else
    c.out_unranked(0, t);
}

Kernel labels_kernel(const Node& node) {
  return [labels = std::make_shared<const Labels>(node)](Call& c) {
    const at::Tensor x = c.in(0).to(at::kCPU, at::kDouble).contiguous();
    at::Tensor y = at::empty_like(x);
    const double* from = x.const_data_ptr<double>();
    double* to = y.mutable_data_ptr<double>();
    for (int64_t i = 0; i < x.numel(); ++i) {
      const auto it = labels->to.find(Labels::bits(from[i]));
      to[i] = it == labels->to.end() ? labels->otherwise : it->second;
    }
    c.set(0, y.to(c.device(), to_scalar_type(labels->value)));
  };
}

/// A row of scores stands for the map from class label to score.
void infer_zip_map(Infer& c) { c.same_as(0); }

Kernel zip_map_kernel(const Node&) {
  return [](Call& c) { c.set(0, c.in(0)); };
}

Grads zip_map_grad(const Grad& g) { return {g.dy()}; }

}  // namespace

OpTable ml_ops() {
  return {
      {.name = "Binarizer", .domain = kMl, .infer = infer_binarizer, .kernel = binarizer_kernel, .grad = no_grad},
      {.name = "LabelEncoder",
       .domain = kMl,
       .since = 2,
       .infer = infer_labels,
       .kernel = labels_kernel,
       .grad = no_grad,
       .limits = "numbers only"},
      {.name = "ZipMap",
       .domain = kMl,
       .infer = infer_zip_map,
       .kernel = zip_map_kernel,
       .grad = zip_map_grad,
       .alias = 0,
       .limits = "gives the matrix of scores, a column per class, in place of a list of maps"},
  };
}

}  // namespace ortmod
