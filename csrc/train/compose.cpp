// Composing a training step from its parts; every gradient comes from the shared builder.
#include "train/compose.h"

#include <algorithm>

#include "grad/build.h"
#include "graph/mode.h"
#include "graph/symbol.h"
#include "ops/op.h"
#include "passes/pass.h"

namespace ortmod {

std::vector<Value*> paste(Graph& g, const Graph& piece, const std::vector<Value*>& args) {
  ValueMap map;
  for (size_t i = 0; i < piece.inputs.size(); ++i) map[piece.inputs[i]] = args.at(i);
  for (const Value* w : piece.weights) map[w] = g.add_weight(w->name, w->literal);
  for (const Node* n : piece.nodes()) infer_node(*g.copy_node(*n, map));
  std::vector<Value*> r;
  for (const Value* v : piece.outputs) r.push_back(map.at(v));
  return r;
}

namespace {

constexpr const char* kStage = "compose";

[[noreturn]] void wrong_signature(const std::string& what, const Graph& g, const std::string& expected) {
  const auto list = [](const std::vector<Value*>& values) {
    std::string s;
    for (const Value* v : values) s += (s.empty() ? "" : ", ") + v->name;
    return s;
  };
  fail(ErrorKind::kModel, kStage,
       "the graph of the " + what + " \"" + g.name + "\" has another signature: got (" + list(g.inputs) + ") -> (" +
           list(g.outputs) + "), expected " + expected);
}

class Composer {
 public:
  Composer(const StepSpec& s, StepKind kind) : s_(s), kind_(kind) {}

  Composed run() {
    if (s_.weights.empty())
      fail(ErrorKind::kGradient, kStage, "there is nothing to train: no weight is named; see weights_to_train");
    auto g = s_.model->clone();
    check_weights(*g);
    for (const Value* v : g->inputs) c_.columns.push_back(v->name);
    const bool trains = kind_ != StepKind::kLoss && kind_ != StepKind::kOutputs;
    for (const BufferUpdate& u : set_training(*g, trains && s_.training))
      updates_.emplace_back(u.weight->name, u.new_value->name);
    if (kind_ == StepKind::kOutputs) {
      g_ = std::move(g);
      for (const Value* v : g_->outputs) c_.outputs.push_back(v->name);
    } else {
      add_loss(*g);
      if (trains) {
        differentiate_loss(std::move(g));
      } else {
        g_ = std::move(g);
      }
    }
    use_arena();
    if (trains) update();
    finish();
    return std::move(c_);
  }

 private:
  bool accumulates() const { return kind_ == StepKind::kAccumulate || kind_ == StepKind::kUpdateAccumulated; }

  void check_weights(const Graph& g) {
    c_.arena = s_.arena;
    for (const std::string& name : s_.weights) {
      const Value* v = g.find(name);
      if (!v || !v->is_constant()) {
        std::string known;
        for (const Value* w : g.weights)
          if (is_float(w->type.dtype)) known += (known.empty() ? "\"" : ", \"") + w->name + "\"";
        fail(ErrorKind::kModel, kStage,
             "no weight of that name to train: got \"" + name + "\", expected one of " + known);
      }
      if (!is_float(v->type.dtype))
        fail(ErrorKind::kType, kStage,
             "the weight \"" + name + "\" cannot be trained: got " + to_string(v->type) + ", expected a float type");
      if (std::any_of(c_.parts.begin(), c_.parts.end(), [&](const ArenaPart& p) { return p.name == name; }))
        fail(ErrorKind::kModel, kStage, "the weight \"" + name + "\" is named twice");
      c_.parts.push_back({name, v->type, c_.arena_size});
      c_.arena_size += numel(v->type.dims);
      if (c_.arena == DType::kUndefined) c_.arena = v->type.dtype;
      if (s_.arena == DType::kUndefined && v->type.dtype == DType::kDouble) c_.arena = DType::kDouble;
    }
  }

  Value* column(Graph& g, const std::string& name, Type type) {
    Value* v = g.add_input(name, std::move(type));
    c_.columns.push_back(v->name);
    return v;
  }
  Value* scalar(Graph& g, const std::string& name, DType t) {
    const auto it = scalars_.find(name);
    if (it != scalars_.end()) return g.find(it->second);
    Value* v = g.add_input(name, Type(t, {}));
    scalars_[name] = v->name;
    c_.fixed.push_back(name);
    fixed_values_.push_back(v->name);
    return v;
  }

