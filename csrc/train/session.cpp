// Training, eval and optimizer models over one set of tensors.
#include "train/session.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_set>

#include "grad/build.h"
#include "graph/proto.h"
#include "ops/kernel.h"
#include "ops/op.h"
#include "passes/pass.h"
#include "train/arena.h"
#include "train/sequences.h"

namespace ortmod {
namespace {

constexpr const char* kStage = "artifacts";
constexpr std::string_view kBuffer = "_grad.accumulation.buffer", kAccumulated = "_grad.accumulation.out",
                           kUpdated = ".updated";
constexpr const char* kFlat = "flat/";  // before names of flat tensors
constexpr const char* kReset = "lazy_reset_grad";
constexpr const char* kNote = "ortmod.artifact";
constexpr int64_t kAlignment = 64;  // bytes, of pieces of flat tensors

bool ends_with(std::string_view s, std::string_view end) {
  return s.size() >= end.size() && s.substr(s.size() - end.size()) == end;
}
std::string stem(const std::string& s, std::string_view end) { return s.substr(0, s.size() - end.size()); }

std::string list_of(const std::vector<std::string>& names) {
  std::string s;
  for (const std::string& n : names) s += (s.empty() ? "" : ", ") + n;
  return s.empty() ? "none" : s;
}

std::unique_ptr<Graph> read(const std::string& path) {
  auto g = from_file(path);
  prepare(*g);
  return g;
}

/// The flag is known: what it chooses between becomes one of the two, at the outputs too.
void decide(Graph& g, bool value) {
  const auto at = std::find_if(g.inputs.begin(), g.inputs.end(), [](const Value* v) { return v->name == kReset; });
  if (at == g.inputs.end()) return;
  Value* flag = *at;
  std::vector<Value*> known{flag};
  for (const Use& use : flag->uses)
    if (use.node->is("Reshape")) known.push_back(use.node->out());
  for (const Value* v : known)
    for (const Use& use : SmallVec<Use, 2>(v->uses)) {
      Node* n = use.node;
      if (!n->is("Where") || use.index != 0) continue;
      g.replace_uses(n->out(), n->in(value ? 1 : 2));
      g.remove(n);
    }
  const bool one[] = {value};
  g.inputs.erase(at);
  flag->literal = Literal::copy(DType::kBool, Dims{1}, one, 1);
  g.weights.push_back(flag);
  g.compact();
}

/// A graph, and what its outputs are called in the files.
struct Named {
  std::unique_ptr<Graph> graph;
  std::vector<std::string> outputs;
};

bool from_ortmod(const Graph& g) {
  return std::any_of(g.metadata.begin(), g.metadata.end(), [](const auto& m) { return m.first == kNote; });
}

/// The training model with its gradient made anew: a file holds it in standard operators, the engine has faster ones.
/// `reset`: gradients replace what was accumulated.
Named differentiated(const Graph& source, const std::vector<std::string>& trainable, bool reset) {
  Named r;
  auto g = source.clone();
  std::vector<Value*> kept;
  for (Value* v : g->outputs) {
    if (ends_with(v->name, kAccumulated)) continue;
    kept.push_back(v);
    r.outputs.push_back(v->name);
  }
  g->outputs = std::move(kept);
  dce(*g, {});
  std::erase_if(g->inputs, [](const Value* v) { return v->name == kReset; });
  g->compact();
  Joint j = differentiate(*g, {trainable, {g->outputs[0]->name}});
  Graph& joint = *j.graph;
  Value* seed = j.seeds[0];
  std::erase(joint.inputs, seed);
  Value* one = joint.add_weight("one", Literal::scalar(seed->type.dtype, 1));
  if (seed->type.dims.empty()) {
    joint.replace_uses(seed, one);
  } else {
    Value* loss = joint.outputs[0];
    Node* shape = joint.add_node(intern("Shape"), {loss});
    Node* ones = joint.add_node(intern("Expand"), {one, shape->out()});
    infer_node(*shape);
    infer_node(*ones);
    joint.replace_uses(seed, ones->out());
  }
  joint.outputs.resize(joint.outputs.size() - j.grads.size());
  for (size_t i = 0; i < trainable.size(); ++i) {
    Value* gradient = j.grads[i];
    if (!reset) {
      Node* sum = joint.add_node(intern("Add"), {joint.find(trainable[i] + std::string(kBuffer)), gradient});
      sum->out()->type = gradient->type;
      gradient = sum->out();
    }
    joint.outputs.push_back(gradient);
    r.outputs.push_back(trainable[i] + std::string(kAccumulated));
  }
  r.graph = std::move(j.graph);
  return r;
}

Named as_written(const Graph& source, int flag) {
  Named r{source.clone(), {}};
  for (const Value* v : source.outputs) r.outputs.push_back(v->name);
  if (flag >= 0) decide(*r.graph, flag != 0);
  return r;
}

at::Tensor empty_of(const Type& t, at::Device d) {
  return arena(at::IntArrayRef(t.dims.data(), t.dims.size()),
               at::TensorOptions().dtype(to_scalar_type(t.dtype)).device(d))
      .zero_();
}

}  // namespace

Session::Session(const std::string& training, const std::string& evaluation,
                 const std::map<std::string, at::Tensor>& parameters, at::Device device)
    : device_(device) {
  const auto g = read(training);
  collect(*g, parameters);
  reset_train_ = part(*g, "training", 1);
  train_ = part(*g, "training", 0);
  if (evaluation.empty()) return;
  eval_graph_ = read(evaluation);
  eval_ = part(*eval_graph_, "eval", -1);
}

void Session::add_values(const std::string& flat, const std::function<std::string(const std::string&)>& key,
                         DType type) {
  const auto own = [&](size_t i) { return type == DType::kUndefined ? types_[i].dtype : type; };
  if (flat_size_ > 0) values_[flat] = empty_of(Type(own(0), Dims{flat_size_}), device_);
  for (size_t i = 0; i < trainable_.size(); ++i) {
    const Dims& d = types_[i].dims;
    values_[key(trainable_[i])] = flat_size_ == 0
                                      ? empty_of(Type(own(i), d), device_)
                                      : values_[flat].narrow(0, offsets_[i], numel(d)).view({d.data(), d.size()});
  }
}

/// Finds out what the inputs of the training model are, and gives them memory.
void Session::collect(const Graph& g, const std::map<std::string, at::Tensor>& given) {
  std::unordered_map<std::string, const Value*> inputs;
  for (const Value* v : g.inputs) {
    inputs[v->name] = v;
    if (given.contains(v->name) && !v->type.is_static())
      fail(ErrorKind::kModel, kStage, "the shape of the parameter \"" + v->name + "\" is not known");
  }
  for (const Value* v : g.inputs) {
    const std::string name = ends_with(v->name, kBuffer) ? stem(v->name, kBuffer) : "";
    if (!inputs.contains(name)) continue;
    if (!given.contains(name))
      fail(ErrorKind::kModel, kStage,
           "the checkpoint has no parameter \"" + name +
               "\", which the training model takes; use the artifacts of one call together");
    trainable_.push_back(name);
    types_.push_back(inputs[name]->type);
  }
  if (trainable_.empty())
    fail(
        ErrorKind::kModel, kStage,
        "this is no training model: it has no input *" + std::string(kBuffer) + "; give what generate_artifacts wrote");
  const bool one_type =
      std::all_of(types_.begin(), types_.end(), [&](const Type& t) { return t.dtype == types_[0].dtype; });
  const auto unit =
      std::max<int64_t>(1, kAlignment / static_cast<int64_t>(c10::elementSize(to_scalar_type(types_[0].dtype))));
  int64_t size = 0;
  for (const Type& t : types_) {
    offsets_.push_back(size);
    size += (numel(t.dims) + unit - 1) / unit * unit;
  }
  if (one_type) flat_size_ = size;
  add_values(kFlat + std::string("params"), [](const std::string& name) { return name; });
  add_values(kFlat + std::string("gradients"), [](const std::string& name) { return name + std::string(kBuffer); });
  for (const Value* v : g.inputs) {
    if (!given.contains(v->name)) continue;
    parameters_.push_back(v->name);
    if (!values_.contains(v->name)) values_[v->name] = empty_of(v->type, device_);
    if (given.at(v->name).defined()) set_parameter(v->name, given.at(v->name));
  }
}

/// `flag`: what lazy_reset_grad is taken to be, -1: the model has none.
std::unique_ptr<Session::Part> Session::part(const Graph& source, const std::string& what, int flag) {
  auto [g, names] =
      flag >= 0 && from_ortmod(source) ? differentiated(source, trainable_, flag != 0) : as_written(source, flag);
  auto p = std::make_unique<Part>();
  Composed c;
  std::vector<Value*> columns, fixed;
  for (Value* v : g->inputs) {
    const bool ours = values_.contains(v->name);
    (ours ? fixed : columns).push_back(v);
    if (!ours) c.columns.push_back(v->name);
  }
  p->inputs = c.columns;
  std::unordered_map<std::string, size_t> outputs;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string& n = names[i];
    const std::string donor = ends_with(n, kAccumulated) ? stem(n, kAccumulated) + std::string(kBuffer)
                              : ends_with(n, kUpdated)   ? stem(n, kUpdated)
                                                         : "";
    if (values_.contains(donor))
      outputs[donor] = i;
    else
      p->outputs.push_back(n);
  }
  c.outputs = names;
  g->sort();
  optimise(*g);
  g->inputs = columns;
  for (Value* v : fixed) {
    const auto donated = outputs.find(v->name);
    if (v->uses.empty() && donated == outputs.end() && !g->is_output(v)) continue;
    if (donated != outputs.end()) c.donations.push_back({g->inputs.size(), donated->second});
    g->inputs.push_back(v);
    c.fixed.push_back(v->name);
  }
  c.graph = std::move(g);
  verify(*c.graph, what);
  p->program = std::make_unique<Program>(std::move(c), device_);
  return p;
}

