// Reach per hop: breadth-first search from 64 rows at once, one bit of a word for each of them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/twins.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kRowStage = 0x52454143;  // draws of rows
constexpr Offset kBits = 64;
constexpr int kMaxHops = 1024;

/// Rows to start from: all, or `count` distinct ones by Floyd's draw, sorted.
std::vector<Index> source_rows(Offset n, Offset count, std::uint64_t seed) {
  std::vector<Index> rows;
  if (count >= n) {
    rows.resize(at(n));
    std::iota(rows.begin(), rows.end(), Index{0});
    return rows;
  }
  CounterRng rng(seed, kRowStage, 0);
  std::vector<char> taken(at(n));
  for (Offset last = n - count; last < n; ++last) {
    auto pick = static_cast<Offset>(rng.below(static_cast<std::uint64_t>(last) + 1));
    if (taken[at(pick)]) pick = last;
    taken[at(pick)] = 1;
  }
  for (Offset i = 0; i < n; ++i)
    if (taken[at(i)]) rows.push_back(static_cast<Index>(i));
  return rows;
}

/// One block of up to 64 rows. Sources flow along the graph, so `sends` (row j: who receives from j) is
/// pulled from: next[v] = reached[v] | OR of reached[u] over rows u that receive from v.
class Block {
 public:
  /// With `sizes` a vertex stands for so many twins, and a source, one of them, for itself alone at first.
  Block(const Graph& graph, const Graph& sends, const std::vector<double>* sizes)
      : graph_(graph), sends_(sends), sizes_(sizes), reached_(at(sends.n_rows())), next_(reached_) {}

  /// counts[hop - 1][bit] = columns reached by source `bit` in at most `hop` steps.
  void run(std::span<const Index> sources, int hops, std::vector<std::vector<Offset>>& counts) {
    std::fill(reached_.begin(), reached_.end(), 0);
    if (sizes_ == nullptr)
      for (std::size_t b = 0; b < sources.size(); ++b) reached_[at(sources[b])] |= std::uint64_t{1} << b;
    counts.assign(static_cast<std::size_t>(hops), std::vector<Offset>(sources.size(), 0));
    bool moved = true;
    all_ = sources.size() == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << sources.size()) - 1;
    for (int hop = 0; hop < hops; ++hop) {
      check_stop();
      if (moved) moved = hop == 0 ? first_step(sources) : step();
      auto& row = counts[static_cast<std::size_t>(hop)];
      if (moved)
        count(sources, row);
      else if (hop > 0)
        row = counts[static_cast<std::size_t>(hop) - 1];
      else
        std::fill(row.begin(), row.end(), Offset{1});
    }
  }

 private:
  /// The rows of the sources tell where one step leads.
  bool first_step(std::span<const Index> sources) {
    std::uint64_t any = 0;
    for (std::size_t b = 0; b < sources.size(); ++b) {
      const std::uint64_t bit = std::uint64_t{1} << b;
      graph_.for_each_run(sources[b], [&](Run run) {
        for (Index j = run.begin; j < run.end; ++j) {
          any |= bit & ~reached_[at(j)];
          reached_[at(j)] |= bit;
        }
      });
    }
    return any != 0;
  }

  bool step() {
    const Offset n = sends_.n_rows();
    std::uint64_t any = 0;
    const bool by_runs = sends_.implicit();
    if (by_runs) build_table();
    for (Offset v = 0; v < n; ++v) {
      if ((v & 0xFFFF) == 0) check_stop();
      std::uint64_t word = reached_[at(v)];
      if (word == all_) {  // nothing is left to reach it
        next_[at(v)] = word;
        continue;
      }
      if (by_runs) {
        sends_.for_each_run(v, [&](Run run) {
          if (word != all_) word |= over(run);
        });
      } else {
        const auto row = sends_.row(v);
        for (std::size_t e = 0; e < row.size() && word != all_;) {
          const std::size_t last = std::min(row.size(), e + 16);
          for (; e < last; ++e) word |= reached_[at(row[e])];
        }
      }
      any |= word ^ reached_[at(v)];
      next_[at(v)] = word;
    }
    reached_.swap(next_);
    return any != 0;
  }

  // OR over a run: words are cut into blocks of 64 with the OR of every prefix and suffix of a block, and a
  // sparse table over whole blocks.
  void build_table() {
    const std::size_t n = reached_.size();
    prefix_.resize(n);
    suffix_.resize(n);
    const std::size_t blocks = (n + 63) / 64;
    table_.assign(1, std::vector<std::uint64_t>(blocks));
    for (std::size_t i = 0; i < n; ++i) prefix_[i] = reached_[i] | (i % 64 == 0 ? 0 : prefix_[i - 1]);
    for (std::size_t i = n; i-- > 0;)
      suffix_[i] = reached_[i] | ((i % 64 == 63 || i + 1 == n) ? 0 : suffix_[i + 1]);
    for (std::size_t b = 0; b < blocks; ++b) table_[0][b] = suffix_[b * 64];
    for (std::size_t width = 1; 2 * width <= blocks; width *= 2) {
      const auto& below = table_.back();
      std::vector<std::uint64_t> level(blocks - 2 * width + 1);
      for (std::size_t b = 0; b < level.size(); ++b) level[b] = below[b] | below[b + width];
      table_.push_back(std::move(level));
    }
  }

  std::uint64_t over(Run run) const {
    const auto begin = at(run.begin);
    const auto last = at(run.end) - 1;
    const std::size_t first_block = begin / 64;
    const std::size_t last_block = last / 64;
    if (first_block == last_block) {
      if (begin % 64 == 0) return prefix_[last];
      std::uint64_t word = 0;
      for (std::size_t i = begin; i <= last; ++i) word |= reached_[i];
      return word;
    }
    std::uint64_t word = suffix_[begin] | prefix_[last];
    if (const std::size_t whole = last_block - first_block - 1; whole > 0) {
      const auto level = static_cast<std::size_t>(std::bit_width(whole)) - 1;
      word |= table_[level][first_block + 1] | table_[level][last_block - (std::size_t{1} << level)];
    }
    return word;
  }

  void count(std::span<const Index> sources, std::vector<Offset>& row) const {
    for (std::size_t v = 0; v < reached_.size(); ++v) {
      const Offset size = sizes_ == nullptr ? 1 : static_cast<Offset>((*sizes_)[v]);
      for (std::uint64_t word = reached_[v]; word != 0; word &= word - 1)
        row[static_cast<std::size_t>(std::countr_zero(word))] += size;
    }
    for (std::size_t b = 0; b < sources.size(); ++b)
      if ((reached_[at(sources[b])] >> b & 1) == 0) ++row[b];  // a twin that came back to none of its class
  }

  const Graph& graph_;
  const Graph& sends_;
  const std::vector<double>* sizes_;
  std::uint64_t all_ = 0;  // every source
  std::vector<std::uint64_t> reached_, next_, prefix_, suffix_;
  std::vector<std::vector<std::uint64_t>> table_;
};

}  // namespace

