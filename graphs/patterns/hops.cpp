// hops(expr, k): breadth-first search from each row on runs.
#include <algorithm>
#include <bit>
#include <memory>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

constexpr double kSampledRuns = 1 << 20;  // claimed for a row: large sizes are then judged by sampled rows

// Unions of 2, 4, 8, ... neighbouring rows, as long as a level halves (nearly) the runs of the one below: a
// frontier that is one long run costs a few look-ups (window, causal, full) and the levels stay small.
class RangeUnions {
 public:
  explicit RangeUnions(Graph graph) : graph_(std::move(graph)) {
    Level rows;
    rows.indptr.push_back(0);
    for (Offset i = 0; i < graph_.n_rows(); ++i) {
      graph_.for_each_run(i, [&](Run run) { rows.runs.push_back(run); });
      rows.indptr.push_back(static_cast<Offset>(rows.runs.size()));
    }
    levels_.push_back(std::move(rows));
    RunList joined;
    while (levels_.back().indptr.size() > 2) {
      check_stop();
      const Level& below = levels_.back();
      const Offset blocks = static_cast<Offset>(below.indptr.size()) / 2;
      Level level;
      level.indptr.push_back(0);
      for (Offset b = 0; b < blocks; ++b) {
        unite(below.of(2 * b), below.of(2 * b + 1), joined);
        level.runs.insert(level.runs.end(), joined.begin(), joined.end());
        level.indptr.push_back(static_cast<Offset>(level.runs.size()));
        if (level.runs.size() > below.runs.size() / 4 * 3 + 1) return;
      }
      levels_.push_back(std::move(level));
    }
  }

  /// Appends the runs of rows begin .. end - 1, in no order.
  void collect(Run rows, RunList& out) const {
    for (Offset begin = rows.begin; begin < rows.end;) {
      std::size_t height = 0;
      while (height + 1 < levels_.size() && begin % (Offset{2} << height) == 0 &&
             begin + (Offset{2} << height) <= rows.end) {
        ++height;
      }
      const auto runs = levels_[height].of(begin >> height);
      out.insert(out.end(), runs.begin(), runs.end());
      begin += Offset{1} << height;
    }
  }

 private:
  struct Level {
    std::vector<Offset> indptr;
    RunList runs;
    std::span<const Run> of(Offset block) const {
      if (block + 1 >= static_cast<Offset>(indptr.size())) return {};
      const auto begin = static_cast<std::size_t>(indptr[static_cast<std::size_t>(block)]);
      const auto end = static_cast<std::size_t>(indptr[static_cast<std::size_t>(block) + 1]);
      return {runs.data() + begin, end - begin};
    }
  };
  Graph graph_;
  std::vector<Level> levels_;
};

// Sorts and joins; many runs on few columns go through a bit for each column.
void normalise(RunList& runs, Offset n, RunList& out) {
  out.clear();
  if (static_cast<Offset>(runs.size()) < n / 64 + 16) {
    std::sort(runs.begin(), runs.end(), [](Run a, Run b) { return a.begin < b.begin; });
    for (const Run run : runs) append_run(out, run);
    return;
  }
  thread_local std::vector<std::uint64_t> bits;
  bits.assign(static_cast<std::size_t>(n / 64 + 1), 0);
  for (const Run run : runs) {
    for (Offset j = run.begin; j < run.end;) {
      const Offset stop = std::min<Offset>(run.end, (j / 64 + 1) * 64);
      const auto length = static_cast<int>(stop - j);
      bits[static_cast<std::size_t>(j / 64)] |= (~std::uint64_t{0} >> (64 - length)) << (j % 64);
      j = stop;
    }
  }
  for (std::size_t w = 0; w < bits.size(); ++w) {
    std::uint64_t word = bits[w];
    while (word != 0) {
      const int begin = std::countr_zero(word);
      const int length = std::countr_one(word >> begin);
      const auto first = static_cast<Offset>(w * 64) + begin;
      append_run(out, {static_cast<Index>(first), static_cast<Index>(first + length)});
      word &= begin + length == 64 ? 0 : ~std::uint64_t{0} << (begin + length);
    }
  }
}

}  // namespace

Source hops(const Place& place, Graph graph, std::uint64_t k) {
  if (k == 1) return from_graph(graph.without_weights());
  const Offset n = place.n_cols;
  const auto unions = std::make_shared<const RangeUnions>(std::move(graph));
  Source source;
  source.edges = static_cast<double>(n) * static_cast<double>(n);
  source.runs = static_cast<double>(n) * std::min(static_cast<double>(n) / 2 + 1, kSampledRuns);
  source.row = [unions, n, k](Offset i, RunList& out) {
    Borrowed found;
    Borrowed next;
    Borrowed frontier;
    Borrowed joined;
    frontier->push_back({static_cast<Index>(i), static_cast<Index>(i + 1)});
    for (std::uint64_t step = 0; step < k && !frontier->empty(); ++step) {
      check_stop();
      found->clear();
      for (const Run run : *frontier) unions->collect(run, *found);
      normalise(*found, n, *next);
      subtract(*next, out, *frontier);
      unite(out, *next, *joined);
      out.swap(*joined);
      if (out.size() == 1 && out[0] == Run{0, static_cast<Index>(n)}) return;
    }
  };
  return source;
}

}  // namespace manyhop::patterns