  DType rows_type() const { return c_.arena == DType::kDouble ? DType::kDouble : DType::kFloat; }

  void add_loss(Graph& g) {
    Builder b(g, infer_node);
    Expr total, weights, scores;
    if (s_.losses.empty()) {
      Value* v = g.find(s_.loss_output);
      if (!v || !g.is_output(v)) {
        std::string names;
        for (const Value* o : g.outputs) names += (names.empty() ? "\"" : ", \"") + o->name + "\"";
        fail(ErrorKind::kModel, kStage, "no output \"" + s_.loss_output + "\" to minimise: the outputs are " + names);
      }
      total = b.wrap(v);
      if (total.rank() != 0) total = reduce_sum(total, {}, false);
      if (!s_.row_weights.empty()) weights = b.wrap(g.find(s_.row_weights));
    }
    Value* row_weights = nullptr;
    size_t k = 0;
    for (const LossPart& part : s_.losses) {
      Value* predicted = g.find(part.output);
      if (!predicted) fail(ErrorKind::kModel, kStage, "no output \"" + part.output + "\" for a loss");
      const Graph& l = *part.graph;
      const size_t wanted = s_.weighted ? 3 : 2;
      if (l.inputs.size() != wanted || l.outputs.empty())
        wrong_signature("loss", l,
                        s_.weighted ? "(expected, predicted, weight) -> (loss[, scores])"
                                    : "(expected, predicted) -> (loss[, scores])");
      Type label = Type::unranked(l.inputs[0]->type.dtype);
      const int rank = l.inputs[0]->type.rank() == 1 ? 1 : predicted->type.rank();
      if (rank > 0) {
        label.has_rank = true;
        for (int d = 0; d < rank; ++d) label.dims.push_back(fresh_symbol());
      }
      Value* expected = column(g, k == 0 ? "label" : "label_" + std::to_string(k), label);
      if (predicted->type.dtype != l.inputs[1]->type.dtype && is_float(predicted->type.dtype))
        predicted = cast(b.wrap(predicted), l.inputs[1]->type.dtype).value();
      std::vector<Value*> args{expected, predicted};
      if (s_.weighted) {
        if (!row_weights) row_weights = g.add_input("weight", Type(l.inputs[2]->type.dtype, Dims{symbol("rows")}));
        args.push_back(row_weights);
      }
      const std::vector<Value*> out = paste(g, l, args);
      Expr loss = b.wrap(out[0]);
      if (loss.rank() != 0) loss = reduce_sum(loss, {}, false);
      total = total ? total + cast(loss, total.dtype()) : loss;
      if (k == 0 && out.size() > 1) scores = b.wrap(out[1]);
      ++k;
    }
    if (row_weights) {
      c_.columns.push_back(row_weights->name);
      weights = b.wrap(row_weights);
    }
    Expr rows;
    if (weights) {
      rows = max(cast(reduce_sum(weights, {}, false), total.dtype()), like(total, 1e-30));
    } else if ((kind_ == StepKind::kUpdateAccumulated && !s_.penalties.empty()) ||
               std::any_of(s_.penalties.begin(), s_.penalties.end(),
                           [](const PenaltyPart& p) { return p.graph->inputs.size() > 1; })) {
      rows = b.wrap(scalar(g, "rows", total.dtype()));
    }
    Expr objective = total, penalties;
    if (s_.divide) objective = total * (weights ? 1.0 / rows : b.wrap(scalar(g, "inverse_rows", total.dtype())));
    if (kind_ != StepKind::kAccumulate && !s_.penalties.empty()) {
      // Once for an update: its last batch has the penalty for all rows, times what the gradient is divided by.
      Expr times, all = rows;
      if (kind_ == StepKind::kUpdateAccumulated) {
        const Expr before = cast(b.wrap(scalar(g, "accumulated_rows", rows_type())), total.dtype());
        times = s_.divide ? 1.0 + before / rows : 1.0 + before;
        all = rows * times;
      }
      for (const PenaltyPart& part : s_.penalties) {
        const Expr p = penalty(b, part, total.dtype(), all);
        penalties = penalties ? penalties + p : p;
      }
      if (times) penalties = penalties * times;
      objective = objective + penalties;
    }
    objective_ =
        rename_to(g, objective.value() == total.value() ? unary("Identity", total) : objective, "objective")->name;
    g.outputs = {rename_to(g, total, "total_loss")};
    c_.outputs = {"loss"};
    c_.divides = s_.divide;
    if (weights) {
      divisor_ = rows.value()->name;
      g.outputs.push_back(rows.value());
      c_.outputs.push_back("rows");
    }
    if (penalties) {
      g.outputs.push_back(penalties.value());
      c_.outputs.push_back("penalty");
    }
    if (kind_ == StepKind::kLoss && scores) {
      g.outputs.push_back(scores.value());
      c_.outputs.push_back("scores");
    }
  }