/// A state of the optimizer, which starts at zero.
void Session::add_state(const std::string& name, DType type) {
  if (std::find(states_.begin(), states_.end(), name) != states_.end()) return;
  states_.push_back(name);
  add_values(
      kFlat + name, [&](const std::string& weight) { return name + "/" + weight; }, type);
}

void Session::set_optimizer(const std::string& path) {
  Flat flat = flatten_sequences(from_file(path), types_);
  if (flat_size_ > 0) join_elements(flat, static_cast<int64_t>(trainable_.size()), flat_size_);
  Graph& g = *flat.graph;
  Composed c;
  std::map<std::pair<std::string, int64_t>, size_t> donors;
  for (const auto& [name, index] : flat.inputs) {
    std::string key = name;
    if (index != Element::kTensor) {
      donors[{"updated_" + name, index}] = c.fixed.size();
      if (name != "params" && name != "gradients") add_state(name, g.inputs[c.fixed.size()]->type.dtype);
      if (index == Element::kAll) {
        key = kFlat + name;
      } else {
        const std::string& weight = trainable_.at(static_cast<size_t>(index));
        key = name == "params" ? weight : name == "gradients" ? weight + std::string(kBuffer) : name + "/" + weight;
      }
    } else if (name == "learning_rate" || name == "step") {
      std::unique_ptr<Scalar>& own = name == "step" ? count_ : rate_;
      own = std::make_unique<Scalar>(name == "step" ? DType::kInt64 : DType::kFloat, device_);
      values_[name] = own->tensor();
    } else {
      fail(ErrorKind::kModel, kStage,
           "this is no optimizer model: got the input \"" + name + "\", expected learning_rate, step, and sequences");
    }
    c.fixed.push_back(key);
  }
  for (size_t o = 0; o < flat.outputs.size(); ++o) {
    const auto donor = donors.find({flat.outputs[o].name, flat.outputs[o].index});
    if (donor != donors.end()) c.donations.push_back({donor->second, o});
    c.outputs.push_back(flat.outputs[o].name);
  }
  optimise(g);
  c.graph = std::move(flat.graph);
  auto p = std::make_unique<Part>();
  p->program = std::make_unique<Program>(std::move(c), device_);
  update_ = std::move(p);
}

