#include "manyhop/engine/ppr.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <memory>
#include <mutex>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

constexpr Offset kPollArcs = Offset{1} << 16;
constexpr Offset kSeedCost = 64;  // vertices of an array that a seed may pay for

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

void check(const Graph& graph, std::span<const Offset> seeds, const PprOptions& o) {
  if (!graph.square()) {
    throw ValueError(
        fmt::format("graph: {} x {}, ppr wants as many rows as columns", graph.n_rows(), graph.n_cols()));
  }
  if (!(o.teleport > 0 && o.teleport <= 1))
    throw ValueError(fmt::format("teleport: {} is outside of (0, 1]", o.teleport));
  if (!(o.tol > 0) || !std::isfinite(o.tol))
    throw ValueError(fmt::format("tol: {} is not a finite number above 0", o.tol));
  if (o.topk && *o.topk < 1) throw ValueError(fmt::format("topk: {}, at least 1 is wanted", *o.topk));
  if (o.normalization == Normalization::none)
    throw ValueError("normalization: none has no walk to follow, expected col, row or sym");
  if (o.dangling == Dangling::uniform)
    throw ValueError("dangling: uniform would reach every vertex, expected zero, self or restart");
  if (o.normalization == Normalization::sym && o.dangling != Dangling::zero)
    throw ValueError("dangling: normalization sym knows only zero");
  for (std::size_t s = 0; s < seeds.size(); ++s) {
    if (seeds[s] >= 0 && seeds[s] < graph.n_rows()) continue;
    throw ValueError(
        fmt::format("seeds[{}]: vertex {} of a graph of {} vertices", s, seeds[s], graph.n_rows()));
  }
}

// Vertices that mass has reached, in the order in which it did. Their places are looked up in a hash table,
// or, where there are enough seeds to pay for it, in an array over all vertices: that takes a third of the
// time.
class Reached {
 public:
  struct Cell {
    double score = 0;
    double residual = 0;
    double enough = 0;  // residuals up to here stay
    Index vertex = 0;
    bool waiting = false;
  };

  /// vertices > 0: an array over so many.
  explicit Reached(Offset vertices) : slots_(at(vertices), kFree), by_vertex_(vertices > 0) {}

  void clear() {
    if (by_vertex_) {
      for (const Cell& cell : cells_) slots_[at(cell.vertex)] = kFree;
    } else {
      slots_.clear();
    }
    cells_.clear();
  }
  /// The place of a vertex; `added` where it is new.
  std::size_t place(Index vertex, bool& added) {
    if (!by_vertex_ && 2 * (cells_.size() + 1) > slots_.size()) grow();
    std::size_t slot = at(vertex);
    if (!by_vertex_) {
      slot = first_slot(vertex);
      while (slots_[slot] != kFree && cells_[at(slots_[slot])].vertex != vertex)
        slot = (slot + 1) & (slots_.size() - 1);
    }
    added = slots_[slot] == kFree;
    if (added) {
      slots_[slot] = static_cast<Index>(cells_.size());
      cells_.push_back({.vertex = vertex});
    }
    return at(slots_[slot]);
  }
  Cell& operator[](std::size_t place) { return cells_[place]; }
  const std::vector<Cell>& cells() const { return cells_; }
  std::size_t bytes() const { return cells_.capacity() * sizeof(Cell) + slots_.capacity() * sizeof(Index); }

 private:
  static constexpr Index kFree = -1;

  std::size_t first_slot(Index vertex) const {
    // Fibonacci hashing: neighbouring vertices fall far apart.
    const std::uint64_t mixed = static_cast<std::uint64_t>(vertex) * 0x9E3779B97F4A7C15U;
    return static_cast<std::size_t>(mixed >> (64 - std::countr_zero(slots_.size())));
  }
  void grow() {
    slots_.assign(std::max<std::size_t>(64, 2 * slots_.size()), kFree);
    for (std::size_t c = 0; c < cells_.size(); ++c) {
      std::size_t slot = first_slot(cells_[c].vertex);
      while (slots_[slot] != kFree) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<Index>(c);
    }
  }

  std::vector<Cell> cells_;
  std::vector<Index> slots_;
  bool by_vertex_;
};

// One Reached for each thread that works.
class ReachedPool {
 public:
  explicit ReachedPool(Offset vertices) : vertices_(vertices) {}

  template <class F>
  void borrow(F&& f) {
    std::unique_ptr<Reached> mine;
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        mine = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (!mine) mine = std::make_unique<Reached>(vertices_);
    f(*mine);
    mine->clear();
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(mine));
  }

 private:
  Offset vertices_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Reached>> idle_;
};

struct SeedRow {
  std::vector<std::pair<Index, double>> scores;
  double bound = 0;
  Offset visited = 0;
};