  Expr penalty(Builder& b, const PenaltyPart& part, DType t, Expr rows) {
    const Graph& p = *part.graph;
    if (p.inputs.empty() || p.inputs.size() > 2 || p.outputs.size() != 1 ||
        (p.inputs.size() == 2 && p.inputs[1]->name != "rows"))
      wrong_signature("penalty", p, "(weight[, rows]) -> (penalty)");
    Expr sum;
    for (const std::string& name : part.weights) {
      Value* w = b.graph().find(name);
      if (!w || !w->is_constant()) fail(ErrorKind::kModel, kStage, "no weight \"" + name + "\" for a penalty");
      std::vector<Value*> args{cast(b.wrap(w), p.inputs[0]->type.dtype).value()};
      if (p.inputs.size() == 2) args.push_back(cast(rows, p.inputs[1]->type.dtype).value());
      Expr one = b.wrap(paste(b.graph(), p, args)[0]);
      if (one.rank() != 0) one = reduce_sum(one, {}, false);
      sum = sum ? sum + one : one;
    }
    return cast(sum, t);
  }

  static Value* rename_to(Graph& g, Expr x, const std::string& name) {
    if (!x.value()->producer) x = unary("Identity", x);
    g.rename(x.value(), name);
    return x.value();
  }

  void differentiate_loss(std::unique_ptr<Graph> g) {
    const size_t n_outputs = g->outputs.size();
    g->outputs.push_back(g->find(objective_));
    for (const auto& [weight, fresh] : updates_) g->outputs.push_back(g->find(fresh));
    GradientOptions options;
    options.wrt = s_.weights;
    options.outputs = {objective_};
    options.advice = "leave it out of the weights to train";
    Joint j = differentiate(*g, options);
    g_ = std::move(j.graph);
    Builder b(*g_, infer_node, Origin::kGradient);
    Value* seed = j.seeds[0];
    g_->replace_uses(seed, b.scalar(1, seed->type.dtype).value());
    std::erase(g_->inputs, seed);
    for (const Value* v : j.grads) gradients_.push_back(v->name);
    for (size_t i = 0; i < updates_.size(); ++i) {
      c_.buffers.push_back(updates_[i].first);
      new_buffers_.push_back(g_->outputs[n_outputs + 1 + i]->name);
    }
    g_->outputs.resize(n_outputs);
  }

  Value* fixed(const std::string& name, Type type) {
    Value* v = g_->add_input(name, std::move(type));
    c_.fixed.push_back(name);
    fixed_values_.push_back(v->name);
    return v;
  }

  /// Trained weights are read from one flat input.
  void use_arena() {
    parameters_ = fixed("parameters", Type(c_.arena, Dims{c_.arena_size}));
    std::vector<Value*> pieces = unpack(parameters_);
    Builder b(*g_, infer_node);
    for (size_t i = 0; i < c_.parts.size(); ++i) {
      Value* w = g_->find(c_.parts[i].name);
      std::erase(g_->weights, w);
      w->literal = nullptr;
      g_->replace_uses(w, cast(b.wrap(pieces[i]), c_.parts[i].type.dtype).value());
    }
    for (const std::string& name : c_.buffers.empty() ? eval_buffers() : c_.buffers) {
      Value* w = g_->find(name);
      if (!w || !w->is_constant()) continue;
      std::erase(g_->weights, w);
      w->literal = nullptr;
      g_->inputs.push_back(w);
      c_.fixed.push_back(name);
      fixed_values_.push_back(name);
    }
  }

  /// Names of the running statistics that training would update.
  std::vector<std::string> eval_buffers() const {
    auto probe = s_.model->clone();
    std::vector<std::string> r;
    if (s_.training)
      for (const BufferUpdate& u : set_training(*probe, true)) r.push_back(u.weight->name);
    return r;
  }

