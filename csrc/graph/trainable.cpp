// The default rule: the exporter's record decides; else what an initializer is an operand of.
#include "graph/trainable.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "graph/flow.h"

namespace ortmod {
namespace {

constexpr std::string_view kKindKey = "pkg.torch.export.graph_signature.InputSpec.kind";
constexpr std::string_view kScopesKey = "pkg.torch.onnx.name_scopes";

const std::string* metadata(const std::vector<std::pair<std::string, std::string>>& list, std::string_view key) {
  for (const auto& [k, v] : list)
    if (k == key) return &v;
  return nullptr;
}

std::string label(const Node& n) { return n.name.empty() && n.out() ? n.out()->name : n.name; }
std::string op_label(const Node& n) { return n.op->name + " \"" + label(n) + "\""; }

/// All elements have the same bytes.
bool is_constant_content(const Literal& l) {
  const size_t size = dtype_size(l.dtype());
  const char* p = static_cast<const char*>(l.data());
  return size && l.numel() > 0 && (l.numel() == 1 || std::memcmp(p, p + size, l.bytes() - size) == 0);
}

/// The module that a node belongs to: its innermost scope but the node itself.
std::string module_of(const Node& n) {
  const std::string* scopes = metadata(*n.metadata, kScopesKey);
  if (!scopes) return "";
  const size_t end = scopes->rfind(", '");
  return end == std::string::npos ? *scopes : scopes->substr(0, end);
}

/// What one use of a weight (or of a view of it) makes it.
struct Site {
  const Node* node;
  std::string role;
};

class Rule {
 public:
  explicit Rule(const Graph& g) : flow_(g) {}

  std::vector<Site> sites(const Value* w) {
    std::vector<Site> found;
    std::vector<const Value*> todo{w};
    ValueSet seen{w};
    while (!todo.empty()) {
      const Value* v = todo.back();
      todo.pop_back();
      for (const Use& u : v->uses) {
        std::string role = role_of(*u.node, u.index, w);
        if (!role.empty())
          found.push_back({u.node, std::move(role)});
        else if (Flow::is_view(*u.node, u.index) || joins_weights(*u.node))
          for (const Value* o : u.node->outputs)
            if (o && seen.insert(o)) todo.push_back(o);
      }
    }
    return found;
  }

 private:
  std::string role_of(const Node& n, int i, const Value* w) const {
    const bool vector = is_vector(*w);
    if (n.op->domain.empty()) {
      const std::string& op = n.op->name;
      if (op == "MatMul" || op == "Gemm" || op == "Einsum") return product(n, i, op == "Gemm");
      if (op == "Conv" || op == "ConvTranspose" || op == "DeformConv")
        return i == 1 ? "weight" : (i == 2 && op != "DeformConv") || i == 3 ? "bias" : "";
      if (op == "RNN" || op == "GRU" || op == "LSTM")
        return i == 1 || i == 2 ? "weight" : i == 3 ? "bias" : i == 7 ? "peephole" : "";
      if (op == "BatchNormalization") return i == 1 ? "scale" : i == 2 ? "bias" : i > 2 ? "running statistic" : "";
      if (flow_.only_normalises(n) && i > 0 && flow_.is_scaled(n.out())) return "";
      if (op == "InstanceNormalization" || op == "GroupNormalization" || op == "LayerNormalization")
        return i == 1 ? "scale" : i == 2 ? "bias" : "";
      if (op == "RMSNormalization") return i == 1 ? "scale" : "";
      if (op == "PRelu") return i == 1 ? "slope" : "";
      if (op == "Gather") return i == 0 && !Flow::is_view(n, 0) ? "table" : "";
      if (op == "Mul" && vector) return flow_.is_normalised(n.in(1 - static_cast<size_t>(i))) ? "scale" : "";
      if (op == "Add" && vector) return flow_.takes_bias(n.in(1 - static_cast<size_t>(i))) ? "bias" : "";
      return "";
    }
    if (n.op->name.find("LayerNormalization") != std::string::npos) return i == 1 ? "scale" : i == 2 ? "bias" : "";
    return "";
  }

