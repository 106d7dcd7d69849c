// Building the graphs of a mode, and finding the sizes of a call.
#include "exec/pair.h"

#include <ATen/core/Tensor.h>

#include "exec/frame.h"
#include "grad/build.h"
#include "graph/mode.h"
#include "passes/pass.h"

namespace ortmod {
namespace {

std::vector<std::string> names_of(const std::vector<Value*>& values) {
  std::vector<std::string> r;
  for (const Value* v : values) r.push_back(v->name);
  return r;
}

using Index = std::unordered_map<std::string_view, int>;

Index index(const std::vector<std::string>& names) {
  Index r;
  for (size_t i = 0; i < names.size(); ++i) r.emplace(names[i], static_cast<int>(i));
  return r;
}

int index_of(const Index& names, const std::string& name) {
  const auto it = names.find(name);
  return it == names.end() ? -1 : it->second;
}

/// Position of each number in a list.
std::unordered_map<int, int> positions(const std::vector<int>& list) {
  std::unordered_map<int, int> r;
  for (size_t i = 0; i < list.size(); ++i) r.emplace(list[i], static_cast<int>(i));
  return r;
}

constexpr std::string_view kBeforeCut[] = {"simplify"};

/// A copy for training or evaluation; new values of arguments, named in `updated`, are its last outputs.
std::unique_ptr<Graph> in_mode(const Graph& base, bool training, const std::vector<std::string>& arg_names,
                               std::vector<int>& updated) {
  auto g = base.clone();
  const std::vector<BufferUpdate> updates = set_training(*g, training);
  if (updates.empty()) return g;
  const Index args = index(arg_names);
  for (const BufferUpdate& u : updates) {
    const int arg = index_of(args, u.weight->name);
    if (arg < 0) continue;
    updated.push_back(arg);
    g->outputs.push_back(u.new_value);
  }
  return g;
}

/// Which of the values of these names the gradients depend on.
std::vector<bool> reads(const Joint& j, const std::vector<std::string>& names) {
  const std::vector<Node*>& nodes = j.graph->nodes();
  for (Value* v : j.graph->values()) v->mark = 0;
  for (Value* v : j.grads) v->mark = 1;
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    const Node& n = **it;
    if (std::any_of(n.outputs.begin(), n.outputs.end(), [](const Value* v) { return v && v->mark; }))
      for (Value* v : n.inputs)
        if (v) v->mark = 1;
  }
  std::vector<bool> r;
  for (const std::string& name : names) {
    const Value* v = j.graph->find(name);
    r.push_back(v && v->mark);
  }
  return r;
}

void optimise_for(Graph& g, const std::vector<std::string>& arguments, std::span<const std::string_view> passes = {}) {
  PassContext context;
  for (const std::string& name : arguments)
    if (const Value* v = g.find(name)) context.variable.insert(v);
  optimise(g, context, passes);
}

}  // namespace

PlanPair::PlanPair(std::shared_ptr<const Graph> base, const std::vector<std::string>& arg_weights, Mode mode)
    : mode_(std::move(mode)), arg_names_(names_of(base->inputs)), arg_weights_(arg_weights), base_(std::move(base)) {
  arg_names_.insert(arg_names_.end(), arg_weights.begin(), arg_weights.end());
  base_outputs_ = base_->outputs.size();
  auto g = in_mode(*base_, mode_.training, arg_names_, updated_);
  n_outputs_ = g->outputs.size();
  output_names_ = names_of(g->outputs);
  if (std::find(mode_.needs.begin(), mode_.needs.end(), true) != mode_.needs.end()) {
    differentiate_base(std::move(g));
  } else {
    forward_ = std::move(g);
  }
  if (!backward_) dce(*forward_, {});  // else it is what was cut out
  optimise_for(*forward_, arg_weights_);
  Plan::prepare(*forward_);
  for (const std::string& name : arg_weights_)  // nothing reads them in this mode
    if (!forward_->find(name)) forward_->add_input(name, base_->find(name)->type);
  if (!backward_) return;
  optimise_for(*backward_, {});
  Plan::prepare(*backward_);
}

