// Operators: Einsum.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using Term = SmallVec<char, 8>;  // labels; '.' stands for the ellipsis

struct Equation {
  static constexpr size_t kMaxTerms = 16;
  std::array<Term, kMaxTerms> in;
  size_t n = 1;
  Term out;
  bool is_explicit = false;
};

/// Null, or what is wrong with the text.
const char* parse(std::string_view text, Equation& e) {
  Term* t = &e.in[0];
  for (size_t i = 0; i < text.size(); ++i) {
    const char ch = text[i];
    if (ch == ' ') continue;
    if (ch == ',') {
      if (e.is_explicit || e.n == Equation::kMaxTerms) return "a misplaced comma or more than 16 operands";
      t = &e.in[e.n++];
    } else if (ch == '-') {
      if (e.is_explicit || i + 1 >= text.size() || text[i + 1] != '>') return "a misplaced '-'";
      e.is_explicit = true;
      t = &e.out;
      ++i;
    } else if (ch == '.') {
      if (text.substr(i, 3) != "..." || std::find(t->begin(), t->end(), '.') != t->end()) return "a misplaced '.'";
      t->push_back('.');
      i += 2;
    } else if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')) {
      t->push_back(ch);
    } else {
      return "a character that is no label";
    }
  }
  if (e.is_explicit) return nullptr;
  std::array<int, 128> count{};
  for (size_t i = 0; i < e.n; ++i)
    for (char ch : e.in[i]) ++count[static_cast<size_t>(ch)];
  if (count['.']) e.out.push_back('.');
  for (char ch = 'A'; ch <= 'z'; ++ch)
    if (ch != '.' && count[static_cast<size_t>(ch)] == 1) e.out.push_back(ch);
  return nullptr;
}

void infer_einsum(Infer& c) {
  Equation e;
  const Attr* a = c.node.find("equation");
  const std::string* text = a ? std::get_if<std::string>(a) : nullptr;
  if (!text) c.fail("the attribute equation is missing");
  if (const char* wrong = parse(*text, e)) c.fail("equation \"" + *text + "\" has " + wrong);
  if (e.n != c.num_in())
    c.fail("equation \"" + *text + "\" has " + std::to_string(e.n) + " terms, expected one per operand: got " +
           std::to_string(c.num_in()));
  std::array<Dim, 128> of;
  std::array<bool, 128> seen{};
  Dims ellipsis;
  for (size_t i = 0; i < e.n; ++i) {
    if (!c.ranked(i)) return c.out_unranked(0, c.dtype(0));
    const Term& t = e.in[i];
    const bool dots = std::find(t.begin(), t.end(), '.') != t.end();
    const Dims& d = c.dims(i);
    const size_t named = t.size() - (dots ? 1 : 0);
    if (dots ? d.size() < named : d.size() != named)
      c.fail("equation \"" + *text + "\" does not fit the rank: got " + to_string(d), static_cast<int>(i));
    size_t at = 0;
    for (char ch : t) {
      if (ch == '.') {
        Dims own(d.begin() + at, d.begin() + at + (d.size() - named));
        ellipsis = c.broadcast(ellipsis, own);
        at += own.size();
        continue;
      }
      Dim& slot = of[static_cast<size_t>(ch)];
      bool& known = seen[static_cast<size_t>(ch)];
      const Dim x = d[at++];
      if (known && differ(slot, x) && slot != 1 && x != 1)
        c.fail(std::string("label '") + ch + "' has two sizes: got " + dim_text(slot) + " and " + dim_text(x),
               static_cast<int>(i));
      slot = known ? (slot == 1 ? x : x == 1 ? slot : agree(slot, x)) : x;
      known = true;
    }
  }
  Dims r;
  for (char ch : e.out) {
    if (ch == '.') {
      r.append(ellipsis.begin(), ellipsis.end());
    } else {
      if (!seen[static_cast<size_t>(ch)]) c.fail(std::string("output label '") + ch + "' is in no operand");
      r.push_back(of[static_cast<size_t>(ch)]);
    }
  }
  c.out(0, c.dtype(0), std::move(r));
}

Kernel einsum_kernel(const Node& node) {
  const std::string equation = node.attr("equation", "");
  return [equation](Call& c) {
    std::vector<at::Tensor> in;
    for (size_t i = 0; i < c.num_in(); ++i) in.push_back(c.in(i));
    c.set(0, at::einsum(equation, in));
  };
}

/// Labels with the ellipsis spelt out by unused letters, aligned to the right.
std::string spell(const Term& t, std::string_view dots, size_t rank) {
  std::string r;
  for (char ch : t) {
    if (ch == '.')
      r += dots.substr(dots.size() - (rank - (t.size() - 1)));
    else
      r += ch;
  }
  return r;
}

