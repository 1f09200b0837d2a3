// Graphs from arrays: checked once, here, so that everything else may trust them.
#include "manyhop/graphs/graph.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph_internal.hpp"

namespace manyhop {

using detail::accumulate_offsets;
using detail::at;
using detail::kRowGrain;

namespace {

void require_sizes(Offset n_rows, Offset n_cols) {
  if (n_rows < 0 || n_cols < 0 || n_rows > kMaxVertices || n_cols > kMaxVertices) {
    throw ValueError(
        fmt::format("graph: size {} x {} is outside 0 .. {} on an axis", n_rows, n_cols, kMaxVertices));
  }
}

}  // namespace

Graph Graph::from_csr(Offset n_rows, Offset n_cols, std::vector<Offset> indptr, std::vector<Index> indices,
                      std::vector<double> weights) {
  require_sizes(n_rows, n_cols);
  const auto m = static_cast<Offset>(indices.size());
  if (static_cast<Offset>(indptr.size()) != n_rows + 1) {
    throw ValueError(
        fmt::format("indptr: {} entries for {} rows, {} wanted", indptr.size(), n_rows, n_rows + 1));
  }
  if (indptr.front() != 0) throw ValueError(fmt::format("indptr[0]: {}, 0 wanted", indptr.front()));
  for (Offset i = 0; i < n_rows; ++i) {
    if (indptr[at(i) + 1] < indptr[at(i)]) {
      throw ValueError(fmt::format("indptr[{}]: {} is below indptr[{}] = {}, offsets may not decrease", i + 1,
                                   indptr[at(i) + 1], i, indptr[at(i)]));
    }
  }
  if (indptr.back() != m) {
    throw ValueError(fmt::format("indptr[{}]: {} but there are {} indices", n_rows, indptr.back(), m));
  }
  if (!weights.empty() && static_cast<Offset>(weights.size()) != m) {
    throw ValueError(fmt::format("weights: {} entries for {} edges", weights.size(), m));
  }
  // Each chunk keeps its first bad row, so the reported entry does not depend on the threads.
  const Offset chunks = (n_rows + kRowGrain - 1) / kRowGrain;
  std::vector<std::string> bad(at(chunks));
  parallel_for(chunks, [&](Offset chunk) {
    for (Offset i = chunk * kRowGrain; i < std::min(n_rows, (chunk + 1) * kRowGrain); ++i) {
      for (Offset e = indptr[at(i)]; e < indptr[at(i) + 1]; ++e) {
        const Offset column = indices[at(e)];
        std::string& text = bad[at(chunk)];
        if (column < 0 || column >= n_cols) {
          text = fmt::format("indices[{}] (row {}): column {} is outside 0 .. {}", e, i, column, n_cols - 1);
        } else if (e > indptr[at(i)] && column <= indices[at(e) - 1]) {
          text = fmt::format("indices[{}] (row {}): column {} after {}, columns of a row must increase", e, i,
                             column, indices[at(e) - 1]);
        } else if (!weights.empty() && !std::isfinite(weights[at(e)])) {
          text =
              fmt::format("weights[{}] (row {}, column {}): {} is not finite", e, i, column, weights[at(e)]);
        } else {
          continue;
        }
        return;
      }
    }
  });
  for (const std::string& text : bad) {
    if (!text.empty()) throw ValueError(text);
  }
  auto data = std::make_shared<Data>();
  data->n_rows = n_rows;
  data->n_cols = n_cols;
  data->indptr = std::move(indptr);
  data->indices = std::move(indices);
  data->weights = std::move(weights);
  data->row_offsets = {0, n_rows};
  data->col_offsets = {0, n_cols};
  return Graph(std::move(data));
}

Graph Graph::from_edges(Offset n_rows, Offset n_cols, std::span<const Index> rows,
                        std::span<const Index> cols, std::span<const double> weights) {
  require_sizes(n_rows, n_cols);
  if (rows.size() != cols.size()) {
    throw ValueError(fmt::format("edges: {} rows but {} columns", rows.size(), cols.size()));
  }
  if (!weights.empty() && weights.size() != rows.size()) {
    throw ValueError(fmt::format("edges: {} weights for {} edges", weights.size(), rows.size()));
  }
  for (std::size_t e = 0; e < rows.size(); ++e) {
    if (rows[e] < 0 || rows[e] >= n_rows) {
      throw ValueError(fmt::format("edge {}: row {} is outside 0 .. {}", e, rows[e], n_rows - 1));
    }
    if (cols[e] < 0 || cols[e] >= n_cols) {
      throw ValueError(fmt::format("edge {}: column {} is outside 0 .. {}", e, cols[e], n_cols - 1));
    }
    if (!weights.empty() && !std::isfinite(weights[e])) {
      throw ValueError(fmt::format("edge {}: weight {} is not finite", e, weights[e]));
    }
  }
  // Two stable sorts, by column and then by row, bring edges into CSR order and keep input order of
  // duplicates. Both count, but for a few edges among many columns.
  const std::size_t m = rows.size();
  constexpr Offset kTwoArrays = 2 * sizeof(Offset);
  detail::require_memory("rows of a graph", n_rows,
                         2 * kTwoArrays);  // half of the memory is left for the rest
  std::vector<Offset> order(m);
  if (at(n_cols) / 16 > m) {
    std::iota(order.begin(), order.end(), Offset{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Offset a, Offset b) { return cols[at(a)] < cols[at(b)]; });
  } else {
    std::vector<Offset> by_column(at(n_cols) + 1);
    for (const Index c : cols) ++by_column[at(c) + 1];
    accumulate_offsets(by_column);
    for (std::size_t e = 0; e < m; ++e) order[at(by_column[at(cols[e])]++)] = static_cast<Offset>(e);
  }
  std::vector<Offset> indptr(at(n_rows) + 1);
  for (const Index r : rows) ++indptr[at(r) + 1];
  accumulate_offsets(indptr);
  std::vector<Offset> next(indptr);
  std::vector<Offset> sorted(m);
  for (const Offset e : order) sorted[at(next[at(rows[at(e)])]++)] = e;
  std::vector<Offset>().swap(order);

  std::vector<Index> indices;
  indices.reserve(m);
  std::vector<double> merged;
  if (!weights.empty()) merged.reserve(m);
  std::vector<Offset>& merged_indptr = next;
  merged_indptr[0] = 0;
  for (Offset i = 0; i < n_rows; ++i) {
    const std::size_t start = indices.size();
    for (Offset s = indptr[at(i)]; s < indptr[at(i) + 1]; ++s) {
      const auto e = at(sorted[at(s)]);
      if (indices.size() > start && indices.back() == cols[e]) {
        if (!weights.empty()) merged.back() += weights[e];
      } else {
        indices.push_back(cols[e]);
        if (!weights.empty()) merged.push_back(weights[e]);
      }
    }
    merged_indptr[at(i) + 1] = static_cast<Offset>(indices.size());
  }
  return from_csr(n_rows, n_cols, std::move(merged_indptr), std::move(indices), std::move(merged));
}

Graph Graph::from_runs(Offset n_rows, Offset n_cols, std::vector<Offset> run_indptr, std::vector<Run> runs) {
  require_sizes(n_rows, n_cols);
  if (static_cast<Offset>(run_indptr.size()) != n_rows + 1 || run_indptr.front() != 0 ||
      run_indptr.back() != static_cast<Offset>(runs.size())) {
    throw ValueError(fmt::format(
        "run_indptr: {} offsets for {} rows and {} runs, {} offsets from 0 to the number of runs are wanted",
        run_indptr.size(), n_rows, runs.size(), n_rows + 1));
  }
  for (Offset i = 0; i < n_rows; ++i) {
    if (run_indptr[at(i) + 1] < run_indptr[at(i)]) {
      throw ValueError(
          fmt::format("run_indptr[{}]: {} is below run_indptr[{}] = {}, offsets may not decrease", i + 1,
                      run_indptr[at(i) + 1], i, run_indptr[at(i)]));
    }
  }
  auto data = std::make_shared<Data>();
  data->n_rows = n_rows;
  data->n_cols = n_cols;
  data->indptr.assign(at(n_rows) + 1, 0);
  const Offset chunks = (n_rows + kRowGrain - 1) / kRowGrain;
  std::vector<std::string> bad(at(chunks));
  std::atomic<bool> touching{false};
  parallel_for(chunks, [&](Offset chunk) {
    for (Offset i = chunk * kRowGrain; i < std::min(n_rows, (chunk + 1) * kRowGrain); ++i) {
      Offset count = 0;
      Index last = 0;
      for (Offset r = run_indptr[at(i)]; r < run_indptr[at(i) + 1]; ++r) {
        const Run run = runs[at(r)];
        if (run.begin < last || run.end <= run.begin || run.end > n_cols) {
          bad[at(chunk)] = fmt::format(
              "runs[{}] (row {}): [{}, {}) is not a run of columns at or after {} and within {} columns", r,
              i, run.begin, run.end, last, n_cols);
          return;
        }
        if (r > run_indptr[at(i)] && run.begin == last) touching.store(true, std::memory_order_relaxed);
        last = run.end;
        count += run.end - run.begin;
      }
      data->indptr[at(i) + 1] = count;
    }
  });
  for (const std::string& text : bad) {
    if (!text.empty()) throw ValueError(text);
  }
  accumulate_offsets(data->indptr);
  if (touching) {  // runs are kept maximal: hash and equality read them
    std::size_t kept = 0;
    Offset first = 0;
    for (Offset i = 0; i < n_rows; ++i) {
      const std::size_t row_start = kept;
      for (Offset r = first; r < run_indptr[at(i) + 1]; ++r) {
        if (kept > row_start && runs[kept - 1].end == runs[at(r)].begin) {
          runs[kept - 1].end = runs[at(r)].end;
        } else {
          runs[kept++] = runs[at(r)];
        }
      }
      first = std::exchange(run_indptr[at(i) + 1], static_cast<Offset>(kept));
    }
    runs.resize(kept);
  }
  data->run_indptr = std::move(run_indptr);
  data->runs = std::move(runs);
  data->implicit = true;
  data->row_offsets = {0, n_rows};
  data->col_offsets = {0, n_cols};
  // Runs take 8 bytes and an indptr entry a row, edges 4: below a sixteenth the edges are not worth writing.
  const Offset m = data->indptr.back();
  if (m < (Offset{1} << 16) || static_cast<Offset>(data->runs.size()) * 2 + n_rows * 2 > m / 16) {
    data->write_indices();
    data->implicit = false;
    std::vector<Offset>().swap(data->run_indptr);
    std::vector<Run>().swap(data->runs);
  }
  return Graph(std::move(data));
}

Graph batch(std::span<const Graph> items) {
  std::vector<Offset> row_offsets{0};
  std::vector<Offset> col_offsets{0};
  bool weighted = false;
  for (const Graph& item : items) {
    row_offsets.push_back(row_offsets.back() + item.n_rows());
    col_offsets.push_back(col_offsets.back() + item.n_cols());
    weighted = weighted || item.weighted();
  }
  require_sizes(row_offsets.back(), col_offsets.back());
  std::vector<Offset> run_indptr{0};
  std::vector<Run> runs;
  std::vector<double> weights;
  for (std::size_t s = 0; s < items.size(); ++s) {
    const auto shift = static_cast<Index>(col_offsets[s]);
    for (Offset i = 0; i < items[s].n_rows(); ++i) {
      items[s].for_each_run(i, [&](Run run) { runs.push_back({run.begin + shift, run.end + shift}); });
      run_indptr.push_back(static_cast<Offset>(runs.size()));
    }
    if (items[s].weighted()) {
      weights.insert(weights.end(), items[s].weights().begin(), items[s].weights().end());
    } else if (weighted) {  // beside weighted items an edge without a weight counts 1
      weights.resize(weights.size() + at(items[s].nnz()), 1.0);
    }
  }
  Graph joined =
      Graph::from_runs(row_offsets.back(), col_offsets.back(), std::move(run_indptr), std::move(runs));
  if (!weights.empty()) joined = joined.with_weights(std::move(weights));
  // Nobody else holds the new graph yet.
  auto& data = const_cast<Graph::Data&>(*joined.data_);
  data.row_offsets = std::move(row_offsets);
  data.col_offsets = std::move(col_offsets);
  data.source = items.empty() ? Source::matrix : items.front().source();
  return joined;
}

}  // namespace manyhop
