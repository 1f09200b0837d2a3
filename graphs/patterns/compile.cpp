// Trees to row sources.
#include <fmt/format.h>

#include <algorithm>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

void Place::want_square(std::string_view name) const {
  if (!square()) {
    fail(fmt::format("{} wants as many rows as columns, the sizes are {} x {}", name, n_rows, n_cols));
  }
}

Offset Place::fit(std::uint64_t count, Offset most, std::string_view what, std::string_view of) const {
  if (count <= static_cast<std::uint64_t>(most)) return static_cast<Offset>(count);
  if (clip || n_rows == 0) return most;
  fail(fmt::format("{} = {} is above the {} {}", what, count, most, of));
}

Offset capped(std::uint64_t count, Offset cap) {
  return count < static_cast<std::uint64_t>(cap) ? static_cast<Offset>(count) : cap;
}

namespace {

// Arguments of an atom by parameter, with defaults.
class Arguments {
 public:
  Arguments(const Expr& expr, const PatternOptions& options) : expr_(expr), options_(options) {}

  bool given(std::size_t p) const { return expr_.arguments[p] && expr_.arguments[p]->kind != Kind::none; }
  std::uint64_t count(std::size_t p) const {
    if (given(p)) return expr_.arguments[p]->magnitude;
    return static_cast<std::uint64_t>(expr_.spec->parameters[p].fallback);
  }
  std::uint64_t seed(std::size_t p) const { return given(p) ? expr_.arguments[p]->magnitude : options_.seed; }
  bool flag(std::size_t p) const { return given(p) && expr_.arguments[p]->flag; }
  double real(std::size_t p) const { return expr_.arguments[p]->real; }
  const std::string& text(std::size_t p) const { return expr_.arguments[p]->text; }
  const Value& value(std::size_t p) const { return *expr_.arguments[p]; }
  const Expr& expr(std::size_t p) const { return *expr_.arguments[p]->expr; }

 private:
  const Expr& expr_;
  const PatternOptions& options_;
};

std::vector<Index> first_tokens(Offset k) {
  std::vector<Index> ids(static_cast<std::size_t>(k));
  for (Offset i = 0; i < k; ++i) ids[static_cast<std::size_t>(i)] = static_cast<Index>(i);
  return ids;
}

Source first_global(const Place& place, std::uint64_t k) {
  return global(place, first_tokens(place.fit(k, place.n_cols, "global: k", "columns")));
}

Source drawn_global(const Place& place, std::uint64_t k, std::uint64_t seed) {
  const Offset count = place.fit(k, place.n_cols, "global: k", "columns");
  return global(place, draw_distinct(place.n_cols, count, seed, kStageGlobal, 0));
}

Source listed_global(const Place& place, const Value& list) {
  const Offset most = std::max(place.n_rows, place.n_cols);
  std::vector<Index> ids;
  ids.reserve(list.items.size());
  for (const Value& item : list.items) {
    if (item.magnitude >= static_cast<std::uint64_t>(most)) {
      if (place.clip) continue;
      fail_at(item.column, fmt::format("global: token {} is outside 0 .. {}", item.magnitude, most - 1));
    }
    ids.push_back(static_cast<Index>(item.magnitude));
  }
  return global(place, std::move(ids));
}

Source pair(const Place& place, Source a, Source b) {
  std::vector<Source> parts;
  parts.push_back(std::move(a));
  parts.push_back(std::move(b));
  return unite_all(place, std::move(parts), "||");
}

Source triple(const Place& place, Source a, Source b, Source c) {
  std::vector<Source> parts;
  parts.push_back(std::move(a));
  parts.push_back(std::move(b));
  parts.push_back(std::move(c));
  return unite_all(place, std::move(parts), "|||");
}

class Compiler {
 public:
  explicit Compiler(const PatternOptions& options) : options_(options) {}

  Source compile(const Expr& expr, Offset n_rows, Offset n_cols, bool clip) const {
    const Place place{n_rows, n_cols, expr.column, &options_, clip};
    if (expr.op == Expr::Op::atom) return atom(expr, place);
    std::vector<Source> parts;
    parts.reserve(expr.items.size());
    for (const Expr& item : expr.items) parts.push_back(compile(item, n_rows, n_cols, clip));
    if (expr.op == Expr::Op::all_of) return intersect_all(place, std::move(parts));
    return unite_all(place, std::move(parts), expr.signs);
  }

 private:
  Graph graph_of(const Expr& expr, Offset n_rows, Offset n_cols, bool clip) const {
    const Place place{n_rows, n_cols, expr.column, &options_, clip};
    return build(place, compile(expr, n_rows, n_cols, clip));
  }

  // ceil(n / b), with b cut to n so that huge blocks mean one block.
  static Place super_tokens(const Place& place, Offset b) {
    Place coarse = place;
    coarse.n_rows = (place.n_rows + b - 1) / b;
    coarse.n_cols = (place.n_cols + b - 1) / b;
    return coarse;
  }

