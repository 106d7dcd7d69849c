// Sizing a plan: dimensions of every value, what is computed at all, where each value lives, and the steps.
#include <numeric>

#include "exec/allocator.h"
#include "exec/chains.h"
#include "exec/frame.h"
#include "exec/plan.h"
#include "ops/parts.h"

namespace ortmod {
namespace {

constexpr int64_t kAlign = 64;
int64_t aligned(int64_t b) { return (b + kAlign - 1) / kAlign * kAlign; }

class Sizer {
 public:
  Sizer(const Plan& p, Sizes& s) : p_(p), s_(s), n_(static_cast<int>(p.num_values())) {}

  void run(const std::vector<Type>& inputs, const std::vector<const HostInts*>& ints) {
    infer(inputs, ints);
    for (int v = 0; v < n_; ++v)
      if (!host_known_[u(v)]) s_.ints[u(v)].reset();
    find_needed();
    find_roots();
    find_lifetimes();
    place();
  }

  void infer(const std::vector<Type>& inputs, const std::vector<const HostInts*>& ints) {
    reserve_mapped(s_.types, u(n_));
    s_.types.resize(u(n_));
    reserve_mapped(s_.ints, u(n_));
    s_.ints.resize(u(n_));
    host_known_.assign(u(n_), false);
    for (size_t i = 0; i < inputs.size(); ++i) {
      s_.types[i] = inputs[i];
      if (ints[i]) {
        s_.ints[i] = std::make_shared<const HostInts>(*ints[i]);
        host_known_[i] = true;
      }
    }
    for (size_t c = 0; c < p_.literals().size(); ++c) {
      s_.types[u(p_.first_const()) + c] = p_.literals()[c]->type();
      host_known_[u(p_.first_const()) + c] = p_.const_ints()[c].has_value();
    }
    for (const Plan::Item& item : p_.items()) {
      SmallVec<const Type*, 16> in;
      SmallVec<const HostInts*, 16> host;
      for (int v : item.in) {
        in.push_back(v < 0 ? nullptr : &s_.types[u(v)]);
        host.push_back(v < 0 ? nullptr : s_.host(v));
      }
      const size_t no = item.node->outputs.size();
      Infer ctx(*item.node, {in.data(), in.size()}, {host.data(), host.size()}, {&s_.types[u(item.first_out)], no},
                {&s_.ints[u(item.first_out)], no});
      item.def->infer(ctx);
      for (size_t o = 0; o < no; ++o) {
        const size_t v = u(item.first_out) + o;
        if (!s_.ints[v]) continue;
        bool known = s_.types[v].is_static();
        for (Dim d : s_.ints[v]->v) known = known && !is_symbolic(d);
        host_known_[v] = known;
      }
    }
  }

 private:
  static size_t u(int i) { return static_cast<size_t>(i); }
  bool is_static(int v) const { return s_.types[u(v)].is_static(); }
  bool is_host(int v) const { return host_known_[u(v)]; }
  int64_t bytes(int v) const {
    const Type& t = s_.types[u(v)];
    return numel(t.dims) * static_cast<int64_t>(dtype_size(t.dtype));
  }
  bool is_const(int v) const {
    return v >= p_.first_const() && v < p_.first_const() + static_cast<int>(p_.constants().size());
  }
  bool is_input(int v) const { return v < static_cast<int>(p_.num_inputs()); }

  /// Input i needs no data: it is read on the host and known, or only its shape is read.
  bool no_data(const Plan::Item& item, size_t i) const {
    if (i >= 32) return false;
    const int v = item.in[i];
    return ((item.def->host_inputs >> i & 1) && is_host(v)) || ((item.def->shape_inputs >> i & 1) && is_static(v));
  }

  void find_needed() {
    needed_.assign(u(n_), false);
    executed_.assign(p_.items().size(), false);
    for (size_t i = 0; i < p_.outputs().size(); ++i) {
      const int v = p_.outputs()[i];
      if (i < p_.num_outputs() || !is_host(v)) needed_[u(v)] = true;
    }
    for (size_t k = p_.items().size(); k-- > 0;) {
      const Plan::Item& item = p_.items()[k];
      bool run = false;
      for (size_t o = 0; o < item.node->outputs.size(); ++o) {
        const int v = item.first_out + static_cast<int>(o);
        run = run || (needed_[u(v)] && !is_host(v));
      }
      if (!run) continue;
      executed_[k] = true;
      for (size_t i = 0; i < item.in.size(); ++i) {
        const int v = item.in[i];
        if (v >= 0 && !no_data(item, i)) needed_[u(v)] = true;
      }
    }
  }