void PlanPair::differentiate_base(std::unique_ptr<Graph> g) {
  std::vector<std::string> wanted;
  std::vector<int> wanted_args;
  for (size_t i = 0; i < mode_.needs.size(); ++i)
    if (mode_.needs[i]) {
      wanted.push_back(arg_names_[i]);
      wanted_args.push_back(static_cast<int>(i));
    }
  const std::vector<Reach> reach = explain_reach(*g, wanted);
  GradientOptions& options = options_;
  options.unreachable = GradientOptions::Unreachable::kDrop;
  for (size_t i = 0; i < reach.size(); ++i)
    if (reach[i].reached) {
      options.wrt.push_back(wanted[i]);
      saved_.reached.push_back(wanted_args[i]);
    }
  if (options.wrt.empty()) {
    forward_ = std::move(g);
    return;
  }
  // The gradients of new running statistics are never asked for.
  std::vector<Value*> outputs = g->outputs;
  g->outputs.resize(base_outputs_);
  if (n_outputs_ != base_outputs_) options.outputs = differentiate(*g, options).outputs;
  g->outputs = std::move(outputs);
  Joint j = differentiate(std::move(g), options);
  if (j.wrt.empty()) {
    saved_.reached.clear();
    forward_ = std::move(j.graph);
    forward_->inputs.resize(forward_->inputs.size() - j.seeds.size());
    return;
  }
  const Index reached = index(j.wrt);
  std::erase_if(saved_.reached, [&](int a) { return !reached.contains(arg_names_[static_cast<size_t>(a)]); });
  seeds_ = j.outputs;
  const Index args = index(arg_names_), outputs_by_name = index(output_names_);
  for (const std::string& s : seeds_) saved_.seeds.push_back(index_of(outputs_by_name, s));
  // Before the cut, so that backward reads what a Transpose or Cast read, and not its result.
  optimise_for(*j.graph, arg_weights_, kBeforeCut);
  const std::vector<bool> read = reads(j, arg_names_);
  Split s = split(std::move(j), arg_weights_);
  kept_ = std::move(s.kept);
  reads_ = std::move(s.reads);
  forward_ = std::move(s.forward);
  backward_ = std::move(s.backward);
  for (const std::string& name : reads_) {
    const int arg = index_of(args, name);
    if (arg >= 0) {
      saved_.args.push_back(arg);
    } else {
      saved_.outputs.push_back(index_of(outputs_by_name, name));
    }
  }
  saved_.all_args = saved_.args;
  const std::unordered_map<int, int> first = positions(saved_.args);
  for (int i = 0; i < static_cast<int>(read.size()); ++i) {
    if (!read[static_cast<size_t>(i)]) continue;
    saved_.joint_args.push_back(i);
    if (!first.contains(i)) saved_.all_args.push_back(i);
  }
}

std::unique_ptr<Graph> PlanPair::joint_graph() {
  std::vector<int> updated;
  Joint j = differentiate(in_mode(*base_, mode_.training, arg_names_, updated), options_);
  optimise_for(*j.graph, arg_weights_, kBeforeCut);
  std::unique_ptr<Graph> g = std::move(j.graph);
  g->outputs = j.grads;
  dce(*g, {});
  std::vector<std::string> random;
  take_random_inputs(*g, random);
  g->sort();
  dce(*g, {});
  for (const Node* n : g->nodes())
    if (const OpDef* def = find_op(*n); def && def->random)
      fail(ErrorKind::kGradient, "differentiate", "double backward would draw new random numbers", *n, -1,
           "use Dropout of opset 12 or later, or draw outside the model");
  std::lock_guard lock(mutex_);
  if (!random_) random_ = std::move(random);
  return g;
}

