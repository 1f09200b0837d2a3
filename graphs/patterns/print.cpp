// Trees back to text, and their comparison.
#include <fmt/format.h>

#include "manyhop/graphs/patterns/syntax.hpp"

namespace manyhop::patterns {

bool operator==(const Value& a, const Value& b) {
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::none:
      return true;
    case Kind::boolean:
      return a.flag == b.flag;
    case Kind::integer:
      return a.magnitude == b.magnitude && a.flag == b.flag;
    case Kind::real:
      return a.real == b.real;
    case Kind::text:
      return a.text == b.text;
    case Kind::list:
      return a.items == b.items;
    case Kind::expression:
      return *a.expr == *b.expr;
  }
  return false;
}

bool operator==(const Expr& a, const Expr& b) {
  return a.op == b.op && a.spec == b.spec && a.signs == b.signs && a.arguments == b.arguments &&
         a.items == b.items;
}

namespace {

void print_value(const Value& value, std::string& out) {
  switch (value.kind) {
    case Kind::none:
      out += "none";
      break;
    case Kind::boolean:
      out += value.flag ? "true" : "false";
      break;
    case Kind::integer:
      out += fmt::format("{}{}", value.flag ? "-" : "", value.magnitude);
      break;
    case Kind::real:
      out += fmt::format("{}", value.real);
      break;
    case Kind::text:
      out += '"';
      for (const char c : value.text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c;
      }
      out += '"';
      break;
    case Kind::list:
      out += '[';
      for (std::size_t i = 0; i < value.items.size(); ++i) {
        if (i > 0) out += ", ";
        print_value(value.items[i], out);
      }
      out += ']';
      break;
    case Kind::expression:
      out += print(*value.expr);
      break;
  }
}

// A bare true, list or none says little about what it sets; such arguments carry their name.
bool wants_name(const Value& value) {
  return value.kind == Kind::boolean || value.kind == Kind::list || value.kind == Kind::none;
}

void print_atom(const Expr& expr, std::string& out) {
  out += expr.spec->name;
  bool open = false;
  bool positional = true;
  for (std::size_t p = 0; p < expr.arguments.size(); ++p) {
    if (!expr.arguments[p]) {
      positional = false;
      continue;
    }
    out += open ? ", " : "(";
    open = true;
    const bool draws = expr.spec->parameters[p].type == Type::maybe_seed;  // as in global(4, seed=1)
    positional = positional && !draws && !wants_name(*expr.arguments[p]);
    if (!positional) out += fmt::format("{}=", expr.spec->parameters[p].name);
    print_value(*expr.arguments[p], out);
  }
  if (open) out += ')';
}

void print_into(const Expr& expr, std::string& out) {
  if (expr.op == Expr::Op::atom) {
    print_atom(expr, out);
    return;
  }
  const bool chain = expr.op == Expr::Op::chain;
  for (std::size_t i = 0; i < expr.items.size(); ++i) {
    if (i > 0) out += chain ? fmt::format(" {} ", expr.signs[i]) : " & ";
    const Expr& item = expr.items[i];
    const bool wrap = chain ? item.op == Expr::Op::chain : item.op != Expr::Op::atom;
    if (wrap) out += '(';
    print_into(item, out);
    if (wrap) out += ')';
  }
}

}  // namespace

std::string print(const Expr& expr) {
  std::string out;
  print_into(expr, out);
  return out;
}

}  // namespace manyhop::patterns
