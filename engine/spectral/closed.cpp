#include "manyhop/engine/spectral/closed.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <numbers>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kGrain = 1024;

/// Whether row i is row 0 moved by i, around the end.
bool is_circulant(const Graph& graph, const RunList& steps) {
  const Offset n = graph.n_rows();
  // Runs of steps that meet around the end count as one.
  const auto inside = [&](Offset begin, Offset end) {
    const auto next = std::upper_bound(steps.begin(), steps.end(), begin,
                                       [](Offset value, const Run& run) { return value < run.begin; });
    return next != steps.begin() && std::prev(next)->end >= end;
  };
  for (Offset i = 1; i < n; ++i) {
    if ((i & 0xFFF) == 0) check_stop();
    if (graph.degree(i) != graph.degree(0)) return false;
    bool same = true;
    graph.for_each_run(i, [&](Run run) {
      if (!same) return;
      const Offset begin = (run.begin - i + n) % n;
      const Offset end = begin + run.end - run.begin;
      same = inside(begin, std::min(end, n)) && (end <= n || inside(0, end - n));
    });
    if (!same) return false;
  }
  return true;
}

ClosedForm circulant(const Graph& graph, const RunList& steps) {
  const Offset n = graph.n_rows();
  const double pi = std::numbers::pi;
  std::vector<double> sine(at(2 * n)), cosine(at(2 * n));  // of pi t / n
  parallel_ranges(2 * n, kGrain, [&](Offset begin, Offset end) {
    for (Offset t = begin; t < end; ++t) {
      const double angle = pi * static_cast<double>(t) / static_cast<double>(n);
      sine[at(t)] = std::sin(angle);
      cosine[at(t)] = std::cos(angle);
    }
  });
  std::vector<double> values(at(n / 2) + 1);  // k and n - k have the same
  parallel_ranges(n / 2 + 1, kGrain / 16, [&](Offset begin, Offset end) {
    for (Offset k = std::max<Offset>(begin, 1); k < end; ++k) {
      double sum = 0;
      for (const Run run : steps) {
        const Offset length = run.end - run.begin;
        const Offset middle = Offset{run.begin} + run.end - 1;  // twice
        const double turn = cosine[at(k * middle % (2 * n))];
        sum += length == 1 ? turn : turn * sine[at(k * length % (2 * n))] / sine[at(k)];
      }
      values[at(k)] = sum;
    }
  });
  ClosedForm result;
  result.method = "circulant (sums of cosines)";
  result.degree = static_cast<double>(graph.degree(0));
  const auto largest = std::max_element(values.begin() + 1, values.end());
  const auto least = std::min_element(values.begin() + 1, values.end());
  result.second = *largest;
  result.last = *least;
  const auto wave = [&](Offset k) {
    std::vector<double> x(at(n));
    for (Offset i = 0; i < n; ++i) x[at(i)] = cosine[at(2 * ((k * i) % n))];
    normalise(x);
    return x;
  };
  result.second_vector = wave(largest - values.begin());
  result.last_vector = wave(least - values.begin());
  return result;
}

std::optional<ClosedForm> hypercube(const Graph& graph) {
  const auto n = static_cast<std::uint64_t>(graph.n_rows());
  if (!std::has_single_bit(n)) return std::nullopt;
  const int bits = std::countr_zero(n);
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    if ((i & 0xFFF) == 0) check_stop();
    if (graph.degree(i) != bits) return std::nullopt;
    bool same = true;
    graph.for_each_run(i, [&](Run run) {
      for (Index j = run.begin; j < run.end && same; ++j)
        same = std::has_single_bit(static_cast<std::uint64_t>(i) ^ static_cast<std::uint64_t>(j));
    });
    if (!same) return std::nullopt;
  }
  ClosedForm result;
  result.method = "hypercube (closed form)";
  result.degree = bits;
  result.second = bits - 2;
  result.last = -bits;
  const double size = 1 / std::sqrt(static_cast<double>(n));
  for (std::uint64_t i = 0; i < n; ++i) {
    result.second_vector.push_back((i & 1) != 0 ? -size : size);
    result.last_vector.push_back(std::popcount(i) % 2 != 0 ? -size : size);
  }
  return result;
}

