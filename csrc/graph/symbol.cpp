// Interned symbolic dimensions. Expressions are hash-consed, so equal expressions are equal numbers.
#include "graph/symbol.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

namespace ortmod {
namespace {

struct Table {
  std::shared_mutex mutex;
  std::deque<DimExpr> exprs;  // dimension kLastSymbol - i
  std::unordered_map<std::string, Dim> names;
  std::map<std::tuple<char, Dim, Dim>, Dim> ops;
  int64_t fresh = 0;

  Dim push(DimExpr e) {
    exprs.push_back(std::move(e));
    return kLastSymbol - static_cast<Dim>(exprs.size() - 1);
  }
};

Table& table() {
  static Table* t = new Table;
  return *t;
}

const DimExpr& at(Dim d) { return table().exprs[static_cast<size_t>(kLastSymbol - d)]; }

Dim intern_op(char op, Dim a, Dim b) {
  Table& t = table();
  std::unique_lock lock(t.mutex);
  const auto [it, inserted] = t.ops.try_emplace({op, a, b}, 0);
  if (inserted) it->second = t.push({op, "", a, b});
  return it->second;
}

bool any(Dim a, Dim b) { return a == kAnyDim || b == kAnyDim; }
bool plain(Dim a, Dim b) { return !is_symbolic(a) && !is_symbolic(b); }
bool plain(Dim a) { return !is_symbolic(a); }

bool is_op(Dim d, char op, Dim& a, Dim& b) {
  if (!is_symbolic(d) || d == kAnyDim) return false;
  std::shared_lock lock(table().mutex);
  const DimExpr& e = at(d);
  if (e.op != op) return false;
  a = e.a;
  b = e.b;
  return true;
}

/// Factors of a product: known part and symbols.
void factors(Dim d, int64_t& known, std::map<Dim, int>& symbols, int sign) {
  Dim a, b;
  if (is_op(d, '*', a, b)) {
    factors(a, known, symbols, sign);
    factors(b, known, symbols, sign);
  } else if (!is_symbolic(d)) {
    known *= d;
  } else {
    symbols[d] += sign;
  }
}

Dim make_product(int64_t known, const std::map<Dim, int>& symbols) {
  Dim r = known;
  for (const auto& [s, n] : symbols)
    for (int i = 0; i < n; ++i) r = r == 1 ? s : intern_op('*', std::max(r, s), std::min(r, s));
  return r;
}

}  // namespace

Dim symbol(std::string_view name) {
  if (name.empty()) return kAnyDim;
  Table& t = table();
  std::unique_lock lock(t.mutex);
  const auto [it, inserted] = t.names.try_emplace(std::string(name), 0);
  if (inserted) it->second = t.push({'n', std::string(name), 0, 0});
  return it->second;
}

Dim fresh_symbol() {
  Table& t = table();
  int64_t n;
  {
    std::unique_lock lock(t.mutex);
    n = t.fresh++;
  }
  return symbol("?" + std::to_string(n));
}

Dim dim_add(Dim a, Dim b) {
  if (plain(a, b)) return a + b;
  if (any(a, b)) return kAnyDim;
  if (a == 0) return b;
  if (b == 0) return a;
  if (plain(a)) std::swap(a, b);  // constants last
  Dim x, y;
  if (is_op(a, '-', x, y) && y == b) return x;
  if (is_op(b, '-', x, y) && y == a) return x;
  if (plain(b) && is_op(a, '+', x, y) && plain(y)) return dim_add(x, y + b);
  return plain(b) ? intern_op('+', a, b) : intern_op('+', std::max(a, b), std::min(a, b));
}

Dim dim_sub(Dim a, Dim b) {
  if (plain(a, b)) return a - b;
  if (any(a, b)) return kAnyDim;
  if (plain(b)) return dim_add(a, -b);
  if (a == b) return 0;
  Dim x, y;
  if (is_op(a, '+', x, y)) {
    if (y == b) return x;
    if (x == b) return y;
  }
  return intern_op('-', a, b);
}

Dim dim_mul(Dim a, Dim b) {
  if (plain(a, b)) return a * b;
  if (a == 0 || b == 0) return 0;
  if (any(a, b)) return kAnyDim;
  if (a == 1) return b;
  if (b == 1) return a;
  int64_t known = 1;
  std::map<Dim, int> s;
  factors(a, known, s, 1);
  factors(b, known, s, 1);
  return make_product(known, s);
}

Dim dim_div(Dim a, Dim b) {
  if (plain(a, b) && b != 0) return a / b - (a % b != 0 && (a < 0) != (b < 0));
  if (any(a, b) || b == 0) return kAnyDim;
  if (b == 1) return a;
  if (a == b) return 1;
  const Dim exact = dims_quotient(Dims{a}, Dims{b});
  if (exact != kAnyDim) return exact;
  return intern_op('/', a, b);
}

Dim dim_max(Dim a, Dim b) {
  if (plain(a, b)) return std::max(a, b);
  if (any(a, b)) return kAnyDim;
  return a == b ? a : intern_op('M', std::max(a, b), std::min(a, b));
}

Dim dim_min(Dim a, Dim b) {
  if (plain(a, b)) return std::min(a, b);
  if (any(a, b)) return kAnyDim;
  return a == b ? a : intern_op('m', std::max(a, b), std::min(a, b));
}

Dim dims_quotient(const Dims& total, const Dims& known) {
  int64_t top = 1, bottom = 1;
  bool symbolic = false;
  for (Dim d : total) {
    if (d == kAnyDim) return kAnyDim;
    symbolic = symbolic || is_symbolic(d);
    if (!is_symbolic(d)) top *= d;
  }
  for (Dim d : known) {
    if (d == kAnyDim) return kAnyDim;
    symbolic = symbolic || is_symbolic(d);
    if (!is_symbolic(d)) bottom *= d;
  }
  if (!symbolic) return bottom == 0 || top % bottom != 0 ? kAnyDim : top / bottom;
  top = bottom = 1;
  std::map<Dim, int> s;
  for (Dim d : total) factors(d, top, s, 1);
  for (Dim d : known) factors(d, bottom, s, -1);
  for (const auto& [d, n] : s)
    if (n < 0) return kAnyDim;
  if (bottom == 0 || top % bottom != 0) return kAnyDim;
  return top == 0 ? 0 : make_product(top / bottom, s);
}

namespace {
/// Numbers first, then by text.
bool text_before(const std::string& a, const std::string& b) {
  const auto number = [](const std::string& s) { return s[0] >= '0' && s[0] <= '9'; };
  return number(a) != number(b) ? number(a) : a < b;
}

/// The factors of a product as text.
void factor_texts(Dim d, std::vector<std::string>& texts) {
  Dim a, b;
  if (!is_op(d, '*', a, b)) return texts.push_back(dim_text(d));
  factor_texts(a, texts);
  factor_texts(b, texts);
}
}  // namespace

std::string dim_text(Dim d) {
  if (d == kAnyDim) return "?";
  if (!is_symbolic(d)) return std::to_string(d);
  const DimExpr e = dim_expr(d);
  if (e.op == 'n') return e.name;
  // What commutes is in the order of the text: that of the numbers depends on what this process met before.
  if (e.op == '*') {
    std::vector<std::string> texts;
    factor_texts(d, texts);
    std::sort(texts.begin(), texts.end(), text_before);
    std::string r = texts[0];
    for (size_t i = 1; i < texts.size(); ++i) r = "(" + r + "*" + texts[i] + ")";
    return r;
  }
  std::string a = dim_text(e.a), b = dim_text(e.b);
  if (is_symbolic(e.b) && e.op != '-' && e.op != '/' && text_before(b, a)) std::swap(a, b);
  if (e.op == 'M' || e.op == 'm') return std::string(e.op == 'M' ? "max(" : "min(") + a + "," + b + ")";
  return "(" + a + e.op + b + ")";
}

DimExpr dim_expr(Dim d) {
  if (!is_symbolic(d)) return {'c', "", d, 0};
  std::shared_lock lock(table().mutex);
  return at(d);
}

Dim dim_eval(Dim d, const std::function<Dim(std::string_view)>& leaf) {
  if (!is_symbolic(d) || d == kAnyDim) return d;
  const DimExpr e = dim_expr(d);
  if (e.op == 'n') return leaf(e.name);
  const Dim a = dim_eval(e.a, leaf), b = dim_eval(e.b, leaf);
  switch (e.op) {
    case '+':
      return dim_add(a, b);
    case '-':
      return dim_sub(a, b);
    case '*':
      return dim_mul(a, b);
    case '/':
      return dim_div(a, b);
    case 'M':
      return dim_max(a, b);
    default:
      return dim_min(a, b);
  }
}

}  // namespace ortmod
