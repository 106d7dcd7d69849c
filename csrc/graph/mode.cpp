// Train and eval: BatchNormalization and Dropout switched; training BatchNormalization is one node of our own in every
// opset.
#include "graph/mode.h"

#include <algorithm>

#include "graph/rewrite.h"

namespace ortmod {
namespace {

constexpr int kDropoutSwitch = 12;  // opset that gave Dropout its input training_mode
constexpr int kBatchNormSwitch = 14;

class Switch {
 public:
  Switch(Graph& g, bool training, bool top, const std::unordered_set<std::string>& frozen)
      : g_(g), training_(training), top_(top), frozen_(frozen) {}

  void run() {
    std::vector<Node*> old;
    old.swap(g_.order());
    g_.order().reserve(old.size());
    for (Node* n : old) {
      Rewrite r(g_, *n);
      if (n->is("Dropout") && dropout(r, *n)) continue;
      if (n->is("BatchNormalization") && trains(*n)) {
        training_norm(r, *n);
        continue;
      }
      g_.order().push_back(n);
      if (n->is("BatchNormalization")) inference_norm(*n);
      for (auto& [key, a] : n->attrs) {
        if (auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) Switch(**p, training_, false, frozen_).run();
        if (auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
          for (auto& e : *q) Switch(*e, training_, false, frozen_).run();
      }
    }
    g_.compact();
  }
  std::vector<BufferUpdate> updates;

 private:
  Value* number(double v, DType t) { return g_.add_weight("", Literal::scalar(t, v)); }
  Value* typed(Value* v, const Type& t) {
    v->type = t;
    return v;
  }

  bool dropout(Rewrite& r, Node& n) {
    if (n.version >= kDropoutSwitch) {
      if (training_) {
        while (n.inputs.size() < 3) g_.add_input_to(&n, nullptr);
        g_.set_input(&n, 2, g_.add_weight(n.out()->name + ".training_mode", Literal::scalar(DType::kBool, 1)));
      } else if (n.inputs.size() > 2) {
        g_.set_input(&n, 2, nullptr);
        n.inputs.resize(n.in(1) ? 2 : 1);
      }
      return false;
    }
    if (!training_) return false;
    const double ratio = n.attr("ratio", 0.5);
    if (ratio <= 0) return false;
    const Type x = r.in()->type;
    const DType t = x.dtype == DType::kUndefined ? DType::kFloat : x.dtype;
    r.begin();
    Value* draw = typed(r.add("RandomUniformLike", {r.in()}), x);
    Type flags = x;
    flags.dtype = DType::kBool;
    Value* dropped = typed(r.add("Less", {draw, number(ratio, t)}), flags);
    Value* kept = typed(r.add("Cast", {typed(r.add("Not", {dropped}), flags)}, {{"to", static_cast<int64_t>(t)}}), x);
    if (r.wants(1)) {
      if (n.version >= 10)
        r.finish("Not", {dropped}, {}, 1);
      else
        r.finish("Identity", {kept}, {}, 1);
    }
    Value* scaled = typed(r.add("Mul", {r.in(), number(ratio < 1 ? 1 / (1 - ratio) : 0, t)}), x);
    r.finish("Mul", {scaled, kept});
    return true;
  }

  /// The current value of a running statistic: that which an earlier node of this pass gave it.
  Value* current(Value* statistic) const {
    for (const BufferUpdate& u : updates)
      if (u.weight == statistic) return u.new_value;
    return statistic;
  }

  void update(Value* statistic, Value* value) {
    if (!top_ || !statistic->is_constant()) return;
    for (BufferUpdate& u : updates)
      if (u.weight == statistic) {
        u.new_value = value;
        return;
      }
    updates.push_back({statistic, value});
  }

  bool trains(const Node& n) const {
    if (!training_ || frozen_.empty()) return training_;
    const auto held = [&](const Value* v) { return v && frozen_.contains(v->name); };
    return !held(n.in(3)) && !held(n.in(4));
  }

  void inference_norm(Node& n) {
    if (n.find("training_mode")) n.set("training_mode", int64_t{0});
    for (size_t i = 1; i < n.outputs.size(); ++i)
      if (Value* v = n.outputs[i]) {
        if (!v->uses.empty() || g_.is_output(v))
          fail(ErrorKind::kModel, "mode",
               "statistics of the batch \"" + v->name + "\" are used, so that there is no inference form", n);
        v->producer = nullptr;
      }
    n.outputs.resize(1);
  }

  /// ortmod::BatchNormTrain of any opset. Its running variance takes that of the population the batch was drawn from, n
  /// / (n - 1) of the batch's, as torch does and ONNX does not: a node whose statistics the model itself reads stays
  /// beside it. A statistic that is a weight is written out beside the node, new = old * momentum + batch * (1 -
  /// momentum): gradients do not depend on what is updated in place.
  void training_norm(Rewrite& r, Node& n) {
    if (!n.attr("spatial", true))
      fail(ErrorKind::kUnsupportedOp, "mode", "training with spatial=0 is not supported", n);
    const bool stays = r.wants(1) || r.wants(2);
    for (size_t k = n.version >= kBatchNormSwitch ? 3 : 1; k < 5; ++k)
      if (r.wants(k))
        fail(ErrorKind::kUnsupportedOp, "mode", "statistics of the batch \"" + r.out(k)->name + "\" are used", n);
    Attrs attrs;
    for (const char* key : {"epsilon", "momentum"})
      if (const Attr* a = n.find(key)) attrs.emplace_back(key, *a);
    const double momentum = n.attr("momentum", 0.9);
    Values in{r.in(0), r.in(1), r.in(2), r.in(3), r.in(4)}, out{r.out(0), nullptr, nullptr};
    if (stays) {
      n.set("training_mode", int64_t{1});
      g_.order().push_back(&n);
      out[0] = nullptr;
    } else {
      r.begin();
    }
    Value* kept[2] = {};
    for (size_t k : {0, 1}) {
      Value* old = r.in(k + 3);
      if (!top_ || !old->is_constant()) continue;
      const Type& t = old->type;
      kept[k] = typed(r.add("Mul", {current(old), number(momentum, t.dtype)}), t);
      out[k + 1] = typed(g_.add_value(old->name + "_batch"), t);
      const std::vector<char> zeros(static_cast<size_t>(numel(t.dims)) * dtype_size(t.dtype));
      in[k + 3] = g_.add_weight(old->name + "_zero", Literal::copy(t.dtype, t.dims, zeros.data(), zeros.size()));
    }
    while (!out.empty() && !out.back()) out.pop_back();
    if (out.empty()) return;
    const std::string name = stays && !n.name.empty() ? n.name + "/BatchNormTrain" : n.name;
    g_.add_node(intern("ortmod", "BatchNormTrain"), std::move(in), out, std::move(attrs), name)->metadata = n.metadata;
    for (size_t k : {0, 1})
      if (kept[k]) update(r.in(k + 3), typed(r.add("Add", {kept[k], out[k + 1]}), r.in(k + 3)->type));
  }

  Graph& g_;
  const bool training_, top_;
  const std::unordered_set<std::string>& frozen_;
};

}  // namespace

std::vector<BufferUpdate> set_training(Graph& g, bool training, const std::unordered_set<std::string>& frozen) {
  Switch s(g, training, true, frozen);
  s.run();
  return std::move(s.updates);
}

void copy_statistics(Graph& g) {
  const std::vector<Node*> old = g.order();
  g.order().clear();
  int64_t count = 0;
  for (Node* n : old) {
    const bool training =
        n->is("BatchNormalization") && n->version >= kBatchNormSwitch && n->attr("training_mode", false);
    if (training && n->in(0)->type.has_rank && n->in(3)->is_constant() && n->in(4)->is_constant()) {
      std::vector<int64_t> axes{0};
      for (int64_t i = 2; i < n->in(0)->type.rank(); ++i) axes.push_back(i);
      const auto add = [&](const char* op, Values in, const Type& t, Attrs attrs = {}) {
        Value* v = g.add_node(intern(op), std::move(in), 1, std::move(attrs))->out();
        v->type = t;
        return v;
      };
      // The sum of no samples is zero, and no runtime knows it before; two operators and a count keep the copies apart.
      Value* at = g.add_weight("", Literal::ints({count++}));
      Type none = n->in(0)->type;
      none.dims[0] = 0;
      Value* nothing = add("Slice", {n->in(0), at, at, g.add_weight("", Literal::ints({0}))}, none);
      const Type statistic = n->in(3)->type;
      Value* zero =
          add("ReduceSum", {nothing, g.add_weight("", Literal::ints(axes))}, statistic, {{"keepdims", int64_t{0}}});
      g.set_input(n, 3, add("Add", {n->in(3), zero}, statistic));
      g.set_input(n, 4, add("Sub", {n->in(4), zero}, statistic));
    }
    g.order().push_back(n);
  }
}

}  // namespace ortmod