  /// Views share the memory of what they view; a group lives in an output or kept place when a member is one.
  void find_roots() {
    root_.resize(u(n_));
    at_.assign(u(n_), 0);
    member_.assign(u(n_), false);
    holds_pieces_.assign(u(n_), false);
    std::iota(root_.begin(), root_.end(), 0);
    home_.assign(u(n_), Home{});
    std::vector<int> wanted_output(u(n_), -1), wanted_kept(u(n_), -1);
    for (size_t i = 0; i < p_.outputs().size(); ++i) {
      const int v = p_.outputs()[i];
      if (i < p_.num_outputs()) {
        if (wanted_output[u(v)] < 0) wanted_output[u(v)] = static_cast<int>(i);
      } else {
        wanted_kept[u(v)] = static_cast<int>(i);
      }
    }
    const auto settle = [&](int root, int v) {  // may v live where root lives?
      const bool out = wanted_output[u(v)] >= 0, kept = wanted_kept[u(v)] >= 0 && !is_host(v);
      if (!out && !kept) return true;
      if (is_input(root) || is_const(root) || bytes(root) != bytes(v)) return false;
      Home& h = home_[u(root)];
      if (out && kept) return false;
      if (h.output >= 0 || h.kept) return false;
      if (out) h.output = wanted_output[u(v)];
      if (kept) h.kept = true;
      return true;
    };
    for (size_t k = 0; k < p_.items().size(); ++k) {
      const Plan::Item& item = p_.items()[k];
      for (size_t o = 0; o < item.node->outputs.size(); ++o) {
        const int v = item.first_out + static_cast<int>(o);
        if (!needed_[u(v)]) continue;
        const int a = item.def->alias;
        if (o == 0 && a >= 0 && executed_[k] && !is_host(v) && u(a) < item.in.size() && item.in[u(a)] >= 0) {
          const int src = item.in[u(a)];
          const bool same = is_static(v) && is_static(src) && !(is_host(src) && !is_const(src)) &&
                            s_.types[u(src)].dtype == s_.types[u(v)].dtype && bytes(src) == bytes(v);
          if (same && settle(root_[u(src)], v)) {
            root_[u(v)] = root_[u(src)];
            at_[u(v)] = at_[u(src)];
            continue;
          }
        }
        if (is_static(v)) settle_self(v, wanted_output, wanted_kept);
      }
      if (executed_[k] && item.def->alias == kPiecesOfInput) view_pieces(item);
      if (executed_[k] && item.def->alias == kPiecesOfOutput) join_pieces(item);
    }
  }

  /// Outputs that nobody outside wants live inside the input.
  void view_pieces(const Plan::Item& item) {
    const int src = item.in[0];
    if (!is_static(src)) return;
    const auto fits = [&](int v) {
      return !needed_[u(v)] || (is_static(v) && home_[u(v)].output < 0 && !home_[u(v)].kept);
    };
    const int n = static_cast<int>(item.node->outputs.size());
    for (int o = 0; o < n; ++o)
      if (!fits(item.first_out + o)) return;
    int64_t at = at_[u(src)];
    for (int v = item.first_out; v < item.first_out + n; ++v) {
      root_[u(v)] = root_[u(src)];
      at_[u(v)] = at;
      at += bytes(v);
    }
  }

  /// Inputs that have no other place are computed inside the output.
  void join_pieces(const Plan::Item& item) {
    const int p = item.first_out;
    if (!is_static(p)) return;
    int64_t at = 0;
    for (int x : item.in) {
      const int r = root_[u(x)];
      const bool free = r != p && !is_input(r) && !is_const(r) && !is_host(r) && is_static(r) && !member_[u(r)] &&
                        home_[u(r)].output < 0 && !home_[u(r)].kept && bytes(r) == bytes(x) && !holds_pieces_[u(r)];
      if (free) {
        for (int v = 0; v < n_; ++v)
          if (root_[u(v)] == r) {
            root_[u(v)] = p;
            at_[u(v)] += at;
          }
        member_[u(r)] = true;
        holds_pieces_[u(p)] = true;
      }
      at += bytes(x);
    }
  }

