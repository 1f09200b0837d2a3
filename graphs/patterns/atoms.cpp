// The table of atoms: names, parameters, defaults.
#include "manyhop/graphs/patterns/syntax.hpp"

namespace manyhop::patterns {

namespace {

Parameter count(std::string_view name, std::uint64_t least = 0) {
  return {name, Type::count, true, least, 0};
}
Parameter count_or(std::string_view name, std::int64_t fallback, std::uint64_t least = 0) {
  return {name, Type::count, false, least, fallback};
}
Parameter seed() { return {"seed", Type::seed, false, 0, 0}; }
Parameter flag(std::string_view name) { return {name, Type::flag, false, 0, 0}; }
Parameter expr() { return {"expr", Type::expr, true, 0, 0}; }

std::vector<AtomSpec> make_table() {
  return {
      {"window", Atom::window, {count("r"), count_or("step", 1, 1), flag("ring")}},
      {"overlap", Atom::overlap, {count("b", 1), count("s", 1)}},
      {"block", Atom::block, {count("b", 1)}},
      {"self", Atom::self, {}},
      {"full", Atom::full, {}},
      {"causal", Atom::causal, {}},
      {"global",
       Atom::global,
       {{"k", Type::maybe_count, false, 0, 0},
        {"seed", Type::maybe_seed, false, 0, 0},
        {"ids", Type::ids, false, 0, 0}}},
      {"random", Atom::random, {count("k"), seed(), flag("causal")}},
      {"regular", Atom::regular, {count("d"), seed()}},
      {"hypercube", Atom::hypercube, {}},
      {"paley", Atom::paley, {}},
      {"margulis", Atom::margulis, {}},
      {"chordal", Atom::chordal, {}},
      {"lps", Atom::lps, {count("p"), count("q")}},
      {"debruijn", Atom::debruijn, {count("k", 1)}},
      {"smallworld", Atom::smallworld, {count("k"), {"p", Type::real, true, 0, 0}, seed()}},
      {"strided", Atom::strided, {count("s", 1)}},
      {"logsparse", Atom::logsparse, {}},
      {"axial", Atom::axial, {count("h"), count("w")}},
      {"grid", Atom::grid, {count("h"), count("w"), count("r")}},
      {"diffuser",
       Atom::diffuser,
       {count_or("block", 64, 1), count_or("random", 64), count_or("global", 64), seed()}},
      {"diffuser_ref", Atom::diffuser_ref, {count_or("max_len", 4096, 128)}},
      {"longformer", Atom::longformer, {count("r"), count("g")}},
      {"bigbird", Atom::bigbird, {count("b", 1), count("r"), seed()}},
      {"exphormer", Atom::exphormer, {count("d"), count("virtual"), seed()}},
      {"lift", Atom::lift, {expr(), count("b", 1)}},
      {"sym", Atom::sym, {expr()}},
      {"t", Atom::t, {expr()}},
      {"hops", Atom::hops, {expr(), count("k", 1)}},
      {"file", Atom::file, {{"path", Type::text, true, 0, 0}}},
  };
}

}  // namespace

const std::vector<AtomSpec>& atom_table() {
  static const std::vector<AtomSpec> table = make_table();
  return table;
}

const AtomSpec& spec_of(Atom atom) { return atom_table()[static_cast<std::size_t>(atom)]; }

}  // namespace manyhop::patterns