class Push {
 public:
  Push(const Graph& graph, const PprOptions& options)
      : arcs_(options.normalization == Normalization::row ? graph : graph.transpose()), o_(options) {
    if (o_.normalization == Normalization::sym && !graph.equals_transpose())
      throw ValueError("normalization: sym wants a symmetric graph, this one is not; expected col or row");
  }

  /// Nothing when the walk holds more than `limit` bytes.
  std::optional<SeedRow> run(Index seed, Reached& reached, std::size_t limit) const {
    std::vector<std::size_t> now;
    std::vector<std::size_t> next;
    SeedRow row;
    const auto add = [&](Index vertex, double mass) {
      bool added = false;
      const std::size_t place = reached.place(vertex, added);
      Reached::Cell& cell = reached[place];
      if (added) cell.enough = o_.tol * static_cast<double>(std::max<Offset>(1, arcs_.degree(vertex)));
      cell.residual += mass;
      if (cell.waiting || !(cell.residual > cell.enough)) return;
      cell.waiting = true;
      next.push_back(place);
    };
    add(seed, 1);
    // The seed always passes its mass on, or a hub would come back empty.
    if (next.empty()) next.push_back(0);
    const double a = o_.teleport;
    Offset polled = 0;
    while (!next.empty()) {
      std::swap(now, next);
      next.clear();
      if (reached.bytes() > limit) return std::nullopt;
      for (const std::size_t place : now) {
        Reached::Cell& cell = reached[place];
        const Index vertex = cell.vertex;
        const double mass = std::exchange(cell.residual, 0.0);
        cell.waiting = false;
        const Offset degree = arcs_.degree(vertex);
        row.visited += degree;
        polled += degree + 1;
        if (polled >= kPollArcs) {
          check_stop();
          polled = 0;
        }
        const Degree arcs = degree_of(vertex);
        if (arcs.total > 0) {
          cell.score += a * mass;
          pass_on(vertex, (1 - a) * mass, arcs, add);
          continue;
        }
        const bool stays =
            o_.dangling == Dangling::self || (o_.dangling == Dangling::restart && vertex == seed);
        cell.score += stays ? mass : a * mass;
        if (o_.dangling == Dangling::restart && !stays) add(seed, (1 - a) * mass);
      }
    }
    if (reached.bytes() > limit) return std::nullopt;  // by its size alone, whatever the last step added
    collect(reached, seed, row);
    return row;
  }

 private:
  [[noreturn]] void negative(Index from, Index to, double weight) const {
    const bool against = o_.normalization == Normalization::row;
    throw ValueError(fmt::format("weights: entry (row {}, column {}) is {}, a walk wants 0 or more",
                                 against ? from : to, against ? to : from, weight));
  }

  const double* weights_of(Index vertex) const { return arcs_.weights().data() + arcs_.indptr()[at(vertex)]; }

  // Sum of the weights of the arcs of a vertex over the largest: huge and tiny weights are the same.
  struct Degree {
    double total = 0;
    double most = 1;
  };
  Degree degree_of(Index vertex) const {
    if (!arcs_.weighted()) return {static_cast<double>(arcs_.degree(vertex)), 1};
    const auto columns = arcs_.row(vertex);
    const double* weight = weights_of(vertex);
    Degree degree{0, 0};
    for (std::size_t e = 0; e < columns.size(); ++e) {
      if (weight[e] < 0) negative(vertex, columns[e], weight[e]);
      degree.most = std::max(degree.most, weight[e]);
    }
    for (std::size_t e = 0; e < columns.size() && degree.most > 0; ++e)
      degree.total += weight[e] / degree.most;
    return degree;
  }

  template <class Add>
  void pass_on(Index vertex, double mass, Degree degree, const Add& add) const {
    if (mass == 0) return;
    const double share = mass / degree.total;
    if (!arcs_.weighted()) {
      arcs_.for_each_run(vertex, [&](Run run) {
        for (Index to = run.begin; to < run.end; ++to) add(to, share);
      });
      return;
    }
    const auto columns = arcs_.row(vertex);
    const double* weight = weights_of(vertex);
    for (std::size_t e = 0; e < columns.size(); ++e) {
      if (weight[e] > 0) add(columns[e], share * (weight[e] / degree.most));
    }
  }

  // The walk of D^-1/2 A D^-1/2 is that of A D^-1 between two diagonals: sqrt(d(seed) / d(vertex)).
  static double scale(Degree seed, Degree vertex) {
    return std::sqrt(seed.total / vertex.total * (seed.most / vertex.most));
  }

