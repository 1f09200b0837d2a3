#include "manyhop/engine/spectral/twins.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <unordered_map>
#include <utility>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kGrain = 1024;  // rows of a chunk

std::uint64_t mix(std::uint64_t x) {  // the finaliser of splitmix64
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

/// Numbers equal keys by their first place; empty when there are more than `most` of them.
std::vector<Index> numbered(const std::vector<std::uint64_t>& keys, Offset most, std::vector<Index>& first) {
  std::unordered_map<std::uint64_t, Index> seen;
  std::vector<Index> label(keys.size());
  first.clear();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto [place, fresh] = seen.emplace(keys[i], static_cast<Index>(first.size()));
    if (fresh) first.push_back(static_cast<Index>(i));
    if (static_cast<Offset>(first.size()) > most) return {};
    label[i] = place->second;
  }
  return label;
}

bool same_row(const Graph& graph, Offset a, Offset b, RunList& left, RunList& right) {
  if (graph.degree(a) != graph.degree(b)) return false;
  left.clear();
  right.clear();
  graph.for_each_run(a, [&](Run run) { left.push_back(run); });
  graph.for_each_run(b, [&](Run run) { right.push_back(run); });
  return left == right;
}

/// Whether every vertex has the row of its class.
bool rows_agree(const Graph& graph, const std::vector<Index>& label, const std::vector<Index>& first) {
  std::atomic<bool> agree{true};
  parallel_ranges(graph.n_rows(), kGrain, [&](Offset begin, Offset end) {
    RunList left, right;
    for (Offset i = begin; i < end && agree.load(std::memory_order_relaxed); ++i) {
      const Offset other = first[at(label[at(i)])];
      if (other != i && !same_row(graph, i, other, left, right)) agree = false;
    }
  });
  return agree;
}

}  // namespace

std::optional<Twins> find_twins(const Graph& graph) {
  const Offset n = graph.n_rows();
  if (n < 2) return std::nullopt;
  std::vector<std::uint64_t> before(at(n) + 1);  // of a column, summed
  for (Offset j = 0; j < n; ++j) before[at(j) + 1] = before[at(j)] + mix(static_cast<std::uint64_t>(j));
  std::vector<std::uint64_t> keys(at(n));
  parallel_ranges(n, kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i)
      graph.for_each_run(i, [&](Run run) { keys[at(i)] += before[at(run.end)] - before[at(run.begin)]; });
  });
  std::vector<Index> first;
  std::vector<Index> label = numbered(keys, n / 2, first);
  if (label.empty() || !rows_agree(graph, label, first)) return std::nullopt;

  // A column is a set of classes of rows now: classes are split by it.
  std::vector<std::uint64_t> change(at(n) + 1);
  for (std::size_t c = 0; c < first.size(); ++c)
    graph.for_each_run(first[c], [&](Run run) {
      change[at(run.begin)] += mix(c);
      change[at(run.end)] -= mix(c);
    });
  std::uint64_t column = 0;
  for (std::size_t j = 0; j < keys.size(); ++j) {
    column += change[j];
    keys[j] = mix(keys[j]) ^ mix(column + 1);
  }
  label = numbered(keys, n / 2, first);
  if (label.empty() || !rows_agree(graph, label, first)) return std::nullopt;

  Twins twins;
  twins.sizes.assign(first.size(), 0.0);
  for (const Index c : label) twins.sizes[at(c)] += 1;
  // A row holds all columns of a class or none.
  std::vector<std::vector<Index>> rows(first.size());
  std::atomic<bool> whole{true};
  parallel_ranges(static_cast<Offset>(first.size()), 64, [&](Offset begin, Offset end) {
    std::vector<Index> found;
    for (Offset c = begin; c < end; ++c) {
      found.clear();
      graph.for_each_run(first[at(c)], [&](Run run) {
        for (Index j = run.begin; j < run.end; ++j) found.push_back(label[at(j)]);
      });
      std::sort(found.begin(), found.end());
      for (std::size_t e = 0; e < found.size();) {
        std::size_t last = e;
        while (last < found.size() && found[last] == found[e]) ++last;
        if (static_cast<double>(last - e) != twins.sizes[at(found[e])]) whole = false;
        rows[at(c)].push_back(found[e]);
        e = last;
      }
    }
  });
  if (!whole) return std::nullopt;
  const auto count = static_cast<Offset>(first.size());
  twins.base = build_rows(count, count, [&](Offset c, RunList& out) { append_columns(out, rows[at(c)]); });
  twins.label = std::move(label);
  return twins;
}

}  // namespace manyhop::spectral