  Source bigbird(Place place, std::uint64_t block, std::uint64_t r, std::uint64_t seed) const {
    place.want_square("bigbird");
    place.clip = true;
    const Offset b = capped(block, std::max<Offset>(place.n_cols, 1));
    const Place coarse = super_tokens(place, b);
    std::vector<Index> ends;
    if (coarse.n_cols > 0) ends = {0, static_cast<Index>(coarse.n_cols - 1)};
    const Source base =
        triple(coarse, window(coarse, 1, 1, false), global(coarse, ends), random(coarse, r, seed, false));
    return lift(place, build(coarse, base), b);
  }

  Source diffuser(Place place, const Arguments& a) const {
    place.clip = true;
    const std::uint64_t block = a.count(0);
    const std::uint64_t seed = a.seed(3);
    return triple(place, overlap(place, block, std::max<std::uint64_t>(1, block / 2)),
                  random(place, a.count(1), seed, false), drawn_global(place, a.count(2), seed));
  }

  Source atom(const Expr& expr, const Place& place) const {
    const Arguments a(expr, options_);
    Place clipped = place;
    clipped.clip = true;
    switch (expr.spec->atom) {
      case Atom::window:
        return window(place, a.count(0), a.count(1), a.flag(2));
      case Atom::overlap:
        return overlap(place, a.count(0), a.count(1));
      case Atom::block:
        return overlap(place, a.count(0), a.count(0));
      case Atom::self:
        return window(place, 0, 1, false);
      case Atom::full:
        return full(place);
      case Atom::causal:
        return causal(place);
      case Atom::global:
        if (a.given(2)) return listed_global(place, a.value(2));
        return a.given(1) ? drawn_global(place, a.count(0), a.seed(1)) : first_global(place, a.count(0));
      case Atom::random:
        return random(place, a.count(0), a.seed(1), a.flag(2));
      case Atom::regular:
        return regular(place, a.count(0), a.seed(1));
      case Atom::hypercube:
        return hypercube(place);
      case Atom::paley:
        return paley(place);
      case Atom::margulis:
        return margulis(place);
      case Atom::chordal:
        return chordal(place);
      case Atom::lps:
        return lps(place, a.count(0), a.count(1));
      case Atom::debruijn:
        return debruijn(place, a.count(0));
      case Atom::smallworld:
        return smallworld(place, a.count(0), a.real(1), a.seed(2));
      case Atom::strided:
        return strided(place, a.count(0));
      case Atom::logsparse:
        return logsparse(place);
      case Atom::axial:
        return axial(place, a.count(0), a.count(1));
      case Atom::grid:
        return grid(place, a.count(0), a.count(1), a.count(2));
      case Atom::diffuser:
        return diffuser(place, a);
      case Atom::diffuser_ref:
        return diffuser_ref(place, a.count(0));
      case Atom::longformer:
        return pair(clipped, window(clipped, a.count(0), 1, false), first_global(clipped, a.count(1)));
      case Atom::bigbird:
        return bigbird(place, a.count(0), a.count(1), a.seed(2));
      case Atom::exphormer:
        return triple(clipped, regular(clipped, a.count(0), a.seed(2)), window(clipped, 0, 1, false),
                      first_global(clipped, a.count(1)));
      case Atom::lift: {
        const Offset b = capped(a.count(1), std::max({place.n_rows, place.n_cols, Offset{1}}));
        const Place coarse = super_tokens(place, b);
        return lift(place, graph_of(a.expr(0), coarse.n_rows, coarse.n_cols, place.clip), b);
      }
      case Atom::sym: {
        place.want_square("sym");
        const Graph graph = graph_of(a.expr(0), place.n_rows, place.n_cols, place.clip);
        return from_graph(symmetrised(graph));
      }
      case Atom::t:
        return from_graph(graph_of(a.expr(0), place.n_cols, place.n_rows, place.clip).transpose());
      case Atom::hops:
        place.want_square("hops");
        return hops(place, graph_of(a.expr(0), place.n_rows, place.n_cols, place.clip), a.count(1));
      case Atom::file:
        return read(place, a.text(0));
    }
    place.fail(fmt::format("{} is not known here", expr.spec->name));
  }

  Source read(const Place& place, const std::string& path) const {
    Graph graph = load_file(place.column, path, options_);
    if (graph.n_rows() != place.n_rows || graph.n_cols() != place.n_cols) {
      place.fail(fmt::format("file \"{}\" holds a graph of {} x {}, the pattern is on {} x {} tokens", path,
                             graph.n_rows(), graph.n_cols(), place.n_rows, place.n_cols));
    }
    return from_graph(std::move(graph));
  }

  const PatternOptions& options_;
};

}  // namespace

Source compile(const Expr& expr, Offset n_rows, Offset n_cols, const PatternOptions& options, bool clip) {
  return Compiler(options).compile(expr, n_rows, n_cols, clip);
}

}  // namespace manyhop::patterns