  void settle_self(int v, const std::vector<int>& out, const std::vector<int>& kept) {
    home_[u(v)].output = out[u(v)];
    home_[u(v)].kept = kept[u(v)] >= 0 && !is_host(v) && out[u(v)] < 0;
  }

  void find_lifetimes() {
    last_use_.assign(u(n_), -1);
    for (size_t k = 0; k < p_.items().size(); ++k) {
      if (!executed_[k]) continue;
      const Plan::Item& item = p_.items()[k];
      for (size_t i = 0; i < item.in.size(); ++i)
        if (item.in[i] >= 0 && !no_data(item, i)) last_use_[u(root_[u(item.in[i])])] = static_cast<int>(k);
    }
    for (int v : p_.outputs()) last_use_[u(root_[u(v)])] = static_cast<int>(p_.items().size());
  }

  void place() {
    s_.places.assign(u(n_), Place::kNone);
    reserve_mapped(s_.operands, u(n_));
    s_.operands.assign(u(n_), Operand{});
    taken_over_.assign(u(n_), false);
    freed_.assign(u(n_), false);
    s_.list.scratch_base = kStepScratch;
    for (size_t i = 0; i < p_.num_inputs(); ++i) {
      s_.places[i] = is_static(static_cast<int>(i)) ? (s_.ints[i] ? Place::kHost : Place::kBase) : Place::kSlot;
      s_.any_slot = s_.any_slot || s_.places[i] == Place::kSlot;
      s_.operands[i] = {p_.base_of_input(i), 0};
    }
    for (size_t c = 0; c < p_.constants().size(); ++c) {
      s_.places[u(p_.first_const()) + c] = Place::kBase;
      s_.operands[u(p_.first_const()) + c] = {p_.base_of_const(c), 0};
    }
    for (size_t k = 0; k < p_.items().size(); ++k) place_item(static_cast<int>(k));
    for (size_t i = 0; i < p_.outputs().size(); ++i) finish_output(static_cast<int>(i));
    s_.scratch_bytes = alloc_.peak();
    s_.by_kernel.resize(s_.list.steps.size(), 0);
  }

  void assign(int v, Operand o) {
    s_.places[u(v)] = Place::kBase;
    s_.operands[u(v)] = o;
  }

  /// A place for the root value v that item k computes.
  void allocate(int v, int k) {
    const Home& h = home_[u(v)];
    if (h.output >= 0) {
      const int donor = p_.donor(u(h.output));
      if (donor < 0) return assign(v, {p_.base_of_output(u(h.output)), 0});
      if (may_replace(donor, v, k)) return assign(v, {p_.base_of_input(u(donor)), 0});
    }
    const int64_t b = aligned(bytes(v));
    if (h.kept) {
      assign(v, {kKept, s_.kept_bytes});
      s_.kept_bytes += b;
      return;
    }
    const Plan::Item& item = p_.items()[u(k)];
    if (item.def->inplace && v == item.first_out) {
      const int reuse = dying_input(item, v, k);
      if (reuse >= 0) {
        assign(v, s_.operands[u(reuse)]);
        taken_over_[u(root_[u(reuse)])] = true;
        return;
      }
    }
    assign(v, {kScratch, alloc_.take(b)});
  }

  /// May item k write v over the elements of the input x? Nobody reads them later, and k itself only element by
  /// element.
  bool may_replace(int x, int v, int k) const {
    if (!is_static(x) || s_.types[u(x)].dims != s_.types[u(v)].dims || s_.types[u(x)].dtype != s_.types[u(v)].dtype)
      return false;
    if (last_use_[u(x)] < k) return true;
    const Plan::Item& item = p_.items()[u(k)];
    if (last_use_[u(x)] > k || !item.def->inplace || v < item.first_out) return false;
    for (int y : item.in)
      if (y >= 0 && root_[u(y)] == x && (at_[u(y)] != 0 || s_.types[u(y)].dims != s_.types[u(v)].dims)) return false;
    return true;
  }

