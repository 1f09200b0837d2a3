#pragma once

// How a graph is stored; for the sources that make and turn graphs.

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop {

struct Graph::Data {
  Offset n_rows = 0;
  Offset n_cols = 0;
  std::vector<Offset> indptr;
  // Explicit storage; for an implicit graph it is written under `once`.
  mutable std::vector<Index> indices;
  std::vector<double> weights;
  // Implicit storage.
  bool implicit = false;
  std::vector<Offset> run_indptr;
  std::vector<Run> runs;
  mutable std::once_flag once;
  mutable std::atomic<bool> written{false};

  std::string text;
  Source source = Source::matrix;
  std::vector<Offset> row_offsets;
  std::vector<Offset> col_offsets;

  mutable std::once_flag transpose_once;
  mutable std::atomic<bool> transpose_built{false};
  mutable std::unique_ptr<Graph> transposed;
  mutable std::once_flag mirror_once;
  mutable bool mirrors = false;
  Data() = default;
  Data(const Data& other)
      : n_rows(other.n_rows),
        n_cols(other.n_cols),
        indptr(other.indptr),
        // The edges of an implicit graph may be being written by another thread; a copy writes its own.
        indices(other.implicit ? std::vector<Index>() : other.indices),
        weights(other.weights),
        implicit(other.implicit),
        run_indptr(other.run_indptr),
        runs(other.runs),
        text(other.text),
        source(other.source),
        row_offsets(other.row_offsets),
        col_offsets(other.col_offsets) {}
  Data& operator=(const Data&) = delete;
  ~Data() = default;

  // The columns of an implicit graph, once, whoever asks first.
  void write_indices() const;
};

namespace detail {

inline constexpr Offset kRowGrain = 1024;

inline std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Exclusive prefix sum of counts held at [1 .. n].
inline void accumulate_offsets(std::vector<Offset>& indptr) {
  for (std::size_t i = 1; i < indptr.size(); ++i) indptr[i] += indptr[i - 1];
}

/// Refuses an array that cannot fit this machine before it is allocated: an overcommitting system would grant
/// it and end the process later.
void require_memory(const char* what, Offset count, Offset each);

}  // namespace detail

}  // namespace manyhop
