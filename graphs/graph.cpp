#include "manyhop/graphs/graph.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph_internal.hpp"
#include "manyhop/graphs/runs.hpp"

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

std::uint64_t mix(std::uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

}  // namespace

void detail::require_memory(const char* what, Offset count, Offset each) {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGE_SIZE);
  if (pages <= 0 || page <= 0) return;
  const Offset memory = static_cast<Offset>(pages) * static_cast<Offset>(page);
  if (count > memory / each) {
    throw LimitError(fmt::format("{}: {} entries of {} bytes do not fit the {} bytes of memory here", what,
                                 count, each, memory));
  }
}

void Graph::Data::write_indices() const {
  std::call_once(once, [this] {
    detail::require_memory("indices of an implicit graph", indptr.back(), sizeof(Index));
    // In steps, for gigabytes of zeros are seconds without an ear for the stop flag.
    constexpr std::size_t step = std::size_t{1} << 25;
    const std::size_t total = at(indptr.back());
    indices.reserve(total);
    fetch_large_pages(indices.data(), total * sizeof(Index));
    while (indices.size() < total) {
      check_stop();
      indices.resize(std::min(total, indices.size() + step));
    }
    parallel_ranges(n_rows, kRowGrain, [this](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        Index* out = indices.data() + indptr[at(i)];
        for (Offset r = run_indptr[at(i)]; r < run_indptr[at(i) + 1]; ++r) {
          for (Index c = runs[at(r)].begin; c < runs[at(r)].end; ++c) *out++ = c;
        }
      }
    });
    written = true;
  });
}

Graph::Graph() {
  auto data = std::make_shared<Data>();
  data->indptr = {0};
  data->row_offsets = {0, 0};
  data->col_offsets = {0, 0};
  data_ = std::move(data);
}

