// A token graph: structure in CSR by row (row = query = receives, column = key = sends) and optional edge
// weights.
//
// A graph is an immutable value; copies share storage. It is stored explicitly (indptr, indices) or, where
// long runs of neighbouring columns make that far smaller (`full`, `causal`, their complements), implicitly
// as runs. Both forms answer the same questions; `indices()` writes an implicit graph's edges on first use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "manyhop/graphs/base/types.hpp"

namespace manyhop {

/// Columns begin .. end - 1 of one row.
struct Run {
  Index begin = 0;
  Index end = 0;
  friend bool operator==(const Run&, const Run&) = default;
};

/// Where the edges of a graph came from; decides what `info` prints as direction.
enum class Source : std::uint8_t { pattern, matrix, arcs };

class Graph {
 public:
  /// The graph without vertices.
  Graph();

  /// Takes CSR arrays as they are: indptr of n_rows + 1 non-decreasing offsets from 0, columns of a row
  /// strictly increasing and below n_cols, weights empty or one for each edge (finite). Throws ValueError
  /// naming the first bad entry.   Cost O(n + m), parallel.
  static Graph from_csr(Offset n_rows, Offset n_cols, std::vector<Offset> indptr, std::vector<Index> indices,
                        std::vector<double> weights = {});

  /// Edges (rows[e] receives from cols[e]) in any order. Duplicates merge; their weights add (in input
  /// order). Throws ValueError naming the first entry out of range.   Cost O(n + m), stable.
  static Graph from_edges(Offset n_rows, Offset n_cols, std::span<const Index> rows,
                          std::span<const Index> cols, std::span<const double> weights = {});

  /// Row i holds the columns of runs[run_indptr[i] .. run_indptr[i + 1]): non-empty, increasing, disjoint
  /// (touching runs are joined). Stored implicitly when the runs are much smaller than the edges, else
  /// written out.
  static Graph from_runs(Offset n_rows, Offset n_cols, std::vector<Offset> run_indptr, std::vector<Run> runs);

  Offset n_rows() const;
  Offset n_cols() const;
  Offset nnz() const;
  bool weighted() const;
  bool implicit() const;  // no indices have been written
  bool square() const { return n_rows() == n_cols(); }

  std::span<const Offset> indptr() const;   // n_rows + 1
  std::span<const Index> indices() const;   // nnz; writes them on first use when implicit
  std::span<const double> weights() const;  // nnz, or empty
  std::span<const Index> row(Offset i) const;
  Offset degree(Offset i) const;

  /// Calls f(Run) for the maximal runs of row i in increasing order; never writes the edges of an implicit
  /// graph.
  template <class F>
  void for_each_run(Offset i, F&& f) const {
    if (const auto [ptr, runs] = run_storage(); ptr != nullptr) {
      for (Offset r = ptr[i]; r < ptr[i + 1]; ++r) f(runs[r]);
      return;
    }
    const auto columns = explicit_row(i);
    for (std::size_t e = 0; e < columns.size();) {
      std::size_t last = e + 1;
      while (last < columns.size() && columns[last] == columns[last - 1] + 1) ++last;
      f(Run{columns[e], columns[last - 1] + 1});
      e = last;
    }
  }

  /// Columns send where rows received; weights follow. Built once and owned by the graph.   Cost O(n + m).
  const Graph& transpose() const;
  /// Whether the transpose has the same edges and weights; found once and kept, as the transpose is.
  bool equals_transpose() const;
  /// Rows i .. j - 1 over the same columns, as in decoding a token at a time.
  Graph rows(Offset i, Offset j) const;
  /// The same structure without weights / with other weights (one for each edge); of a pattern that is a
  /// graph like one from a matrix, no pattern any more.
  Graph without_weights() const;
  Graph with_weights(std::vector<double> weights) const;

  /// 64 bits of sizes and edges: the same on every machine and for explicit and implicit storage. Weights do
  /// not count.
  std::uint64_t hash() const;
  std::string hash_text() const;  // 16 hex digits
  /// Bytes held: structure, weights, and the transpose if it was built.
  std::size_t bytes() const;
  bool same_edges(const Graph& other) const;
  /// Whether one is a copy of the other.
  bool same_storage(const Graph& other) const { return data_ == other.data_; }

  /// The pattern text it was made from (empty for files and arrays), and its origin.
  const std::string& text() const;
  Source source() const;
  Graph labelled(std::string text, Source source) const;

  /// Sequence offsets of a batch (see batch()): rows row_offsets[s] .. row_offsets[s + 1] belong to item s. A
  /// plain graph is one item.
  std::span<const Offset> row_offsets() const;
  std::span<const Offset> col_offsets() const;
  friend Graph batch(std::span<const Graph> items);

 private:
  struct Data;
  explicit Graph(std::shared_ptr<const Data> data);
  struct Runs {
    const Offset* indptr;
    const Run* runs;
  };
  Runs run_storage() const;
  Graph transposed_edges() const;
  Graph transposed_runs() const;
  std::span<const Index> explicit_row(Offset i) const;
  std::shared_ptr<const Data> data_;
};

/// Sequences of unequal length side by side without padding: a block-diagonal graph with offsets.
Graph batch(std::span<const Graph> items);

/// Set algebra on structure (weights are dropped); all three want equal sizes, else ValueError with both.
Graph unite(const Graph& a, const Graph& b);
Graph intersect(const Graph& a, const Graph& b);
Graph subtract(const Graph& a, const Graph& b);
/// Rows of a | a^T; square graphs only.
Graph symmetrised(const Graph& a);

struct DegreeSummary {
  Offset min = 0;
  double mean = 0;
  Offset max = 0;
};
DegreeSummary degrees(const Graph& graph);  // of rows
bool is_symmetric(const Graph& graph);      // structure; square graphs only, else false
Offset self_loop_count(const Graph& graph);
struct Components {
  Offset count = 0;     // weakly connected
  Offset isolated = 0;  // vertices with no edge but, at most, a loop to themselves
  std::vector<Index> label;
};
/// Weak components (square graphs; of a rectangle: of the bipartite graph of rows and columns).   Cost O(n +
/// runs).
Components components(const Graph& graph);

}  // namespace manyhop
