// A recursive-descent parser. Every error names the column (from 1) and what is allowed there.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/arguments.hpp"
#include "manyhop/graphs/patterns/syntax.hpp"

namespace manyhop::patterns {

void fail_at(std::size_t column, std::string_view message) {
  throw ValueError(fmt::format("pattern, column {}: {}", column, message));
}

namespace {

constexpr std::size_t kMaxText = std::size_t{1} << 20;
constexpr int kMaxDepth = 200;

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name(char c) { return is_name_start(c) || is_digit(c); }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Expr run() {
    if (text_.size() > kMaxText) {
      fail_at(kMaxText + 1,
              fmt::format("the text has {} characters, at most {} are read", text_.size(), kMaxText));
    }
    Expr expr = expression();
    if (!at_end()) {
      fail_at(column(), fmt::format("found '{}', expected '|', '-', '&' or the end", shown(rest(1))));
    }
    return expr;
  }

 private:
  struct Deeper {
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) {
        fail_at(parser_.column(), fmt::format("nested deeper than {} levels", kMaxDepth));
      }
    }
    ~Deeper() { --parser_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    Parser& parser_;
  };

  void blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
  }
  bool at_end() {
    blanks();
    return at_ == text_.size();
  }
  char peek() { return at_end() ? '\0' : text_[at_]; }
  std::size_t column() const { return at_ + 1; }
  std::string_view rest(std::size_t length) const { return text_.substr(at_, length); }
  std::string found() {
    if (at_end()) return "the end";
    return fmt::format("'{}'", shown(rest(1)));
  }
  bool take(char c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string_view name() {
    const std::size_t start = at_;
    while (at_ < text_.size() && is_name(text_[at_])) ++at_;
    return text_.substr(start, at_ - start);
  }

  Expr expression() {
    const Deeper deeper(*this);
    Expr first = term();
    Expr chain;
    chain.op = Expr::Op::chain;
    chain.column = first.column;
    for (char sign = peek(); (sign == '|' || sign == '-') && !at_end(); sign = peek()) {
      ++at_;
      if (chain.items.empty()) {  // NOLINTBEGIN(bugprone-use-after-move): once, in the first round
        // (a | b) - c is a | b - c: a chain on the left joins.
        if (first.op == Expr::Op::chain) {
          chain.items = std::move(first.items);
          chain.signs = std::move(first.signs);
        } else {
          chain.items.push_back(std::move(first));
          chain.signs.assign(1, '|');
        }
      }  // NOLINTEND(bugprone-use-after-move)
      chain.signs += sign;
      chain.items.push_back(term());
    }
    return chain.items.empty() ? first : chain;
  }

  Expr term() {
    Expr first = factor();
    Expr all;
    all.op = Expr::Op::all_of;
    all.column = first.column;
    while (take('&')) {
      if (all.items.empty()) {  // NOLINTBEGIN(bugprone-use-after-move): once, in the first round
        if (first.op == Expr::Op::all_of) {
          all.items = std::move(first.items);
        } else {
          all.items.push_back(std::move(first));
        }
      }  // NOLINTEND(bugprone-use-after-move)
      all.items.push_back(factor());
    }
    return all.items.empty() ? first : all;
  }

  Expr factor() {
    const char next = peek();
    if (take('(')) {
      Expr inner = expression();
      if (!take(')')) fail_at(column(), fmt::format("found {}, expected '|', '-', '&' or ')'", found()));
      return inner;
    }
    if (!is_name_start(next)) {
      fail_at(column(), fmt::format("found {}, expected a name or '('", found()));
    }
    return atom();
  }

  Expr atom() {
    Expr expr;
    expr.column = column();
    const std::string_view word = name();
    for (const AtomSpec& spec : atom_table()) {
      if (spec.name == word) expr.spec = &spec;
    }
    if (expr.spec == nullptr) {
      fail_at(expr.column, fmt::format("unknown name '{}'; known are {}", shown(word), known_names(word)));
    }
    expr.arguments.resize(expr.spec->parameters.size());
    if (take('(')) arguments(expr);
    for (std::size_t p = 0; p < expr.arguments.size(); ++p) {
      const Parameter& parameter = expr.spec->parameters[p];
      if (parameter.required && !expr.arguments[p]) {
        fail_at(expr.column, fmt::format("{} needs {} ({}); {}", word, parameter.name, wanted(parameter),
                                         signature(*expr.spec)));
      }
    }
    if (expr.spec->atom == Atom::global) check_global(expr);
    return expr;
  }

  // global wants one of k and ids; a seed draws k.
  static void check_global(const Expr& expr) {
    const auto given = [&](std::size_t p) {
      return expr.arguments[p] && expr.arguments[p]->kind != Kind::none;
    };
    if (given(0) == given(2)) {
      fail_at(expr.column, fmt::format("global needs {}; allowed: global(k), global(k, seed=...), "
                                       "global(ids=[...])",
                                       given(0) ? "only one of k and ids" : "k or ids"));
    }
    if (given(1) && given(2)) {
      fail_at(expr.arguments[1]->column, "global: seed draws k tokens and does not go with ids");
    }
  }

  void arguments(Expr& expr) {
    const AtomSpec& spec = *expr.spec;
    if (take(')')) return;
    bool keyed = false;
    for (std::size_t position = 0;; ++position) {
      blanks();
      const std::size_t start = column();
      std::size_t slot = position;
      const std::size_t saved = at_;
      if (at_ < text_.size() && is_name_start(text_[at_])) {
        const std::string_view key = name();
        if (take('=')) {
          keyed = true;
          slot = find_parameter(spec, key, start);
        } else {
          at_ = saved;
          if (keyed)
            fail_at(start, fmt::format("{}: an argument without a name after named ones", spec.name));
        }
      } else if (keyed) {
        fail_at(start,
                fmt::format("{}: an argument without a name after named ones; found {}", spec.name, found()));
      }
      if (slot >= spec.parameters.size()) {
        fail_at(start, fmt::format("{}: argument {} of at most {}; {}", spec.name, slot + 1,
                                   spec.parameters.size(), signature(spec)));
      }
      const Parameter& parameter = spec.parameters[slot];
      if (expr.arguments[slot]) {
        fail_at(start, fmt::format("{}: {} is given twice", spec.name, parameter.name));
      }
      Value given = value(parameter);
      const std::string was = describe(given);
      if (!accept(given, parameter)) {
        fail_at(given.column,
                fmt::format("{}: {} is {}, found {}", spec.name, parameter.name, wanted(parameter), was));
      }
      expr.arguments[slot] = std::move(given);
      if (take(')')) return;
      if (!take(',')) fail_at(column(), fmt::format("{}: found {}, expected ',' or ')'", spec.name, found()));
    }
  }

  static std::size_t find_parameter(const AtomSpec& spec, std::string_view key, std::size_t at) {
    for (std::size_t p = 0; p < spec.parameters.size(); ++p) {
      if (spec.parameters[p].name == key) return p;
    }
    fail_at(at, fmt::format("{} has no argument '{}'; {}", spec.name, shown(key), signature(spec)));
  }

  Value value(const Parameter& parameter) {
    const Deeper deeper(*this);
    Value result;
    const char next = peek();
    result.column = column();
    if (next == '"') {
      quoted(result);
    } else if (next == '[') {
      list(result, parameter);
    } else if (is_digit(next) || next == '-' || next == '+' || next == '.') {
      number(result);
    } else if (is_name_start(next) || next == '(') {
      const std::size_t saved = at_;
      const std::string_view word = name();
      if (word == "true" || word == "false") {
        result.kind = Kind::boolean;
        result.flag = word == "true";
      } else if (word != "none") {
        at_ = saved;
        result.kind = Kind::expression;
        result.expr = std::make_shared<const Expr>(expression());
      }
    } else {
      fail_at(column(), fmt::format("found {}, expected {}", found(), wanted(parameter)));
    }
    return result;
  }

  void quoted(Value& result) {
    result.kind = Kind::text;
    const std::size_t start = column();
    ++at_;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') {
        ++at_;
        if (at_ == text_.size() || (text_[at_] != '"' && text_[at_] != '\\')) {
          fail_at(at_, "a backslash in quotes stands before \" or \\ only");
        }
      }
      if (text_[at_] == '\0') fail_at(column(), "a path holds no zero byte");
      result.text += text_[at_++];
    }
    if (at_ == text_.size()) fail_at(start, "the quote that opens here is not closed");
    ++at_;
  }

  void list(Value& result, const Parameter& parameter) {
    result.kind = Kind::list;
    ++at_;
    if (take(']')) return;
    do {
      result.items.push_back(value(parameter));
    } while (take(','));
    if (!take(']')) fail_at(column(), fmt::format("found {}, expected ',' or ']'", found()));
  }

  void number(Value& result) {
    const std::size_t start = at_;
    if (text_[at_] == '-' || text_[at_] == '+') {
      result.flag = text_[at_] == '-';
      ++at_;
    }
    const std::size_t digits = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    bool whole = true;
    if (at_ < text_.size() && text_[at_] == '.') {
      whole = false;
      ++at_;
      while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    }
    if (at_ == digits || (!whole && at_ == digits + 1)) {
      at_ = start;
      fail_at(column(), fmt::format("found {}, expected a number", found()));
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      whole = false;
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
      if (at_ == text_.size() || !is_digit(text_[at_])) fail_at(column(), "an exponent without digits");
      while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    }
    const std::string_view body = text_.substr(digits, at_ - digits);
    if (at_ < text_.size() && is_name(text_[at_])) {
      fail_at(column(), fmt::format("found {} in a number", found()));
    }
    if (whole) {
      result.kind = Kind::integer;
      const auto [end, error] = std::from_chars(body.data(), body.data() + body.size(), result.magnitude);
      if (error != std::errc()) {
        fail_at(start + 1, fmt::format("the number {} is above {}", shown(body), ~std::uint64_t{0}));
      }
    } else {
      result.kind = Kind::real;
      const auto [end, error] = std::from_chars(body.data(), body.data() + body.size(), result.real);
      if (error != std::errc() || !std::isfinite(result.real)) {
        fail_at(start + 1, fmt::format("the number {} is out of range", shown(body)));
      }
      if (result.flag) result.real = -result.real;
      result.flag = false;
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Expr parse(std::string_view text) { return Parser(text).run(); }

}  // namespace manyhop::patterns