struct Broadcast {
  std::vector<int64_t> summed;  // axes of the target: operand i has one element, a factor of its gradient more
  bool expanded = false;        // operand i has more elements than all factors of its gradient
};

Broadcast broadcast(const Grad& g, size_t i, const std::vector<std::string>& in, const std::string& out,
                    const std::string& target) {
  Broadcast r;
  for (size_t k = 0; k < target.size(); ++k) {
    const auto is_one = [&](const Type& t, const std::string& labels) {
      const size_t at = labels.find(target[k]);
      return at == std::string::npos || (t.has_rank && t.dims[at] == 1);
    };
    bool factors = is_one(g.dy().type(), out);
    for (size_t j = 0; j < in.size(); ++j) factors = factors && (j == i || is_one(g.type(j), in[j]));
    const bool own = is_one(g.type(i), in[i]);
    if (own && !factors) r.summed.push_back(static_cast<int64_t>(k));
    r.expanded = r.expanded || (factors && !own);
  }
  return r;
}

Grads einsum_grad(const Grad& g) {
  Equation e;
  const std::string text = g.attr("equation", "");
  if (const char* wrong = parse(text, e)) g.fail("equation \"" + text + "\" has " + wrong);
  size_t extra = 0;
  for (size_t i = 0; i < e.n; ++i)
    if (std::find(e.in[i].begin(), e.in[i].end(), '.') != e.in[i].end())
      extra = std::max(extra, static_cast<size_t>(g.rank(i)) - (e.in[i].size() - 1));
  std::string dots;
  for (char ch = 'A'; ch <= 'z' && dots.size() < extra; ++ch) {
    const bool letter = ch <= 'Z' || ch >= 'a';
    bool used = !letter;
    for (size_t i = 0; i < e.n; ++i) used = used || std::find(e.in[i].begin(), e.in[i].end(), ch) != e.in[i].end();
    if (!used) dots += ch;
  }
  if (dots.size() < extra) g.fail("equation \"" + text + "\" has more labels than there are letters");
  std::vector<std::string> in;
  for (size_t i = 0; i < e.n; ++i) in.push_back(spell(e.in[i], dots, static_cast<size_t>(g.rank(i))));
  const std::string out = spell(e.out, dots, e.out.size() - 1 + extra);

  Grads r(g.num_inputs());
  Builder& b = g.builder();
  for (size_t i = 0; i < e.n; ++i) {
    if (!g.needs(i)) continue;
    std::string available = out, left = out;
    std::vector<Expr> operands{g.dy()};
    for (size_t j = 0; j < e.n; ++j) {
      if (j == i) continue;
      available += in[j];
      left += "," + in[j];
      operands.push_back(g.x(j));
    }
    // Labels of the result: each label of the operand once, as far as a factor has it.
    std::string target;
    std::vector<int64_t> absent;
    std::vector<std::pair<int64_t, int64_t>> repeated;
    for (size_t k = 0; k < in[i].size(); ++k) {
      const size_t first = in[i].find(in[i][k]);
      if (first != k) {
        repeated.emplace_back(static_cast<int64_t>(first), static_cast<int64_t>(k));
        absent.push_back(static_cast<int64_t>(k));
      } else if (available.find(in[i][k]) == std::string::npos) {
        absent.push_back(static_cast<int64_t>(k));
      } else {
        target += in[i][k];
      }
    }
    const Expr x = g.x(i);
    Expr d = b.op("Einsum", operands, {{"equation", left + "->" + target}});
    const Broadcast shape = broadcast(g, i, in, out, target);
    if (!shape.summed.empty()) d = reduce_sum(d, shape.summed, true);
    d = unsqueeze(d, absent);
    if (!absent.empty() || shape.expanded) d = expand_like(d, x);
    for (const auto& [p, q] : repeated) {
      const auto iota = [&](int64_t axis) {
        const Expr n = squeeze(dim(x, axis), {0});
        std::vector<int64_t> axes;
        for (int64_t k = 0; k < x.rank(); ++k)
          if (k != axis) axes.push_back(k);
        return unsqueeze(b.op("Range", {b.int_scalar(0), n, b.int_scalar(1)}), axes);
      };
      d = d * cast(equal(iota(p), iota(q)), x.dtype());
    }
    r[i] = d;
  }
  return r;
}

}  // namespace

OpTable einsum_ops() {
  return {
      {.name = "Einsum", .since = 12, .infer = infer_einsum, .kernel = einsum_kernel, .grad = einsum_grad},
  };
}

}  // namespace ortmod
