// Keys of constants and attributes.
#include "passes/key.h"

#include <bit>

namespace ortmod {

void put_text(std::string& key, std::string_view s) {
  put(key, s.size());
  key += s;
}

void put_literal(std::string& key, const Literal& l) {
  put(key, l.dtype());
  put(key, l.dims().size());
  for (const Dim d : l.dims()) put(key, d);
  if (l.dtype() == DType::kString) {
    for (const std::string& s : l.string_values()) put_text(key, s);
  } else if (l.bytes() <= kMostCompared) {
    key.append(static_cast<const char*>(l.data()), l.bytes());
  } else {
    put(key, l.data());
  }
}

bool put_attr(std::string& key, const Attr& a) {
  put(key, a.index());
  if (const auto* i = std::get_if<int64_t>(&a))
    put(key, *i);
  else if (const auto* f = std::get_if<double>(&a))
    put(key, std::bit_cast<uint64_t>(*f));
  else if (const auto* s = std::get_if<std::string>(&a))
    put_text(key, *s);
  else if (const auto* v = std::get_if<std::vector<int64_t>>(&a)) {
    put(key, v->size());
    for (const int64_t x : *v) put(key, x);
  } else if (const auto* d = std::get_if<std::vector<double>>(&a)) {
    put(key, d->size());
    for (const double x : *d) put(key, std::bit_cast<uint64_t>(x));
  } else if (const auto* w = std::get_if<std::vector<std::string>>(&a)) {
    put(key, w->size());
    for (const std::string& x : *w) put_text(key, x);
  } else if (const auto* l = std::get_if<LiteralPtr>(&a))
    put_literal(key, **l);
  else
    return false;
  return true;
}

}  // namespace ortmod