  /// Weights laid side by side.
  bool joins_weights(const Node& n) const {
    return n.is("Concat") &&
           std::all_of(n.inputs.begin(), n.inputs.end(), [&](const Value* v) { return flow_.is_fixed(v); });
  }

  /// A vector up to dimensions of one, as a bias or a scale is.
  static bool is_vector(const Value& v) {
    int long_dims = 0;
    for (const Dim d : v.literal->dims()) long_dims += d != 1;
    return long_dims <= 1;
  }

  std::string product(const Node& n, int i, bool gemm) const {
    if (gemm && i == 2) return "bias";
    if (i > 1 && gemm) return "";
    for (size_t k = 0; k < n.inputs.size() && k < (gemm ? 2 : n.inputs.size()); ++k)
      if (static_cast<int>(k) != i && !flow_.depends_on_input(n.in(k)) && !flow_.is_weight_view(n.in(k))) return "";
    if (!flow_.depends_on_float(n.in(1 - static_cast<size_t>(std::min(i, 1)))) &&
        flow_.leads_to_sine_and_cosine(n.out()))
      return "";
    return "weight";
  }

  Flow flow_;
};

std::string joined(const std::vector<std::string>& words) {
  std::string r;
  for (const std::string& w : words) r += (r.empty() ? "" : ", ") + w;
  return r;
}

void decide(WeightChoice& c, const Value& w, Rule& rule) {
  const std::string* kind = metadata(*w.metadata, kKindKey);
  for (const Use& u : w.uses) c.consumers.push_back(label(*u.node));
  if (!is_float(w.literal->dtype())) {
    c.role = "constant";
    c.reason = "not a float tensor (" + std::string(dtype_name(w.literal->dtype())) + ")";
    return;
  }
  const std::vector<Site> sites = rule.sites(&w);
  std::vector<std::string> roles;
  for (const Site& s : sites)
    if (std::find(roles.begin(), roles.end(), s.role) == roles.end()) roles.push_back(s.role);
  const bool statistic = std::find(roles.begin(), roles.end(), "running statistic") != roles.end();
  if (kind) {
    c.trainable = *kind == "PARAMETER" && !statistic;
    c.role = roles.empty() ? (c.trainable ? "parameter" : *kind == "BUFFER" ? "buffer" : "constant") : joined(roles);
    c.reason = "the exporter wrote " + *kind;
  } else if (statistic) {
    c.role = "running statistic";
    c.reason = "a running statistic of " + op_label(*sites[0].node);
  } else if (w.literal->dims().empty()) {
    c.role = "constant";
    c.reason = "a scalar";
  } else if (roles.empty()) {
    c.role = "constant";
    c.reason =
        w.uses.empty() ? "no node reads it" : "no operand of a layer (read by " + op_label(*w.uses[0].node) + ")";
  } else if (is_sinusoidal(*w.literal)) {
    c.role = "positional table";
    c.reason = "sines and cosines of positions";
  } else {
    c.trainable = true;
    c.role = joined(roles);
    c.reason = roles[0] + " of " + op_label(*sites[0].node);
  }
  // One tensor of equal elements for several layers: the exporter found equal values and kept one.
  if (!c.trainable || w.uses.size() < 2 || !is_constant_content(*w.literal)) return;
  const std::string home = module_of(*w.uses[0].node);
  for (const Use& u : w.uses) c.merged |= home.empty() || module_of(*u.node) != home;
  if (!c.merged) return;
  c.trainable = false;
  c.reason = "merged: one tensor of equal elements stands for " + std::to_string(w.uses.size()) + " weights (" +
             c.reason + "); train it with untie=[\"" + w.name + "\"] or allow_merged=True";
}

}  // namespace

std::vector<WeightChoice> choose_trainable(const Graph& g) {
  std::vector<WeightChoice> r;
  Rule rule(g);
  for (const Value* w : g.weights) {
    WeightChoice c;
    c.name = w->name;
    decide(c, *w, rule);
    r.push_back(std::move(c));
  }
  return r;
}

}  // namespace ortmod