Graph::Graph(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

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

Offset Graph::n_rows() const { return data_->n_rows; }
Offset Graph::n_cols() const { return data_->n_cols; }
Offset Graph::nnz() const { return data_->indptr.back(); }
bool Graph::weighted() const { return !data_->weights.empty(); }
bool Graph::implicit() const { return data_->implicit && !data_->written.load(std::memory_order_acquire); }
std::span<const Offset> Graph::indptr() const { return data_->indptr; }
std::span<const double> Graph::weights() const { return data_->weights; }
std::span<const Offset> Graph::row_offsets() const { return data_->row_offsets; }
std::span<const Offset> Graph::col_offsets() const { return data_->col_offsets; }
const std::string& Graph::text() const { return data_->text; }
Source Graph::source() const { return data_->source; }
Offset Graph::degree(Offset i) const { return data_->indptr[at(i) + 1] - data_->indptr[at(i)]; }

std::span<const Index> Graph::indices() const {
  if (data_->implicit) data_->write_indices();
  return data_->indices;
}

std::span<const Index> Graph::row(Offset i) const {
  if (data_->implicit) data_->write_indices();
  return explicit_row(i);
}

std::span<const Index> Graph::explicit_row(Offset i) const {
  return {data_->indices.data() + data_->indptr[at(i)], at(degree(i))};
}

Graph::Runs Graph::run_storage() const {
  if (!data_->implicit) return {nullptr, nullptr};
  return {data_->run_indptr.data(), data_->runs.data()};
}

Graph Graph::rows(Offset i, Offset j) const {
  if (i < 0 || j < i || j > n_rows()) {
    throw ValueError(fmt::format("rows: {} .. {} is not a range within 0 .. {}", i, j, n_rows()));
  }
  if (!data_->weights.empty() || !data_->implicit) {
    const Offset first = data_->indptr[at(i)];
    const Offset last = data_->indptr[at(j)];
    auto data = std::make_shared<Data>();
    data->n_rows = j - i;
    data->n_cols = n_cols();
    data->indptr.assign(data_->indptr.begin() + i, data_->indptr.begin() + j + 1);
    for (Offset& offset : data->indptr) offset -= first;
    data->indices.assign(data_->indices.begin() + first, data_->indices.begin() + last);
    if (weighted()) data->weights.assign(data_->weights.begin() + first, data_->weights.begin() + last);
    data->source = data_->source;
    data->row_offsets = {0, j - i};
    data->col_offsets = {0, n_cols()};
    return Graph(std::move(data));
  }
  std::vector<Offset> run_indptr(data_->run_indptr.begin() + i, data_->run_indptr.begin() + j + 1);
  const Offset first = run_indptr.front();
  std::vector<Run> runs(data_->runs.begin() + first, data_->runs.begin() + run_indptr.back());
  for (Offset& offset : run_indptr) offset -= first;
  return from_runs(j - i, n_cols(), std::move(run_indptr), std::move(runs)).labelled("", data_->source);
}

Graph Graph::without_weights() const {
  if (!weighted()) return *this;
  auto data = std::make_shared<Data>(*data_);
  data->weights.clear();
  return Graph(std::move(data));
}

Graph Graph::with_weights(std::vector<double> weights) const {
  if (static_cast<Offset>(weights.size()) != nnz()) {
    throw ValueError(fmt::format("weights: {} entries for {} edges", weights.size(), nnz()));
  }
  const auto bad = std::find_if(weights.begin(), weights.end(), [](double w) { return !std::isfinite(w); });
  if (bad != weights.end())
    throw ValueError(fmt::format("weights[{}]: {} is not finite", bad - weights.begin(), *bad));
  auto data = std::make_shared<Data>(*data_);
  if (data->implicit) {
    data->write_indices();
    data->implicit = false;
    std::vector<Offset>().swap(data->run_indptr);
    std::vector<Run>().swap(data->runs);
  }
  data->weights = std::move(weights);
  if (data->source == Source::pattern) {  // whose own weights are multiplicities, which these are not
    data->source = Source::matrix;
    data->text.clear();
  }
  return Graph(std::move(data));
}

Graph Graph::labelled(std::string text, Source source) const {
  auto data = std::make_shared<Data>(*data_);
  data->text = std::move(text);
  data->source = source;
  return Graph(std::move(data));
}

std::uint64_t Graph::hash() const {
  const Offset chunks = (n_rows() + kRowGrain - 1) / kRowGrain;
  std::vector<std::uint64_t> parts(at(chunks));
  parallel_for(chunks, [&](Offset chunk) {
    std::uint64_t sum = 0;
    for (Offset i = chunk * kRowGrain; i < std::min(n_rows(), (chunk + 1) * kRowGrain); ++i) {
      std::uint64_t row_hash = mix(static_cast<std::uint64_t>(i) + 0x9E3779B97F4A7C15U);
      for_each_run(i, [&](Run run) {
        const std::uint64_t word =
            (static_cast<std::uint64_t>(run.begin) << 32) | static_cast<std::uint32_t>(run.end);
        row_hash = mix(row_hash ^ word) + 0x9E3779B97F4A7C15U;
      });
      sum += mix(row_hash);
    }
    parts[at(chunk)] = sum;
  });
  const std::uint64_t sizes =
      mix(static_cast<std::uint64_t>(n_rows())) * 3 + mix(static_cast<std::uint64_t>(n_cols()) + 1);
  return mix(std::accumulate(parts.begin(), parts.end(), sizes));
}

std::string Graph::hash_text() const { return fmt::format("{:016x}", hash()); }

std::size_t Graph::bytes() const {
  const Data& d = *data_;
  std::size_t total = d.indptr.size() * sizeof(Offset) + d.weights.size() * sizeof(double) +
                      d.run_indptr.size() * sizeof(Offset) + d.runs.size() * sizeof(Run);
  if (!d.implicit || d.written.load(std::memory_order_acquire)) total += d.indices.size() * sizeof(Index);
  if (d.transpose_built) total += d.transposed->bytes();
  return total;
}

bool Graph::same_edges(const Graph& other) const {
  if (data_ == other.data_) return true;
  if (n_rows() != other.n_rows() || n_cols() != other.n_cols() || nnz() != other.nnz()) return false;
  if (!std::equal(indptr().begin(), indptr().end(), other.indptr().begin())) return false;
  RunList mine;
  RunList theirs;
  for (Offset i = 0; i < n_rows(); ++i) {
    mine.clear();
    theirs.clear();
    for_each_run(i, [&](Run run) { mine.push_back(run); });
    other.for_each_run(i, [&](Run run) { theirs.push_back(run); });
    if (mine != theirs) return false;
  }
  return true;
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
