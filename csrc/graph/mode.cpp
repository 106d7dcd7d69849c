// Train and eval: BatchNormalization and Dropout switched, old forms rewritten in elementary operators.
#include "graph/mode.h"

#include <algorithm>

#include "graph/rewrite.h"

namespace ortmod {
namespace {

constexpr int kDropoutSwitch = 12;  // opset that gave Dropout its input training_mode
constexpr int kBatchNormSwitch = 14;

class Switch {
 public:
  Switch(Graph& g, bool training, bool top, const std::unordered_set<std::string>& frozen) : g_(g), training_(training), top_(top), frozen_(frozen) {}

  void run() {
    std::vector<Node*> old;
    old.swap(g_.order());
    for (Node* n : old) {
      Rewrite r(g_, *n);
      if (n->is("Dropout") && dropout(r, *n)) continue;
      if (n->is("BatchNormalization") && old_batch_norm(r, *n)) continue;
      g_.order().push_back(n);
      if (n->is("BatchNormalization")) batch_norm(*n);
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
      if (n.version >= 10) r.finish("Not", {dropped}, {}, 1);
      else r.finish("Identity", {kept}, {}, 1);
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

  void batch_norm(Node& n) {
    if (!trains(n) || n.version < kBatchNormSwitch) {
      if (n.find("training_mode")) n.set("training_mode", int64_t{0});
      for (size_t i = 1; i < n.outputs.size(); ++i)
        if (Value* v = n.outputs[i]) {
          if (!v->uses.empty() || g_.is_output(v))
            fail(ErrorKind::kModel, "mode", "statistics of the batch \"" + v->name + "\" are used, so that there is no inference form", n);
          v->producer = nullptr;
        }
      n.outputs.resize(1);
      return;
    }
    n.set("training_mode", int64_t{1});
    n.outputs.resize(3);
    for (int k = 1; k < 3; ++k) statistic(n, k, k == 1 ? n.in(3) : n.in(4));
  }

  /// Output k of BatchNormalization, new = old * momentum + batch * (1 - momentum), for a running statistic. That of a weight is written
  /// out beside the node, which then does not read it: gradients do not depend on what is updated in place.
  void statistic(Node& n, int k, Value* old) {
    Value*& o = n.outputs[static_cast<size_t>(k)];
    Value* declared = o;
    const bool weight = top_ && old->is_constant();
    if (!declared || weight) {
      o = g_.add_value(old->name + (weight ? "_batch" : "_new"), old->type);
      o->producer = &n;
      o->output_index = k;
    }
    if (!weight) return;
    const Type& t = old->type;
    const std::vector<char> zeros(static_cast<size_t>(numel(t.dims)) * dtype_size(t.dtype));
    g_.set_input(&n, k + 2, g_.add_weight(old->name + "_zero", Literal::copy(t.dtype, t.dims, zeros.data(), zeros.size())));
    Rewrite r(g_, n);
    Value* kept = typed(r.add("Mul", {current(old), number(n.attr("momentum", 0.9), t.dtype)}), t);
    if (declared) g_.add_node(intern("Add"), {kept, o}, std::vector<Value*>{declared});
    // ONNX averages the variance of the batch as it is, torch that of the population it was drawn from: n / (n - 1) of it.
    update(old, k == 1 ? typed(r.add("Add", {kept, o}), t) : scaled_by_population(r, n.in(0), old, o, kept));
  }

  Value* scaled_by_population(Rewrite& r, Value* x, const Value* statistic, Value* batch, Value* kept) {
    const Type t = statistic->type, scalar(DType::kFloat, {});
    const double channels = static_cast<double>(std::max<int64_t>(1, statistic->literal ? statistic->literal->numel() : t.dims.empty() ? 1 : t.dims[0]));
    Value* size = typed(r.add("Cast", {typed(r.add("Size", {x}), Type(DType::kInt64, {}))}, {{"to", int64_t{1}}}), scalar);
    Value* count = typed(r.add("Div", {size, number(channels, DType::kFloat)}), scalar);
    Value* less = typed(r.add("Sub", {count, number(1, DType::kFloat)}), scalar);
    Value* factor = typed(r.add("Div", {count, typed(r.add("Max", {less, number(1, DType::kFloat)}), scalar)}), scalar);
    if (t.dtype != DType::kFloat) factor = typed(r.add("Cast", {factor}, {{"to", static_cast<int64_t>(t.dtype)}}), Type(t.dtype, {}));
    return typed(r.add("Add", {kept, typed(r.add("Mul", {batch, factor}), t)}), t);
  }

  /// Before opset 14: the formula itself.
  bool old_batch_norm(Rewrite& r, Node& n) {
    if (!trains(n) || n.version >= kBatchNormSwitch) return false;
    const Type x = r.in()->type;
    if (!n.attr("spatial", true)) fail(ErrorKind::kUnsupportedOp, "mode", "training with spatial=0 is not supported", n);
    if (!x.has_rank || x.rank() < 2) fail(ErrorKind::kModel, "mode", "the rank of the input is not known, which training in this opset needs", n, 0);
    std::vector<int64_t> axes{0}, column{-1};
    for (int64_t i = 2; i < x.rank(); ++i) {
      axes.push_back(i);
      column.push_back(1);
    }
    Type stat(x.dtype, Dims(static_cast<size_t>(x.rank()), 1));
    stat.dims[1] = x.dims[1];
    const double momentum = n.attr("momentum", 0.9);
    const Attrs over{{"axes", axes}, {"keepdims", int64_t{1}}};
    const double epsilon = n.attr("epsilon", 1e-5);
    Value *old_mean = current(r.in(3)), *old_variance = current(r.in(4)), *mean_weight = r.in(3), *variance_weight = r.in(4);
    r.begin();
    const auto spread = [&](Value* v) { return typed(r.add("Reshape", {v, r.ints(column)}), stat); };
    Value* mean = typed(r.add("ReduceMean", {r.in()}, over), stat);
    Value* d = typed(r.add("Sub", {r.in(), mean}), x);
    Value* variance = typed(r.add("ReduceMean", {typed(r.add("Mul", {d, d}), x)}, over), stat);
    Value* root = typed(r.add("Sqrt", {typed(r.add("Add", {variance, number(epsilon, x.dtype)}), stat)}), stat);
    Value* normal = typed(r.add("Div", {d, root}), x);
    r.finish("Add", {typed(r.add("Mul", {normal, spread(r.in(1))}), x), spread(r.in(2))});
    if (!top_ || !mean_weight->is_constant() || !variance_weight->is_constant()) return true;
    const Type flat = mean_weight->type;
    const auto kept = [&](Value* v) { return typed(r.add("Mul", {v, number(momentum, x.dtype)}), flat); };
    const auto fresh = [&](Value* v) {
      return typed(r.add("Mul", {typed(r.add("Reshape", {v, r.ints({-1})}), flat), number(1 - momentum, x.dtype)}), flat);
    };
    update(mean_weight, typed(r.add("Add", {kept(old_mean), fresh(mean)}), flat));
    update(variance_weight, scaled_by_population(r, r.in(), variance_weight, fresh(variance), kept(old_variance)));
    return true;
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
    const bool training = n->is("BatchNormalization") && n->version >= kBatchNormSwitch && n->attr("training_mode", false);
    if (training && n->in(0)->type.has_rank && n->in(3)->is_constant() && n->in(4)->is_constant()) {
      std::vector<int64_t> axes{0};
      for (int64_t i = 2; i < n->in(0)->type.rank(); ++i) axes.push_back(i);
      const auto add = [&](const char* op, std::vector<Value*> in, const Type& t, Attrs attrs = {}) {
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
      Value* zero = add("ReduceSum", {nothing, g.add_weight("", Literal::ints(axes))}, statistic, {{"keepdims", int64_t{0}}});
      g.set_input(n, 3, add("Add", {n->in(3), zero}, statistic));
      g.set_input(n, 4, add("Sub", {n->in(4), zero}, statistic));
    }
    g.order().push_back(n);
  }
}

}  // namespace ortmod