void Session::check(const Part& p, bool training, c10::ArrayRef<Column> inputs) const {
  if (inputs.size() != p.inputs.size())
    fail(ErrorKind::kShape, kStage,
         "wrong number of inputs of the " + std::string(training ? "training" : "eval") + " model: got " +
             std::to_string(inputs.size()) + ", expected " + std::to_string(p.inputs.size()) + " (" +
             list_of(p.inputs) + ")");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const DType want = p.program->graph().inputs[i]->type.dtype;
    if (inputs[i].type != to_scalar_type(want))
      fail(ErrorKind::kType, kStage,
           "wrong element type of \"" + p.inputs[i] + "\": got " +
               std::string(dtype_name(from_scalar_type(inputs[i].type))) + ", expected " +
               std::string(dtype_name(want)));
  }
}

c10::ArrayRef<at::Tensor> Session::begin(bool training, c10::ArrayRef<Column> inputs) {
  if (!training && !eval_)
    fail(ErrorKind::kModel, kStage, "there is no eval model; give its path when the module is made");
  Part& p = !training ? *eval_ : reset_ ? *reset_train_ : *train_;
  check(p, training, inputs);
  const int64_t* known = p.dims.data();
  bool same = p.run != nullptr;
  for (size_t i = 0; same && i < inputs.size(); ++i) {
    const at::IntArrayRef d = inputs[i].dims;
    same = *known == static_cast<int64_t>(d.size()) && std::equal(d.begin(), d.end(), known + 1);
    known += 1 + d.size();
  }
  if (!same) {
    p.run = nullptr;
    p.dims.clear();
    p.program->forget_many();
    std::vector<std::vector<int64_t>> dims;
    for (const Column& c : inputs) {
      dims.push_back(c.dims.vec());
      p.dims.push_back(static_cast<int64_t>(c.dims.size()));
      p.dims.insert(p.dims.end(), c.dims.begin(), c.dims.end());
    }
    p.run = &p.program->at(dims, values_);
  }
  for (size_t i = 0; i < inputs.size(); ++i) p.program->bind(*p.run, i, static_cast<char*>(inputs[i].data));
  last_ = &p;
  return {p.run->outputs.data(), p.outputs.size()};
}

