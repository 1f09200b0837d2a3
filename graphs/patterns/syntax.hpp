// The syntax of the pattern language: text -> tree -> text. Knows names and kinds of arguments, not edges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace manyhop::patterns {

enum class Kind : std::uint8_t { none, boolean, integer, real, text, list, expression };

struct Expr;

/// An argument as written. Columns count from 1 and do not take part in comparison.
struct Value {
  Kind kind = Kind::none;
  std::size_t column = 0;
  bool flag = false;            // boolean; integer: negative
  std::uint64_t magnitude = 0;  // integer
  double real = 0;
  std::string text;
  std::vector<Value> items;          // list
  std::shared_ptr<const Expr> expr;  // expression
};
bool operator==(const Value& a, const Value& b);

/// What an argument must be.
enum class Type : std::uint8_t {
  count,       // whole number >= least
  seed,        // whole number >= 0
  maybe_seed,  // the same or none
  maybe_count,
  real,  // number in [0, 1]
  flag,  // true or false
  ids,   // [whole numbers] or none
  text,  // "quoted"
  expr   // a pattern
};

struct Parameter {
  std::string_view name;
  Type type = Type::count;
  bool required = true;
  std::uint64_t least = 0;
  std::int64_t fallback = 0;  // value of an absent count
};

enum class Atom : std::uint8_t {
  window,
  overlap,
  block,
  self,
  full,
  causal,
  global,
  random,
  regular,
  hypercube,
  paley,
  margulis,
  chordal,
  lps,
  debruijn,
  smallworld,
  strided,
  logsparse,
  axial,
  grid,
  diffuser,
  diffuser_ref,
  longformer,
  bigbird,
  exphormer,
  lift,
  sym,
  t,
  hops,
  file
};

struct AtomSpec {
  std::string_view name;
  Atom atom;
  std::vector<Parameter> parameters;
};
const std::vector<AtomSpec>& atom_table();
const AtomSpec& spec_of(Atom atom);

/// A node: an atom with its arguments by parameter, an intersection of items, or a chain of items joined
/// from left to right by '|' or '-' (signs[0] is '|').
struct Expr {
  enum class Op : std::uint8_t { atom, all_of, chain };
  Op op = Op::atom;
  std::size_t column = 1;
  const AtomSpec* spec = nullptr;
  std::vector<std::optional<Value>> arguments;
  std::vector<Expr> items;
  std::string signs;
};
bool operator==(const Expr& a, const Expr& b);

/// Throws ValueError `pattern, column C: ...`.
Expr parse(std::string_view text);
/// parse(print(e)) == e, with as few parentheses as that allows.
std::string print(const Expr& expr);

[[noreturn]] void fail_at(std::size_t column, std::string_view message);

}  // namespace manyhop::patterns