/// h rows of w vertices, joined within rows and within columns, with loops or without.
std::optional<ClosedForm> rook(const Graph& graph) {
  const Offset n = graph.n_rows();
  Run first{0, 0};
  graph.for_each_run(0, [&](Run run) {
    if (first.end == 0) first = run;
  });
  const Offset w = first.end - 1;  // column w is below column 0
  if (first.begin > 1 || w < 2 || n % w != 0 || n / w < 2) return std::nullopt;
  const Offset h = n / w;
  const Offset loops = first.begin == 0 ? 1 : 0;
  for (Offset i = 0; i < n; ++i) {
    if ((i & 0xFFF) == 0) check_stop();
    if (graph.degree(i) != h + w - 2 + loops) return std::nullopt;
    bool same = true;
    graph.for_each_run(i, [&](Run run) {
      for (Index j = run.begin; j < run.end && same; ++j)
        same = (j / w == i / w || j % w == i % w) && (loops == 1 || j != i);
    });
    if (!same) return std::nullopt;
  }
  ClosedForm result;
  result.method = "rows and columns (closed form)";
  const double taken = loops == 1 ? 1 : 2;
  result.degree = static_cast<double>(h + w) - taken;
  result.second = static_cast<double>(std::max(h, w)) - taken;
  result.last = -taken;
  // Differences of two rows of w, or of two columns of h; and of both.
  result.second_vector.resize(at(n));
  result.last_vector.resize(at(n));
  for (Offset i = 0; i < n; ++i) {
    const auto sign = [](Offset k) { return k == 0 ? 1.0 : k == 1 ? -1.0 : 0.0; };
    result.second_vector[at(i)] = w >= h ? sign(i / w) : sign(i % w);
    result.last_vector[at(i)] = sign(i / w) * sign(i % w);
  }
  normalise(result.second_vector);
  normalise(result.last_vector);
  return result;
}

}  // namespace

std::optional<ProductGraph> product_graph(const Graph& graph) {
  const Offset n = graph.n_rows();
  if (n < 4) return std::nullopt;
  RunList first;
  graph.for_each_run(0, [&](Run run) { first.push_back(run); });
  // Row 0 sees itself first; where it goes on is the next block.
  if (first.size() < 2 || first[0].begin != 0) return std::nullopt;
  const Offset w = first[1].begin;
  if (w < 2 || n % w != 0 || n / w < 2) return std::nullopt;
  const Offset h = n / w;
  ProductGraph result;
  result.outer = build_rows(h, h, [&](Offset a, RunList& out) {
    graph.for_each_run(a * w, [&](Run run) {
      append_run(out, {static_cast<Index>(run.begin / w), static_cast<Index>((run.end - 1) / w + 1)});
    });
  });
  result.inner = build_rows(w, w, [&](Offset b, RunList& out) {
    graph.for_each_run(b, [&](Run run) {
      if (run.begin < w) append_run(out, {run.begin, static_cast<Index>(std::min<Offset>(run.end, w))});
    });
  });
  std::atomic<bool> whole{true};
  parallel_ranges(n, kGrain, [&](Offset begin, Offset end) {
    RunList wanted, given;
    for (Offset i = begin; i < end && whole.load(std::memory_order_relaxed); ++i) {
      if (graph.degree(i) != result.outer.degree(i / w) * result.inner.degree(i % w)) {
        whole = false;
        return;
      }
      wanted.clear();
      given.clear();
      result.outer.for_each_run(i / w, [&](Run blocks) {
        for (Offset c = blocks.begin; c < blocks.end; ++c)
          result.inner.for_each_run(i % w, [&](Run run) {
            append_run(wanted, {static_cast<Index>(c * w + run.begin), static_cast<Index>(c * w + run.end)});
          });
      });
      graph.for_each_run(i, [&](Run run) { given.push_back(run); });
      if (wanted != given) whole = false;
    }
  });
  if (!whole) return std::nullopt;
  return result;
}

std::optional<ClosedForm> closed_form(const Graph& graph) {
  if (graph.n_rows() < 2 || graph.nnz() == 0) return std::nullopt;
  RunList steps;
  graph.for_each_run(0, [&](Run run) { steps.push_back(run); });
  if (is_circulant(graph, steps)) return circulant(graph, steps);
  if (auto found = hypercube(graph)) return found;
  return rook(graph);
}

}  // namespace manyhop::spectral
