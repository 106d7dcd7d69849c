// A recursive descent over JSON text.
#include "train/json.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "graph/error.h"

namespace ortmod {
namespace {

constexpr int kDeepest = 64;

class Parser {
 public:
  Parser(std::string_view text, const std::string& what) : s_(text), what_(what) {}

  Json run() {
    Json j = value(0);
    space();
    if (at_ != s_.size()) bad("more text after the value");
    return j;
  }

 private:
  [[noreturn]] void bad(const std::string& why) const {
    fail(ErrorKind::kModel, "checkpoint",
         what_ + " cannot be read: no JSON at byte " + std::to_string(at_) + ": " + why);
  }
  void space() {
    while (at_ < s_.size() && (s_[at_] == ' ' || s_[at_] == '\n' || s_[at_] == '\t' || s_[at_] == '\r')) ++at_;
  }
  char next() {
    space();
    if (at_ >= s_.size()) bad("it ends early");
    return s_[at_];
  }
  void expect(char c) {
    if (next() != c) bad(std::string("expected '") + c + "'");
    ++at_;
  }
  bool take(std::string_view word) {
    if (s_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) bad("it is nested too deeply");
    Json j;
    const char c = next();
    if (c == '{') {
      j.kind = Json::Kind::kObject;
      ++at_;
      if (next() == '}') return ++at_, j;
      for (;; ++at_) {
        if (next() != '"') bad("expected the name of a member");
        std::string key = text();
        expect(':');
        j.members.emplace_back(std::move(key), value(depth + 1));
        if (next() != ',') break;
      }
      expect('}');
    } else if (c == '[') {
      j.kind = Json::Kind::kList;
      ++at_;
      if (next() == ']') return ++at_, j;
      for (;; ++at_) {
        j.items.push_back(value(depth + 1));
        if (next() != ',') break;
      }
      expect(']');
    } else if (c == '"') {
      j.kind = Json::Kind::kString;
      j.text = text();
    } else if (take("null")) {
    } else if (take("true")) {
      j.kind = Json::Kind::kBool;
      j.text = "true";
    } else if (take("false")) {
      j.kind = Json::Kind::kBool;
      j.text = "false";
    } else {
      const size_t start = at_;
      while (at_ < s_.size() && std::string_view("+-0123456789.eE").find(s_[at_]) != std::string_view::npos) ++at_;
      if (at_ == start) bad("expected a value");
      j.kind = Json::Kind::kNumber;
      j.text = std::string(s_.substr(start, at_ - start));
    }
    return j;
  }

  unsigned hex4() {
    unsigned v = 0;
    if (at_ + 4 > s_.size()) bad("it ends early");
    const auto r = std::from_chars(s_.data() + at_, s_.data() + at_ + 4, v, 16);
    if (r.ptr != s_.data() + at_ + 4) bad("expected four hexadecimal digits");
    at_ += 4;
    return v;
  }

  void utf8(unsigned c, std::string& to) {
    const auto put = [&](unsigned b) { to += static_cast<char>(b); };
    if (c < 0x80) return put(c);
    if (c < 0x800) return put(0xC0 | c >> 6), put(0x80 | (c & 63));
    if (c < 0x10000) return put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
  }

  std::string text() {
    std::string r;
    for (++at_;; ++at_) {
      if (at_ >= s_.size()) bad("a string has no end");
      const char c = s_[at_];
      if (c == '"') return ++at_, r;
      if (c != '\\') {
        r += c;
        continue;
      }
      if (++at_ >= s_.size()) bad("a string has no end");
      static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
      const size_t i = kFrom.find(s_[at_]);
      if (i != std::string_view::npos) {
        r += kTo[i];
      } else if (s_[at_] == 'u') {
        ++at_;
        unsigned code = hex4();
        if (code >= 0xD800 && code < 0xDC00 && s_.substr(at_, 2) == "\\u") {
          at_ += 2;
          code = 0x10000 + ((code - 0xD800) << 10) + (hex4() - 0xDC00);
        }
        utf8(code, r);
        --at_;
      } else {
        bad("unknown escape");
      }
    }
  }

  std::string_view s_;
  const std::string& what_;
  size_t at_ = 0;
};

[[noreturn]] void wrong(const std::string& expected) {
  fail(ErrorKind::kModel, "checkpoint", "the notes of the file are not as ortmod writes them: expected " + expected);
}

}  // namespace

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members)
    if (name == key) return &value;
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* found = find(key);
  if (!found) wrong("a member \"" + std::string(key) + "\"");
  return *found;
}

const std::string& Json::string() const {
  if (kind != Kind::kString) wrong("a string");
  return text;
}

int64_t Json::integer() const {
  int64_t v = 0;
  const auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  if (kind != Kind::kNumber || r.ec != std::errc() || r.ptr != text.data() + text.size()) wrong("an integer");
  return v;
}

double Json::number() const {
  if (kind != Kind::kNumber) wrong("a number");
  return std::strtod(text.c_str(), nullptr);
}

const std::vector<Json>& Json::list() const {
  if (kind != Kind::kList) wrong("a list");
  return items;
}

std::vector<int64_t> Json::integers() const {
  std::vector<int64_t> r;
  for (const Json& j : list()) r.push_back(j.integer());
  return r;
}

std::vector<std::string> Json::strings() const {
  std::vector<std::string> r;
  for (const Json& j : list()) r.push_back(j.string());
  return r;
}

Json parse_json(std::string_view text, const std::string& what) { return Parser(text, what).run(); }

std::string json_string(std::string_view s) {
  std::string r = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') {
      r += '\\';
      r += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      r += code;
    } else {
      r += c;
    }
  }
  return r + "\"";
}

std::string json_list(const std::vector<std::string>& literals) {
  std::string r = "[";
  for (const std::string& l : literals) r += (r.size() > 1 ? "," : "") + l;
  return r + "]";
}

}  // namespace ortmod
