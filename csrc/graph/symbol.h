// Symbolic dimensions: interned names and their sums, products, differences and quotients.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "graph/type.h"

namespace ortmod {

/// The dimension named `name` (same name, same dimension); the empty name gives kAnyDim.
Dim symbol(std::string_view name);
/// A new symbol, equal only to itself.
Dim fresh_symbol();

Dim dim_add(Dim a, Dim b);
Dim dim_sub(Dim a, Dim b);
Dim dim_mul(Dim a, Dim b);
/// Floor division.
Dim dim_div(Dim a, Dim b);
Dim dim_max(Dim a, Dim b);
Dim dim_min(Dim a, Dim b);
/// Dividing the product of `total` by that of `known` exactly, by cancelling equal factors; kAnyDim when not possible.
Dim dims_quotient(const Dims& total, const Dims& known);

/// `3`, `batch`, `(batch*seq)`, `?`.
std::string dim_text(Dim d);
/// Evaluates the expression `d`; `leaf` gives the value of a name. kAnyDim stays kAnyDim.
Dim dim_eval(Dim d, const std::function<Dim(std::string_view name)>& leaf);

struct DimExpr {
  char op;  // 'n' name, 'c' constant, '+', '-', '*', '/', 'M' max, 'm' min
  std::string name;
  Dim a = 0, b = 0;
};
/// The structure of a symbolic dimension (for callers that rebuild it with their own symbols).
DimExpr dim_expr(Dim d);

}  // namespace ortmod