  /// An input in scratch that nobody reads after item k, of v's size, read element by element.
  int dying_input(const Plan::Item& item, int v, int k) const {
    for (int x : item.in) {
      if (x < 0 || s_.places[u(x)] != Place::kBase || s_.operands[u(x)].index != kScratch) continue;
      const int r = root_[u(x)];
      if (last_use_[u(r)] != k || taken_over_[u(r)] || bytes(r) != bytes(v)) continue;
      if (dtype_size(s_.types[u(x)].dtype) != dtype_size(s_.types[u(v)].dtype)) continue;
      bool plain = true;
      for (int y : item.in)
        if (y >= 0 && root_[u(y)] == r) plain = plain && s_.types[u(y)].dims == s_.types[u(v)].dims;
      if (plain) return x;
    }
    return -1;
  }

  void place_item(int k) {
    const Plan::Item& item = p_.items()[u(k)];
    if (!executed_[u(k)]) {
      for (size_t o = 0; o < item.node->outputs.size(); ++o) {
        const int v = item.first_out + static_cast<int>(o);
        if (is_host(v)) place_host(v, k);
      }
      return;
    }
    bool all_static = true, viewed = false, any_data = false;
    for (size_t o = 0; o < item.node->outputs.size(); ++o) {
      const int v = item.first_out + static_cast<int>(o);
      if (!(item.wanted >> std::min<size_t>(o, 31) & 1)) continue;
      if (is_host(v) && !needed_[u(v)]) {
        s_.places[u(v)] = Place::kHost;
      } else if (!is_static(v)) {
        s_.places[u(v)] = Place::kSlot;
        s_.any_slot = true;
        all_static = false;
        any_data = true;
      } else if (root_[u(v)] != v) {
        const int r = root_[u(v)];
        if (member_[u(v)] && s_.places[u(r)] == Place::kNone) allocate(r, k);
        assign(v, {s_.operands[u(r)].index, s_.operands[u(r)].offset + at_[u(v)]});
        (member_[u(v)] ? any_data : viewed) = true;
      } else {
        if (!holds_pieces_[u(v)] || s_.places[u(v)] == Place::kNone) allocate(v, k);
        any_data = any_data || bytes(v) > 0;
      }
    }
    if (!viewed && any_data) emit(k, all_static);
    release(k);
  }

  void place_host(int v, int k) {
    if (!needed_[u(v)]) {
      s_.places[u(v)] = Place::kHost;
      return;
    }
    allocate(v, k);
    push_fill_step(s_, v);
  }

  void emit(int k, bool all_static) {
    const Plan::Item& item = p_.items()[u(k)];
    if (all_static && item.def->bind && p_.device().is_cpu() && bind(item, k)) return;
    SmallVec<int, 8> drop;
    for (int x : item.in)
      if (x >= 0 && !is_input(x) && s_.places[u(x)] == Place::kSlot && last_use_[u(root_[u(x)])] == k)
        drop.push_back(x);
    push_kernel_step(s_, k, drop);
    s_.by_kernel.resize(s_.list.steps.size(), 0);
    s_.by_kernel.back() = 1;
  }

  bool bind(const Plan::Item& item, int k) {
    slots_in_.clear();
    slots_out_.clear();
    for (size_t i = 0; i < item.in.size(); ++i) {
      const int x = item.in[i];
      StepList::Slot slot;
      if (x >= 0) {
        if (s_.places[u(x)] != Place::kBase && !no_data(item, i)) return false;
        const Type& t = s_.types[u(x)];
        if (numel(t.dims) == 0 && s_.places[u(x)] == Place::kBase) return false;
        slot = {true, t.dtype, &t.dims, s_.host(x), s_.operands[u(x)]};
      }
      slots_in_.push_back(slot);
    }
    for (size_t o = 0; o < item.node->outputs.size(); ++o) {
      const int v = item.first_out + static_cast<int>(o);
      StepList::Slot slot;
      if ((item.wanted >> std::min<size_t>(o, 31) & 1) && s_.places[u(v)] == Place::kBase) {
        const Type& t = s_.types[u(v)];
        slot = {true, t.dtype, &t.dims, nullptr, s_.operands[u(v)]};
      }
      slots_out_.push_back(slot);
    }
    s_.list.begin_node();
    Bind b(*item.node, slots_in_, slots_out_, s_.list);
    const size_t before = s_.list.steps.size();
    if (!item.def->bind(b)) {
      s_.list.steps.resize(before);
      return false;
    }
    s_.step_item.resize(s_.list.steps.size(), k);
    return true;
  }

