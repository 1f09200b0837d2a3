#include "manyhop/graphs/patterns/pattern.hpp"

#include <fmt/format.h>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/source.hpp"
#include "manyhop/graphs/patterns/syntax.hpp"

namespace manyhop {

using patterns::Atom;
using patterns::Expr;

namespace {

std::optional<Offset> size_of_atom(const Expr& expr, const PatternOptions& options);

std::optional<Offset> size_of(const Expr& expr, const PatternOptions& options) {
  if (expr.op == Expr::Op::atom) return size_of_atom(expr, options);
  for (const Expr& item : expr.items) {
    if (const auto size = size_of(item, options)) return size;
  }
  return std::nullopt;
}

// a * b as a number of vertices, if it is one.
std::optional<Offset> area(std::uint64_t a, std::uint64_t b) {
  const auto most = static_cast<std::uint64_t>(kMaxVertices);
  if (a > most || b > most || a * b > most) return std::nullopt;
  return static_cast<Offset>(a * b);
}

std::optional<Offset> size_of_atom(const Expr& expr, const PatternOptions& options) {
  const auto count = [&](std::size_t p) { return expr.arguments[p]->magnitude; };
  switch (expr.spec->atom) {
    case Atom::lps:
      return patterns::lps_size(expr.column, count(0), count(1));
    case Atom::axial:
    case Atom::grid:
      return area(count(0), count(1));
    case Atom::lift: {
      const auto base = size_of(*expr.arguments[0]->expr, options);
      return base ? area(static_cast<std::uint64_t>(*base), count(1)) : std::nullopt;
    }
    case Atom::sym:
    case Atom::t:
    case Atom::hops:
      return size_of(*expr.arguments[0]->expr, options);
    case Atom::file:
      return patterns::load_file(expr.column, expr.arguments[0]->text, options).n_rows();
    default:
      return std::nullopt;
  }
}

// Whether the edges, and so the weights, are those of a file as it is or transposed.
bool of_file(const Expr& expr) {
  if (expr.op != Expr::Op::atom) return expr.items.size() == 1 && of_file(expr.items[0]);
  return expr.spec->atom == Atom::file || (expr.spec->atom == Atom::t && of_file(*expr.arguments[0]->expr));
}

// The seed of the options where the text leaves it open, so that the printed text gives this graph anywhere.
void fill_seeds(Expr& expr, std::uint64_t seed) {
  for (Expr& item : expr.items) fill_seeds(item, seed);
  if (expr.op != Expr::Op::atom) return;
  for (std::size_t p = 0; p < expr.arguments.size(); ++p) {
    auto& argument = expr.arguments[p];
    if (!argument) {
      if (expr.spec->parameters[p].type != patterns::Type::seed) continue;
      argument.emplace();
      argument->kind = patterns::Kind::integer;
      argument->magnitude = seed;
    } else if (argument->expr != nullptr) {
      auto inner = std::make_shared<Expr>(*argument->expr);
      fill_seeds(*inner, seed);
      argument->expr = std::move(inner);
    }
  }
}

}  // namespace

Graph pattern(std::string_view text, Offset n_rows, std::optional<Offset> n_cols,
              const PatternOptions& options) {
  const Offset columns = n_cols.value_or(n_rows);
  if (n_rows < 0 || columns < 0 || n_rows > kMaxVertices || columns > kMaxVertices) {
    throw ValueError(
        fmt::format("pattern: size {} x {} is outside 0 .. {} on an axis", n_rows, columns, kMaxVertices));
  }
  Expr expr = patterns::parse(text);
  if (options.seed != 0) fill_seeds(expr, options.seed);
  const patterns::Place place{n_rows, columns, expr.column, &options, options.clip};
  const Graph graph = patterns::build(place, patterns::compile(expr, n_rows, columns, options, options.clip));
  // Weights of a pattern are the multiplicities that define it; those of a file are only weights.
  const Source source = graph.weighted() && of_file(expr) ? Source::matrix : Source::pattern;
  return graph.labelled(patterns::print(expr), source);
}

std::optional<Offset> implied_size(std::string_view text, const PatternOptions& options) {
  return size_of(patterns::parse(text), options);
}

std::string canonical_pattern(std::string_view text) { return patterns::print(patterns::parse(text)); }

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const patterns::AtomSpec& spec : patterns::atom_table()) names.emplace_back(spec.name);
  return names;
}

}  // namespace manyhop