  std::vector<Value*> unpack(Value* flat) {
    std::vector<int64_t> shapes;
    for (const ArenaPart& p : c_.parts) {
      shapes.push_back(static_cast<int64_t>(p.type.dims.size()));
      shapes.insert(shapes.end(), p.type.dims.begin(), p.type.dims.end());
    }
    Node* n = g_->add_node(intern("ortmod", "Unpack"), {flat}, static_cast<int>(c_.parts.size()), {{"shapes", shapes}},
                           "unpack_" + flat->name);
    infer_node(*n);
    return n->outputs.vec();
  }
  Value* pack(std::vector<Value*> pieces, const std::string& name) {
    Node* n = g_->add_node(intern("ortmod", "Pack"), std::move(pieces), 1, {}, "pack_" + name);
    infer_node(*n);
    g_->rename(n->out(), name);
    return n->out();
  }

  void output(const std::string& role, Value* v) {
    g_->outputs.push_back(v);
    c_.outputs.push_back(role);
  }
  void donate(const std::string& name, Value* v) {
    output(name, v);
    donated_.emplace_back(name, c_.outputs.size() - 1);
  }

  void update() {
    Builder b(*g_, infer_node, Origin::kGradient);
    std::vector<Value*> pieces;
    for (const std::string& name : gradients_) pieces.push_back(cast(b.wrap(g_->find(name)), c_.arena).value());
    Expr gradient = b.wrap(pack(pieces, "gradient"));
    if (accumulates()) {
      // Batches count by what their losses are divided by: the update is that of all their rows at once.
      const DType t = rows_type();
      const Expr share = !s_.divide         ? b.scalar(1, t)
                         : divisor_.empty() ? b.wrap(scalar(*g_, "rows", t))
                                            : cast(b.wrap(g_->find(divisor_)), t);
      Value* accumulated = fixed("accumulated", Type(c_.arena, Dims{c_.arena_size}));
      gradient = gradient * cast(share, c_.arena) + b.wrap(accumulated);
      const Expr sum = share + b.wrap(scalar(*g_, "accumulated_rows", t));
      if (kind_ == StepKind::kAccumulate) return finish_accumulate(gradient, sum);
      gradient = gradient * cast(1.0 / sum, c_.arena);
    }
    if (s_.clip_norm > 0 || s_.report_norm) {
      Expr norm = sqrt(reduce("ReduceSumSquare", gradient, {}, false));
      if (s_.report_norm) output("gradient_norm", norm.value());
      if (s_.clip_norm > 0) gradient = gradient * min(like(norm, 1), s_.clip_norm / (norm + 1e-6));
    }
    if (s_.clip_value > 0) gradient = min(max(gradient, like(gradient, -s_.clip_value)), like(gradient, s_.clip_value));
    apply(b, gradient.value());
    finish_buffers();
  }

  void finish_accumulate(Expr gradient, Expr rows) {
    donate("accumulated", gradient.value());
    donate("accumulated_rows", rows.value());
    finish_buffers();
  }
  void finish_buffers() {
    for (size_t i = 0; i < c_.buffers.size(); ++i) donate(c_.buffers[i], g_->find(new_buffers_[i]));
  }

  /// The inputs of the update graph that are states, in order.
  std::vector<std::string> states_of(const Graph& u) const {
    std::vector<std::string> r;
    bool weight = false;
    for (const Value* v : u.inputs) {
      weight = weight || v->name == "weight";
      if (v->name != "weight" && v->name != "gradient" && v->name != "learning_rate" && v->name != "step")
        r.push_back(v->name);
    }
    if (!weight || u.outputs.size() != r.size() + 1)
      wrong_signature("learning rate", u,
                      "(weight, gradient, learning_rate[, step][, states...]) -> (new weight[, new states...])");
    return r;
  }

  static bool pointwise(const Graph& u) {
    for (const Node* n : u.nodes()) {
      const OpDef* def = find_op(*n);
      if (!def || def->pointwise == Pw{0}) return false;
    }
    return std::all_of(u.weights.begin(), u.weights.end(), [](const Value* w) { return w->literal->numel() == 1; });
  }

