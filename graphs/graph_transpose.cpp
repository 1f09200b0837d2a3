// The transpose of a graph, from edges and from runs.
#include <algorithm>
#include <utility>

#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph_internal.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop {

using detail::accumulate_offsets;
using detail::at;
using detail::kRowGrain;

const Graph& Graph::transpose() const {
  std::call_once(data_->transpose_once, [this] {
    auto built = std::make_unique<Graph>(data_->implicit ? transposed_runs() : transposed_edges());
    // Nobody else holds the new graph, so its labels may still change without a copy of its arrays.
    auto& data = const_cast<Data&>(*built->data_);
    data.source = data_->source;
    data.row_offsets = data_->col_offsets;
    data.col_offsets = data_->row_offsets;
    data_->transposed = std::move(built);
    data_->transpose_built = true;
  });
  return *data_->transposed;
}

bool Graph::equals_transpose() const {
  std::call_once(data_->mirror_once, [this] {
    const Graph& other = transpose();
    const auto mine = weights();
    data_->mirrors = same_edges(other) &&
                     std::equal(mine.begin(), mine.end(), other.weights().begin(), other.weights().end());
  });
  return data_->mirrors;
}

// Chunks of rows count their columns, then each knows where its edges go: the order of a serial pass, for any
// number of threads.
Graph Graph::transposed_edges() const {
  const auto columns = indices();
  constexpr Offset kMostChunks = 16;
  const Offset chunks = std::clamp<Offset>(nnz() / (4 * n_cols() + 1), 1, kMostChunks);
  std::vector<Offset> border(at(chunks) + 1, n_rows());
  border[0] = 0;
  for (Offset c = 1; c < chunks; ++c) {
    const auto found = std::lower_bound(data_->indptr.begin(), data_->indptr.end(), c * (nnz() / chunks));
    border[at(c)] = std::min<Offset>(found - data_->indptr.begin(), n_rows());
  }
  detail::require_memory("rows of a transpose", n_cols(), 2 * (chunks + 1) * Offset{sizeof(Offset)});
  std::vector<std::vector<Offset>> next(at(chunks));
  parallel_for(chunks, [&](Offset c) {
    auto& count = next[at(c)];
    count.assign(at(n_cols()), 0);
    const Offset last = data_->indptr[at(border[at(c) + 1])];
    for (Offset e = data_->indptr[at(border[at(c)])]; e < last; ++e) ++count[at(columns[at(e)])];
  });
  std::vector<Offset> indptr(at(n_cols()) + 1);
  parallel_ranges(n_cols(), kRowGrain, [&](Offset begin, Offset end) {
    for (Offset j = begin; j < end; ++j) {
      Offset before = 0;
      for (auto& count : next) before += std::exchange(count[at(j)], before);
      indptr[at(j) + 1] = before;
    }
  });
  accumulate_offsets(indptr);
  auto data = std::make_shared<Data>();
  resize_large(data->indices, columns.size());
  resize_large(data->weights, data_->weights.size());
  const bool has_weights = weighted();
  parallel_for(chunks, [&](Offset c) {
    auto& place = next[at(c)];
    for (std::size_t j = 0; j < place.size(); ++j) place[j] += indptr[j];
    // A band of columns at a time, so that the places written to stay in cache and page table.
    const Offset begin = border[at(c)], end = border[at(c) + 1];
    std::vector<Offset> left(data_->indptr.begin() + begin, data_->indptr.begin() + end);
    constexpr Offset kBand = 8192;
    Index* const to = data->indices.data();
    Offset* const slots = place.data();
    for (Offset band = 0; band < n_cols(); band += kBand) {
      check_stop();
      const Offset band_end = std::min(n_cols(), band + kBand);
      for (Offset i = begin; i < end; ++i) {
        Offset e = left[at(i - begin)];
        const Offset last = data_->indptr[at(i) + 1];
        for (; e < last && columns[at(e)] < band_end; ++e) {
          const Offset slot = slots[columns[at(e)]]++;
          to[slot] = static_cast<Index>(i);
          if (has_weights) data->weights[at(slot)] = data_->weights[at(e)];
        }
        left[at(i - begin)] = e;
      }
    }
  });
  data->n_rows = n_cols();
  data->n_cols = n_rows();
  data->indptr = std::move(indptr);
  return Graph(std::move(data));
}

// Row c of the transpose has a run from each row where column c appears to the next row where it is gone;
// only changes between neighbouring rows are visited, so that `causal` costs O(n) and not O(n^2).
Graph Graph::transposed_runs() const {
  std::vector<RunList> mirrored(at(n_cols()));
  RunList previous;
  RunList now;
  RunList changed;
  for (Offset i = 0; i <= n_rows(); ++i) {
    if (i % kRowGrain == 0) check_stop();
    now.clear();
    if (i < n_rows()) for_each_run(i, [&](Run run) { now.push_back(run); });
    subtract(previous, now, changed);
    for (const Run run : changed) {
      for (Index c = run.begin; c < run.end; ++c) mirrored[at(c)].back().end = static_cast<Index>(i);
    }
    subtract(now, previous, changed);
    for (const Run run : changed) {
      for (Index c = run.begin; c < run.end; ++c) mirrored[at(c)].push_back({static_cast<Index>(i), 0});
    }
    std::swap(previous, now);
  }
  return build_rows(n_cols(), n_rows(), [&](Offset c, RunList& out) { out.swap(mirrored[at(c)]); });
}

}  // namespace manyhop
