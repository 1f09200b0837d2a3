#include "manyhop/graphs/graph.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph_internal.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop {

using detail::at;
using detail::kRowGrain;

namespace {

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

}  // namespace manyhop
