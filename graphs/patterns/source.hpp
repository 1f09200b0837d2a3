// Row sources: what an expression compiles to. A source gives the sorted runs of one row at a time, so set
// algebra never enumerates `full`, `causal` or a complement; global atoms are built once and then serve rows.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/patterns/syntax.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::patterns {

struct Source {
  /// Runs of row i, appended to an empty list.
  std::function<void(Offset, RunList&)> row;
  /// Upper bounds over all rows; decide whether building fits into memory.
  double runs = 0;
  double edges = 0;
  /// Multigraph atoms: the graph with its multiplicities as weights, for an atom that stands alone.
  std::function<Graph()> alone;
  /// Global atoms: the graph itself, weights included.
  std::optional<Graph> graph;
};

/// Where an atom stands: sizes, options, and the column for messages.
struct Place {
  Offset n_rows = 0;
  Offset n_cols = 0;
  std::size_t column = 1;
  const PatternOptions* options = nullptr;
  bool clip = false;  // counts above the columns are cut

  bool square() const { return n_rows == n_cols; }
  [[noreturn]] void fail(std::string_view message) const { fail_at(column, message); }
  void want_square(std::string_view name) const;
  /// count when it is at most `most`; with clip, `most`; else an error with both numbers.
  Offset fit(std::uint64_t count, Offset most, std::string_view what, std::string_view of) const;
};

/// min(count, cap) without overflow; for radii and steps beyond the tokens.
Offset capped(std::uint64_t count, Offset cap);

/// Streams of one seed: one fixed constant for each use, never to be reused or renumbered.
enum Stage : std::uint32_t {
  kStageRandom = 101,
  kStageRandomCausal = 102,
  kStageGlobal = 103,
  kStageRegularPairing = 104,
  kStageRegularSwitch = 105,
  kStageSmallworld = 106
};

// Row-local atoms (local.cpp).
Source window(const Place& place, std::uint64_t r, std::uint64_t step, bool ring);
Source overlap(const Place& place, std::uint64_t b, std::uint64_t s);
Source full(const Place& place);
Source causal(const Place& place);
Source global(const Place& place, std::vector<Index> ids);
Source strided(const Place& place, std::uint64_t s);
Source logsparse(const Place& place);
Source axial(const Place& place, std::uint64_t h, std::uint64_t w);
Source grid(const Place& place, std::uint64_t h, std::uint64_t w, std::uint64_t r);

// Random atoms (random.cpp, regular.cpp, smallworld.cpp).
Source random(const Place& place, std::uint64_t k, std::uint64_t seed, bool causal);
/// k distinct numbers below n, sorted.
std::vector<Index> draw_distinct(Offset n, Offset k, std::uint64_t seed, std::uint32_t stage,
                                 std::uint64_t index);
Source regular(const Place& place, std::uint64_t d, std::uint64_t seed);
Source smallworld(const Place& place, std::uint64_t k, double p, std::uint64_t seed);

// Expanders (expanders.cpp, lps.cpp).
bool is_prime(std::uint64_t n);
Source hypercube(const Place& place);
Source paley(const Place& place);
Source margulis(const Place& place);
Source chordal(const Place& place);
Source debruijn(const Place& place, std::uint64_t k);
Source lps(const Place& place, std::uint64_t p, std::uint64_t q);
/// `n = 7 is not WHAT; 5 and 13 fit`: the nearest sizes below and above that fit.
std::string misfit(std::string_view name, Offset n, std::string_view what,
                   const std::function<bool(Offset)>& fits);
/// Vertices of lps(p, q); throws ValueError for p, q that make no such graph.
Offset lps_size(std::size_t column, std::uint64_t p, std::uint64_t q);

// The reference code's edges (reference.cpp).
Source diffuser_ref(const Place& place, std::uint64_t max_len);

// Operators on sources (operators.cpp).
Source unite_all(const Place& place, std::vector<Source> parts, std::string signs);
Source intersect_all(const Place& place, std::vector<Source> parts);
Source lift(const Place& place, const Graph& base, Offset b);
Source hops(const Place& place, Graph graph, std::uint64_t k);
Source from_graph(Graph graph);
/// columns(i, out) gives the sorted columns of row i with repetition, `degree` of them.
Source from_multigraph(const Place& place, Offset degree,
                       const std::function<void(Offset, std::vector<Index>&)>& columns);
/// file("path"), with the edge-list options of the pattern. "-" is refused at `column`.
Graph load_file(std::size_t column, const std::string& path, const PatternOptions& options);
/// The graph of a source: edges, or runs where those are far fewer. Refuses what would not fit into memory.
Graph build(const Place& place, const Source& source);
/// Throws LimitError when `bytes` pass the options' memory limit (half of the machine's memory by default).
void require_memory(const Place& place, double bytes, std::string_view what);

/// The source of an expression (compile.cpp).
Source compile(const Expr& expr, Offset n_rows, Offset n_cols, const PatternOptions& options, bool clip);

/// A run list borrowed from this thread for the length of a scope, so that rows allocate nothing.
class Borrowed {
 public:
  Borrowed();
  ~Borrowed();
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  RunList& operator*() { return list_; }
  RunList* operator->() { return &list_; }

 private:
  RunList list_;
};

}  // namespace manyhop::patterns