  void collect(const Reached& reached, Index seed, SeedRow& row) const {
    const bool two = o_.normalization == Normalization::sym;
    const auto size = [&](double value) { return two ? value * value : value; };
    const Degree own = two ? degree_of(seed) : Degree{};
    double left = 0;
    for (const Reached::Cell& cell : reached.cells()) {
      const double factor = two && cell.vertex != seed ? scale(own, degree_of(cell.vertex)) : 1;
      if (cell.residual != 0) left += size(cell.residual * factor);  // the factor may be infinite
      if (cell.score > 0) row.scores.emplace_back(cell.vertex, cell.score * factor);
    }
    double dropped = 0;
    if (o_.topk && *o_.topk < static_cast<Offset>(row.scores.size())) {
      const auto end = row.scores.begin() + *o_.topk;
      std::nth_element(row.scores.begin(), end, row.scores.end(), [](const auto& x, const auto& y) {
        return x.second != y.second ? x.second > y.second : x.first < y.first;
      });
      std::sort(end, row.scores.end());
      for (auto rest = end; rest != row.scores.end(); ++rest) dropped += size(rest->second);
      row.scores.erase(end, row.scores.end());
    }
    std::sort(row.scores.begin(), row.scores.end());
    row.bound = two ? std::sqrt(left) + std::sqrt(dropped) : left + dropped;
  }

  const Graph& arcs_;  // row u: where u's mass goes
  const PprOptions& o_;
};

}  // namespace

PprResult ppr(const Context& ctx, const Graph& graph, std::span<const Offset> seeds,
              const PprOptions& options) {
  require_host_backend(ctx, "ppr");
  const ThreadScope scope(ctx.threads, ctx.stop);
  check(graph, seeds, options);
  const Push push(graph, options);
  const auto count = static_cast<Offset>(seeds.size());
  // Half of the limit is for walks, half for their scores. Walks that go on at the same time share theirs;
  // one that wants more than its share waits until it can have all of it, so that what is refused does not
  // depend on the number of threads.
  const std::size_t limit = ctx.limit() / 2;
  const auto walks = static_cast<std::size_t>(std::clamp<Offset>(count, 1, thread_count()));
  const std::size_t share = limit / walks;
  const auto array_within = [&](std::size_t bytes) -> Offset {
    const bool fits = at(graph.n_rows()) * sizeof(Index) <= bytes / 2;
    return fits && graph.n_rows() <= kSeedCost * count ? graph.n_rows() : 0;
  };
  std::vector<SeedRow> rows(seeds.size());
  std::vector<char> waits(seeds.size());
  std::atomic<std::size_t> held{0};
  std::atomic<Offset> done{0};
  const auto keep = [&](Offset s, SeedRow&& found) {
    SeedRow& row = rows[at(s)];
    row = std::move(found);
    row.scores.shrink_to_fit();
    // Each score is held twice for a moment: by its row and in the result.
    const std::size_t bytes = row.scores.size() * (sizeof(row.scores[0]) + sizeof(Index) + sizeof(double));
    const std::size_t so_far = held += bytes;
    if (so_far > limit) {
      throw LimitError(fmt::format(
          "memory limit: the scores of {} seeds pass {} bytes, half of the limit; topk or a larger "
          "tol keep less",
          count, limit));
    }
    if (ctx.progress) ctx.progress("ppr", static_cast<double>(++done) / static_cast<double>(count));
  };
  {
    ReachedPool pool(array_within(share));
    parallel_for(count, [&](Offset s) {
      std::optional<SeedRow> found;
      pool.borrow([&](Reached& reached) {
        found = push.run(static_cast<Index>(seeds[at(s)]), reached, share);
        if (!found) reached = Reached(0);  // of its size it would pass the share of the next one
      });
      if (found) {
        keep(s, std::move(*found));
      } else {
        waits[at(s)] = 1;
      }
    });
  }
  for (Offset s = 0; s < count; ++s) {
    if (waits[at(s)] == 0) continue;
    Reached alone(array_within(limit));
    auto found = push.run(static_cast<Index>(seeds[at(s)]), alone, limit);
    if (!found) {
      throw LimitError(
          fmt::format("memory limit: the walk from vertex {} holds {} bytes, {} are allowed (half of the "
                      "limit); a larger tol reaches less",
                      seeds[at(s)], alone.bytes(), limit));
    }
    keep(s, std::move(*found));
  }
  PprResult result;
  result.indptr.push_back(0);
  for (const SeedRow& row : rows)
    result.indptr.push_back(result.indptr.back() + static_cast<Offset>(row.scores.size()));
  result.indices.reserve(at(result.indptr.back()));
  result.values.reserve(at(result.indptr.back()));
  for (const SeedRow& row : rows) {
    for (const auto& [vertex, score] : row.scores) {
      result.indices.push_back(vertex);
      result.values.push_back(score);
    }
    result.bound.push_back(row.bound);
    result.visited.push_back(row.visited);
  }
  return result;
}

}  // namespace manyhop