const std::vector<std::string>& PlanPair::random_inputs() {
  {
    std::lock_guard lock(mutex_);
    if (random_) return *random_;
  }
  joint_graph();
  return *random_;
}

/// Random values that forward keeps are not drawn again.
void PlanPair::take_random_inputs(Graph& g, std::vector<std::string>& names) const {
  const Index kept = index(kept_);
  const auto is_kept = [&](const Value* v) { return v && index_of(kept, v->name) >= 0; };
  const std::vector<Node*> nodes = g.nodes();
  for (Node* n : nodes) {
    const OpDef* def = find_op(*n);
    if (!def || !def->random) continue;
    bool replayed = false;
    if (def->replay && is_kept(n->out(1))) {
      Builder b(g, infer_node);
      Value* again = def->replay(Grad(*n, b, {}, {}))[0].value();
      g.replace_uses(n->out(), again);
      replayed = true;
    }
    const Values outputs = n->outputs;
    for (size_t i = replayed ? 1 : 0; i < outputs.size(); ++i) {
      if (!is_kept(outputs[i])) continue;
      const std::string name = outputs[i]->name;
      g.rename(outputs[i], name + "_drawn");
      Value* in = g.add_input(name, outputs[i]->type);
      g.replace_uses(outputs[i], in);
      names.push_back(name);
    }
  }
}

std::shared_ptr<DevicePlans> PlanPair::on(at::Device d) {
  std::lock_guard lock(mutex_);
  for (const auto& [device, plans] : devices_)
    if (device == d) return plans;
  auto f = Plan::make(forward_, n_outputs_, arg_names_, d);
  std::shared_ptr<Plan> b;
  std::vector<Source> sources;
  if (backward_) {
    std::vector<std::string> inputs = names_of(backward_->inputs);
    b = Plan::make(backward_, backward_->outputs.size(), inputs, d);
    const Index args = index(arg_names_), outputs = index(output_names_);
    const auto saved_args = positions(saved_.args), saved_outputs = positions(saved_.outputs);
    for (size_t i = 0; i < inputs.size(); ++i) {
      Source s{};
      std::string forward_name = inputs[i];
      if (i < seeds_.size()) {
        s = {Source::kSeed, index_of(outputs, seeds_[i]), 0};
        forward_name = seeds_[i];
      } else if (i < seeds_.size() + kept_.size()) {
        s = {Source::kKept, static_cast<int>(i - seeds_.size()), 0};
      } else {
        const int arg = index_of(args, inputs[i]);
        if (arg >= 0) {
          s = {Source::kArg, saved_args.at(arg), 0};
        } else {
          s = {Source::kOutput, saved_outputs.at(index_of(outputs, inputs[i])), 0};
        }
      }
      if (s.kind == Source::kSeed || s.kind == Source::kOutput) {
        s.value = f->outputs()[static_cast<size_t>(
            s.kind == Source::kSeed ? s.index : saved_.outputs[static_cast<size_t>(s.index)])];
      } else if (s.kind == Source::kKept) {
        s.value = f->outputs()[n_outputs_ + static_cast<size_t>(s.index)];
      } else {
        s.value = f->value_id(forward_name);
      }
      sources.push_back(s);
    }
  }
  auto plans = std::make_shared<DevicePlans>(std::move(f), std::move(b));
  plans->sources = std::move(sources);
  devices_.emplace_back(d, plans);
  return plans;
}

bool DevicePlans::matches(const Sizes& s, at::TensorList args) const {
  for (size_t i = 0; i < args.size(); ++i) {
    const at::IntArrayRef d = args[i].sizes();
    const Dims& e = s.types[i].dims;
    if (d.size() != e.size() || !std::equal(d.begin(), d.end(), e.begin())) return false;
  }
  return true;
}

