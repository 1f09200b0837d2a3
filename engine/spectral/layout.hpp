// The edges of a graph laid out for products with a vector: long runs of neighbouring columns as differences
// of prefix sums, columns that nearly all rows have as one sum, and the rest as 16-bit column numbers within
// blocks of columns whose entries of x stay in L1 or L2. Found from the structure, never from a pattern's
// name.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop::spectral {

class Layout {
 public:
  /// Cost O(n + m), O(n + runs) for an implicit graph; parallel.
  explicit Layout(Graph graph);

  /// Sums of x over the columns of each row: row(i, sum) is called once for every row, by chunks in parallel.
  /// `scratch` is reused from call to call.   Cost O(n + stored()).
  template <class F>
  void sums(const double* x, std::vector<double>& scratch, F&& row) const {
    sums_of(x, x, scratch, row);
  }
  /// The same, where single edges read x in single precision, and a row's up to 32 columns of a block are
  /// added up in it.
  template <class F>
  void sums(const double* x, const float* rounded, std::vector<double>& scratch, F&& row) const {
    sums_of(x, rounded, scratch, row);
  }
  /// Whether single precision pays: there are many columns, and rows are long enough for what rounding adds
  /// to average out.
  bool wants_rounded() const {
    return !by_runs_ && graph_.n_cols() > kRoundedColumns && singles_ >= kRoundedRow * graph_.n_rows();
  }

  /// Numbers read a product beside the vectors: runs and single edges.
  Offset stored() const { return stored_; }
  /// Edges that no run and no common column covers.
  Offset singles() const { return singles_; }

 private:
  struct Group {
    std::uint32_t rows = 0, columns = 0;  // each of `rows` has so many columns
  };
  struct Chunk {
    Offset begin = 0, end = 0;            // rows
    std::vector<std::uint32_t> run_ends;  // a row, into runs
    std::vector<Run> runs;
    // Block by block, rows by their number of columns there: loops of one length at a time are foreseen.
    std::vector<Group> groups;
    std::vector<std::uint32_t> group_ends;  // a block, into groups
    std::vector<std::uint16_t> order;       // rows of the groups
    std::vector<std::uint16_t> columns;
    std::vector<char> common;      // a row: the common columns are added
    std::vector<Index> less_rows;  // and these edges taken off again
    std::vector<Index> less_columns;
  };
  /// Prefix sums within pieces of x, and of whole pieces, both without the common columns; the sum over them.
  struct Prefix {
    const double* within = nullptr;
    const double* pieces = nullptr;
    double common = 0;
    double over(Run run) const {
      return (within[run.end] - within[run.begin]) +
             (pieces[run.end >> kPieceBits] - pieces[run.begin >> kPieceBits]);
    }
  };
  // Reading x in single precision: 61 s against 75 s for both ends of 2^20 tokens of diffuser(64,64,64),
  // where blocks come from L2. In blocks for L1 it is the sums of a visit in single precision that gain: 1.24
  // ms a product of 65536 rows with 128 single edges against 1.39 in double, and 1.65 where what is read is
  // widened first. Gather instructions take 1.2 to 1.3 times as long there.
  static constexpr Offset kRoundedColumns = 32768;  // more of them than this, and ...
  static constexpr Offset kRoundedRow = 64;         // ... as many single edges a row: products may round x
  static constexpr int kPieceBits = 10;             // short pieces keep the sums small and so their rounding

  void find_common();
  void choose_block();
  void fill(Chunk& chunk) const;
  Prefix prefix(const double* x, std::vector<double>& scratch) const;
  template <class X, class F>
  void sums_of(const double* x, const X* singles, std::vector<double>& scratch, F&& row) const;
  template <class X>
  void chunk_sums(const Chunk& chunk, const double* x, const X* singles, const Prefix& prefix,
                  double* sums) const;
  void for_chunks(const std::function<void(const Chunk&)>& body) const;

  Graph graph_;
  std::vector<Index> common_;  // columns, increasing
  std::vector<char> is_common_;
  std::vector<Chunk> chunks_;
  int block_bits_ = 0;    // columns of a block, as a power of two
  bool by_runs_ = false;  // implicit graphs: every run by prefix sums
  bool any_runs_ = false;
  Offset stored_ = 0, singles_ = 0;
};

template <class X, class F>
void Layout::sums_of(const double* x, const X* singles, std::vector<double>& scratch, F&& row) const {
  const Prefix made = prefix(x, scratch);
  for_chunks([&](const Chunk& chunk) {
    thread_local std::vector<double> own;
    own.resize(static_cast<std::size_t>(chunk.end - chunk.begin));
    chunk_sums(chunk, x, singles, made, own.data());
    for (Offset i = chunk.begin; i < chunk.end; ++i) row(i, own[static_cast<std::size_t>(i - chunk.begin)]);
  });
}

}  // namespace manyhop::spectral