void Session::finish() {
  last_->program->run(*last_->run);
  if (last_ == eval_.get()) return;
  reset_ = false;
  has_gradients_ = true;
}

std::vector<at::Tensor> Session::step_on(bool training, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> held;
  std::vector<Column> columns;
  for (const at::Tensor& t : inputs) {
    held.push_back(t.device() == device_ && t.is_contiguous() ? t : t.to(device_).contiguous());
    columns.push_back({t.scalar_type(), held.back().sizes(), held.back().data_ptr()});
  }
  const c10::ArrayRef<at::Tensor> types = begin(training, columns);
  std::vector<at::Tensor> results;
  for (size_t i = 0; i < types.size(); ++i) {
    results.push_back(types[i].defined() ? at::empty_like(types[i]) : at::Tensor());
    if (types[i].defined()) bind_output(i, results[i].data_ptr());
  }
  finish();
  for (size_t i = 0; i < types.size(); ++i)
    if (!results[i].defined()) results[i] = types[i];
  return results;
}

void Session::optimizer_step() {
  if (!update_) fail(ErrorKind::kModel, kStage, "there is no optimizer model; give its path");
  if (!has_gradients_) fail(ErrorKind::kModel, kStage, "there are no gradients yet: run a training step first");
  if (rate_) rate_->set(learning_rate);
  if (count_) count_->set(static_cast<double>(step + 1));
  if (!update_->run) update_->run = &update_->program->at({}, values_);
  update_->program->run(*update_->run);
  ++step;
}

const std::vector<std::string>& Session::input_names(bool training) const {
  if (!training && !eval_)
    fail(ErrorKind::kModel, kStage, "there is no eval model; give its path when the module is made");
  return training ? train_->inputs : eval_->inputs;
}

const std::vector<std::string>& Session::output_names(bool training) const {
  if (!training && !eval_)
    fail(ErrorKind::kModel, kStage, "there is no eval model; give its path when the module is made");
  return training ? train_->outputs : eval_->outputs;
}

at::Tensor Session::value(const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end())
    fail(ErrorKind::kModel, kStage, "there is no parameter \"" + name + "\"; known are " + list_of(parameters_));
  return it->second;
}

at::Tensor Session::gradient(const std::string& name) const { return value(name + std::string(kBuffer)); }