  void release(int k) {
    const Plan::Item& item = p_.items()[u(k)];
    const auto free_if_dead = [&](int v) {
      const int r = root_[u(v)];
      if (s_.places[u(r)] != Place::kBase || s_.operands[u(r)].index != kScratch || last_use_[u(r)] > k || is_input(r))
        return;
      if (freed_[u(r)]) return;
      freed_[u(r)] = true;
      if (taken_over_[u(r)]) return;
      alloc_.give(s_.operands[u(r)].offset, aligned(bytes(r)));
    };
    for (int x : item.in)
      if (x >= 0) free_if_dead(x);
    for (size_t o = 0; o < item.node->outputs.size(); ++o)
      if (item.wanted >> std::min<size_t>(o, 31) & 1) free_if_dead(item.first_out + static_cast<int>(o));
  }

  void finish_output(int i) {
    const int v = p_.outputs()[u(i)];
    if (static_cast<size_t>(i) >= p_.num_outputs()) {
      if (is_host(v)) return;
      if (s_.places[u(v)] == Place::kSlot) {
        s_.kept_slots.push_back(v);
      } else if (s_.operands[u(v)].index != kKept) {
        keep_copy(v);
      }
      return;
    }
    if (s_.places[u(v)] == Place::kSlot) {
      s_.slot_outputs.push_back(i);
      return;
    }
    const int32_t at = s_.operands[u(v)].index, donor = p_.donor(u(i));
    if (at != p_.base_of_output(u(i)) && !(donor >= 0 && at == p_.base_of_input(u(donor)))) push_copy_step(s_, v, i);
  }

  [[noreturn]] void keep_copy(int v) {
    fail(ErrorKind::kRun, "plan",
         "a kept value has no place of its own: value " + std::to_string(v) + " of " + p_.graph().name);
  }

  struct Home {
    int output = -1;
    bool kept = false;
  };
  const Plan& p_;
  Sizes& s_;
  const int n_;
  std::vector<bool> host_known_, needed_, executed_;
  std::vector<int> root_, last_use_;
  std::vector<int64_t> at_;                  // bytes from the root's place
  std::vector<bool> member_, holds_pieces_;  // computed inside another value's place; such a place
  std::vector<Home> home_;
  std::vector<bool> taken_over_, freed_;
  std::vector<StepList::Slot> slots_in_, slots_out_;
  Allocator alloc_;
};

}  // namespace

std::vector<Type> Plan::infer(const std::vector<Type>& inputs) const {
  Sizes s(shared_from_this());
  Sizer(*this, s).infer(inputs, std::vector<const HostInts*>(inputs.size()));
  return std::move(s.types);
}

std::vector<Type> Plan::kept_types(const std::vector<Type>& inputs) const {
  Sizes s(shared_from_this());
  Sizer(*this, s).infer(inputs, std::vector<const HostInts*>(inputs.size()));
  Dim bytes = 0;
  std::vector<Type> slots;
  for (size_t i = n_outputs_; i < outputs_.size(); ++i) {
    const int v = outputs_[i];
    const Type& t = s.types[static_cast<size_t>(v)];
    const HostInts* h = s.host(v);
    if (h && std::find(h->v.begin(), h->v.end(), kAnyDim) == h->v.end()) continue;
    Dim n = static_cast<Dim>(dtype_size(t.dtype));
    for (Dim d : t.dims) n = dim_mul(n, d);
    if (n == kAnyDim || !t.has_rank) {
      slots.push_back(t);
    } else {
      bytes = dim_add(bytes, dim_mul(dim_div(dim_add(n, kAlign - 1), kAlign), kAlign));
    }
  }
  std::vector<Type> r;
  if (bytes != 0) r.emplace_back(DType::kUInt8, Dims{bytes});
  r.insert(r.end(), slots.begin(), slots.end());
  return r;
}

std::shared_ptr<Sizes> Plan::size(const std::vector<Type>& inputs, const std::vector<const HostInts*>& ints,
                                  bool compiled) const {
  auto s = std::make_shared<Sizes>(shared_from_this());
  s->list.noted = compiled;
  Sizer(*this, *s).run(inputs, ints);
  if (compiled) compile_chains(*s);
  return s;
}

}  // namespace ortmod