std::vector<Reach> reach(const Context& ctx, const Graph& graph, int hops, Offset exact_rows,
                         std::uint64_t seed) {
  if (!graph.square())
    throw ValueError("reach wants a square graph, got " + std::to_string(graph.n_rows()) + " x " +
                     std::to_string(graph.n_cols()));
  if (hops < 0 || hops > kMaxHops)
    throw ValueError("hops is " + std::to_string(hops) + " and must be between 0 and " +
                     std::to_string(kMaxHops));
  if (exact_rows < 1)
    throw ValueError("exact_rows is " + std::to_string(exact_rows) + " and must be 1 or more");
  const Offset n = graph.n_rows();
  std::vector<Reach> result(static_cast<std::size_t>(hops));
  for (std::size_t hop = 0; hop < result.size(); ++hop) result[hop].hop = static_cast<int>(hop) + 1;
  if (n == 0 || hops == 0) return result;

  require_backend(ctx, "reach");
  const ThreadScope scope(ctx.threads, ctx.stop);
  // A bit travels from a row to the columns it receives from, so column c looks up the rows that c sends to.
  const auto twins = find_twins(graph);
  const Graph& pulls = twins ? twins->base : graph;
  const Graph& sends = pulls.transpose();
  auto rows = source_rows(n, exact_rows, seed);
  if (twins)
    for (Index& row : rows) row = twins->label[at(row)];
  const auto total = static_cast<Offset>(rows.size());
  const Offset blocks = (total + kBits - 1) / kBits;
  std::vector<std::vector<std::vector<Offset>>> counts(at(blocks));
  parallel_for(blocks, [&](Offset b) {
    const Offset begin = b * kBits;
    const Offset end = std::min(total, begin + kBits);
    Block(pulls, sends, twins ? &twins->sizes : nullptr)
        .run(std::span(rows).subspan(at(begin), at(end - begin)), hops, counts[at(b)]);
  });
  for (std::size_t hop = 0; hop < result.size(); ++hop) {
    Offset sum = 0;
    Offset least = n;
    for (const auto& block : counts)
      for (const Offset count : block[hop]) {
        sum += count;
        least = std::min(least, count);
      }
    result[hop].mean = static_cast<double>(sum) / (static_cast<double>(n) * static_cast<double>(total));
    result[hop].min = static_cast<double>(least) / static_cast<double>(n);
    if (total == n || total < 2) continue;
    double spread = 0;
    for (const auto& block : counts)
      for (const Offset count : block[hop]) {
        const double off = static_cast<double>(count) / static_cast<double>(n) - result[hop].mean;
        spread += off * off;
      }
    result[hop].error = std::sqrt(spread / static_cast<double>(total - 1) / static_cast<double>(total));
  }
  return result;
}

}  // namespace manyhop::spectral