void Session::set_parameter(const std::string& name, const at::Tensor& given) {
  at::Tensor own = value(name);
  if (own.sizes() != given.sizes() || own.scalar_type() != given.scalar_type())
    fail(ErrorKind::kShape, kStage,
         "Parameter data shape/type mismatch of \"" + name + "\": got " +
             std::string(dtype_name(from_scalar_type(given.scalar_type()))) +
             to_string(Dims(given.sizes().begin(), given.sizes().end())) + ", expected " +
             std::string(dtype_name(from_scalar_type(own.scalar_type()))) +
             to_string(Dims(own.sizes().begin(), own.sizes().end())));
  own.copy_(given);
}

std::map<std::string, std::map<std::string, at::Tensor>> Session::optimizer_states() const {
  std::map<std::string, std::map<std::string, at::Tensor>> r;
  for (const std::string& s : states_)
    for (const std::string& name : trainable_)
      if (const auto it = values_.find(s + "/" + name); it != values_.end()) r[s][name] = it->second;
  return r;
}

void Session::set_optimizer_states(const std::map<std::string, std::map<std::string, at::Tensor>>& states) {
  for (const auto& [state, parts] : states)
    for (const auto& [name, t] : parts)
      if (values_.contains(state + "/" + name)) set_parameter(state + "/" + name, t);
}

int64_t Session::parameters_size(bool trainable_only) const {
  int64_t n = 0;
  for (const std::string& name : chosen(trainable_only)) n += value(name).numel();
  return n;
}

at::Tensor Session::to_buffer(bool trainable_only) const {
  std::vector<at::Tensor> flat;
  for (const std::string& name : chosen(trainable_only)) {
    flat.push_back(value(name).reshape({-1}));
    if (flat.back().scalar_type() != flat[0].scalar_type())
      fail(ErrorKind::kType, kStage,
           "parameters of different element types have no common buffer: see \"" + name + "\"");
  }
  return at::cat(flat);
}

void Session::from_buffer(const at::Tensor& buffer, bool trainable_only) {
  const int64_t size = parameters_size(trainable_only);
  if (buffer.numel() != size)
    fail(ErrorKind::kShape, kStage,
         "wrong size of the buffer of parameters: got " + std::to_string(buffer.numel()) + " elements, expected " +
             std::to_string(size));
  const at::Tensor flat = buffer.reshape({-1});
  int64_t at = 0;
  for (const std::string& name : chosen(trainable_only)) {
    at::Tensor own = value(name);
    if (flat.scalar_type() != own.scalar_type())
      fail(ErrorKind::kType, kStage,
           "wrong element type of the buffer of parameters: got " +
               std::string(dtype_name(from_scalar_type(flat.scalar_type()))) + ", expected " +
               std::string(dtype_name(from_scalar_type(own.scalar_type()))));
    own.copy_(flat.slice(0, at, at + own.numel()).view(own.sizes()));
    at += own.numel();
  }
}

void Session::export_for_inferencing(const std::string& path, const std::vector<std::string>& outputs) const {
  if (!eval_graph_)
    fail(ErrorKind::kModel, kStage, "there is no eval model to export; give its path when the module is made");
  if (outputs.empty()) fail(ErrorKind::kModel, kStage, "the names of the outputs to export are missing");
  auto g = eval_graph_->clone();
  g->outputs.clear();
  for (const std::string& name : outputs) {
    Value* v = g->find(name);
    if (!v) fail(ErrorKind::kModel, kStage, "the eval model has no value \"" + name + "\" to export");
    g->outputs.push_back(v);
  }
  dce(*g, {});
  std::vector<Value*> inputs;
  for (Value* v : g->inputs) {
    if (v->uses.empty() && !g->is_output(v)) continue;
    if (!values_.contains(v->name)) {
      inputs.push_back(v);
      continue;
    }
    const at::Tensor t = value(v->name).cpu().contiguous();
    v->literal = std::make_shared<Literal>(v->type.dtype, v->type.dims, std::make_shared<at::Tensor>(t), t.data_ptr(),
                                           t.nbytes());
    g->weights.push_back(v);
  }
  g->inputs = std::move(inputs);
  g->compact();
  to_file(*g, path, {});
}

}  // namespace ortmod