std::shared_ptr<Sizes> DevicePlans::find(at::TensorList args) {
  {
    std::lock_guard lock(mutex_);
    if (!recent_.empty() && matches(*recent_.front().second, args)) return recent_.front().second;
  }
  std::vector<int64_t> key;
  key.reserve(args.size() * 4);
  for (const at::Tensor& a : args) {
    key.push_back(a.dim());
    key.insert(key.end(), a.sizes().begin(), a.sizes().end());
  }
  return find_key(std::move(key));
}

std::shared_ptr<Sizes> DevicePlans::find(at::IntArrayRef arg_dims) {
  {
    std::lock_guard lock(mutex_);
    if (!recent_.empty() && at::IntArrayRef(recent_.front().first) == arg_dims) return recent_.front().second;
  }
  return find_key(arg_dims.vec());
}

std::shared_ptr<Sizes> DevicePlans::find_key(std::vector<int64_t> key) {
  {
    std::lock_guard lock(mutex_);
    const auto it = by_key_.find(key);
    if (it != by_key_.end()) {
      recent_.splice(recent_.begin(), recent_, it->second);
      return recent_.front().second;
    }
  }
  auto s = make(key);
  std::lock_guard lock(mutex_);
  const auto it = by_key_.find(key);
  if (it != by_key_.end()) return it->second->second;
  recent_.emplace_front(key, s);
  by_key_.emplace(std::move(key), recent_.begin());
  if (recent_.size() > kMaxSizes) {
    by_key_.erase(recent_.back().first);
    recent_.pop_back();
  }
  return s;
}

std::shared_ptr<Sizes> DevicePlans::make(const std::vector<int64_t>& key) const {
  std::vector<Type> types;
  size_t at = 0;
  std::unordered_map<Dim, int64_t> symbols;
  for (size_t i = 0; i < forward->num_inputs(); ++i) {
    const auto rank = static_cast<size_t>(key[at++]);
    const Type& declared = forward->input_type(i);
    const Dims d(key.begin() + static_cast<std::ptrdiff_t>(at), key.begin() + static_cast<std::ptrdiff_t>(at + rank));
    at += rank;
    bool ok = !declared.has_rank || declared.dims.size() == rank;
    for (size_t k = 0; ok && declared.has_rank && k < rank; ++k) {
      const Dim e = declared.dims[k];
      if (is_known(e))
        ok = e == d[k];
      else if (e != kAnyDim && dim_expr(e).op == 'n')
        ok = symbols.try_emplace(e, d[k]).first->second == d[k];
    }
    if (!ok)
      fail(ErrorKind::kShape, "call",
           "wrong shape of \"" + forward->input_name(i) + "\": got " + to_string(d) + ", expected " +
               to_string(declared.dims));
    types.emplace_back(declared.dtype, d);
  }
  return forward->size(types, std::vector<const HostInts*>(types.size()));
}

std::shared_ptr<Sizes> DevicePlans::backward_sizes(Sizes& fs, const std::vector<at::Tensor>& inputs) {
  {
    std::lock_guard lock(fs.mutex);
    if (fs.backward) return fs.backward;
  }
  std::vector<Type> types;
  std::vector<const HostInts*> ints;
  bool dynamic = false;
  for (size_t i = 0; i < sources.size(); ++i) {
    Type t = fs.types[static_cast<size_t>(sources[i].value)];
    const HostInts* h = sources[i].kind == Source::kKept ? fs.host(sources[i].value) : nullptr;
    if (h && std::any_of(h->v.begin(), h->v.end(), [](Dim d) { return is_symbolic(d); })) h = nullptr;
    if (!t.is_static()) {
      dynamic = true;
      if (inputs[i].defined()) t.dims = Dims(inputs[i].sizes().begin(), inputs[i].sizes().end()), t.has_rank = true;
    }
    types.push_back(std::move(t));
    ints.push_back(h);
  }
  auto s = backward->size(types, ints);
  if (dynamic) return s;
  std::lock_guard lock(fs.mutex);
  if (!fs.backward) fs.backward = s;
  return fs.backward;
}

}  // namespace ortmod