  void apply(Builder& b, Value* gradient) {
    const Graph& u = *s_.update;
    c_.states = states_of(u);
    c_.flat = pointwise(u);
    std::vector<Value*> states;
    for (const std::string& name : c_.states) states.push_back(fixed(name, Type(c_.arena, Dims{c_.arena_size})));
    const auto arguments = [&](Value* w, Value* d, const std::vector<Value*>& own) {
      std::vector<Value*> args;
      size_t k = 0;
      for (const Value* v : u.inputs) {
        if (v->name == "weight")
          args.push_back(w);
        else if (v->name == "gradient")
          args.push_back(d);
        else if (v->name == "learning_rate")
          args.push_back(scalar(*g_, "learning_rate", c_.arena));
        else if (v->name == "step")
          args.push_back(scalar(*g_, "step", DType::kDouble));
        else
          args.push_back(own[k++]);
      }
      return args;
    };
    std::vector<Value*> fresh;
    if (c_.flat) {
      fresh = paste(*g_, u, arguments(parameters_, gradient, states));
    } else {
      std::vector<std::vector<Value*>> inputs{unpack(parameters_), unpack(gradient)}, results(u.outputs.size());
      for (Value* s : states) inputs.push_back(unpack(s));
      for (size_t i = 0; i < c_.parts.size(); ++i) {
        std::vector<Value*> own;
        for (size_t k = 2; k < inputs.size(); ++k) own.push_back(inputs[k][i]);
        const auto out = paste(*g_, u, arguments(inputs[0][i], inputs[1][i], own));
        for (size_t k = 0; k < out.size(); ++k) results[k].push_back(out[k]);
      }
      for (size_t k = 0; k < results.size(); ++k)
        fresh.push_back(pack(results[k], k == 0 ? "weight_new" : c_.states[k - 1] + "_new"));
    }
    for (size_t k = 0; k < fresh.size(); ++k) {
      const Type& t = fresh[k]->type;
      if (t.dtype != c_.arena || !t.is_static() || numel(t.dims) != c_.arena_size || t.dims.size() != 1)
        fail(ErrorKind::kShape, kStage,
             "the graph of the learning rate \"" + u.name + "\" changes the type of \"" +
                 (k == 0 ? "weight" : c_.states[k - 1]) + "\": got " + to_string(t) + ", expected " +
                 to_string(parameters_->type));
      Value* v = fresh[k]->producer ? fresh[k] : unary("Identity", b.wrap(fresh[k])).value();
      donate(k == 0 ? "parameters" : c_.states[k - 1], v);
    }
  }

  /// Nodes that depend on the new values run last, so that these can replace the old ones in place.
  void postpone() {
    NodeSet late;
    for (const auto& [name, output] : donated_)
      if (const Node* n = g_->outputs[output]->producer) late.insert(n);
    std::vector<Node*> first, last;
    for (Node* n : g_->nodes()) {
      bool is_late = late.contains(n);
      for (const Value* v : n->inputs) is_late = is_late || (v && v->producer && late.contains(v->producer));
      if (is_late) late.insert(n);
      (is_late ? last : first).push_back(n);
    }
    first.insert(first.end(), last.begin(), last.end());
    g_->order() = std::move(first);
  }

  void finish() {
    Graph& g = *g_;
    g.sort();
    dce(g, {});
    optimise(g);
    postpone();
    // What nobody reads is no input, except data.
    std::vector<std::string> fixed_names;
    std::vector<Value*> inputs;
    for (const std::string& name : c_.columns) inputs.push_back(g.find(name));
    for (size_t i = 0; i < c_.fixed.size(); ++i) {
      Value* v = g.find(fixed_values_[i]);
      const bool donated =
          std::any_of(donated_.begin(), donated_.end(), [&](const auto& d) { return d.first == c_.fixed[i]; });
      if (!v || (v->uses.empty() && !donated && !g.is_output(v))) continue;
      inputs.push_back(v);
      fixed_names.push_back(c_.fixed[i]);
      if (donated)
        for (const auto& [name, output] : donated_)
          if (name == c_.fixed[i]) c_.donations.push_back({inputs.size() - 1, output});
    }
    c_.fixed = std::move(fixed_names);
    g.inputs = std::move(inputs);
    c_.graph = std::move(g_);
  }

  const StepSpec& s_;
  const StepKind kind_;
  Composed c_;
  std::unique_ptr<Graph> g_;
  std::string objective_, divisor_;  // divisor_: the sum of the weights of the rows
  Value* parameters_ = nullptr;
  std::vector<std::string> gradients_, new_buffers_, fixed_values_;
  std::vector<std::pair<std::string, std::string>> updates_;  // running statistic, its new value
  std::unordered_map<std::string, std::string> scalars_;
  std::vector<std::pair<std::string, size_t>> donated_;  // name of the old value, output
};

}  // namespace

Composed compose(const StepSpec& spec, StepKind kind) { return Composer(spec, kind).run(); }

}  // namespace ortmod
