// Operators on sources, and a source made into a graph.
#include <fmt/format.h>

#include <algorithm>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/machine.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

constexpr std::size_t kKeptLists = 64;
constexpr std::size_t kKeptCapacity = std::size_t{1} << 16;

std::vector<RunList>& spare_lists() {
  thread_local std::vector<RunList> lists;
  return lists;
}

double limit_of(const Place& place) {
  const std::size_t limit = place.options != nullptr ? place.options->memory_limit : 0;
  return static_cast<double>(limit > 0 ? limit : half_of_memory());
}

// Bytes while rows become a graph: runs twice, and the edges where they are written out.
double building_bytes(double rows, double runs, double edges) {
  const bool written = runs * 2 + rows * 2 > edges / 16;
  return rows * 24 + runs * 16 + (written ? edges * 4 : 0);
}

}  // namespace

Borrowed::Borrowed() {
  auto& lists = spare_lists();
  if (!lists.empty()) {
    list_ = std::move(lists.back());
    lists.pop_back();
  }
  list_.clear();
}

Borrowed::~Borrowed() {
  auto& lists = spare_lists();
  if (lists.size() < kKeptLists && list_.capacity() <= kKeptCapacity) lists.push_back(std::move(list_));
}

void require_memory(const Place& place, double bytes, std::string_view what) {
  const double limit = limit_of(place);
  const auto text = [](double size) {
    return size < 1e6 ? fmt::format("{:.0f} bytes", size) : fmt::format("{:.3g} GB", size / 1e9);
  };
  if (bytes > limit) {
    throw LimitError(
        fmt::format("pattern, column {}: {} on {} x {} tokens takes about {}, the memory limit is {}",
                    place.column, what, place.n_rows, place.n_cols, text(bytes), text(limit)));
  }
}

Source unite_all(const Place& place, std::vector<Source> parts, std::string signs) {
  Source source;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    source.runs += parts[p].runs;
    if (signs[p] == '|') source.edges += parts[p].edges;
  }
  source.edges =
      std::min(source.edges, static_cast<double>(place.n_rows) * static_cast<double>(place.n_cols));
  source.row = [parts = std::move(parts), signs = std::move(signs)](Offset i, RunList& out) {
    Borrowed next;
    Borrowed joined;
    parts[0].row(i, out);
    for (std::size_t p = 1; p < parts.size(); ++p) {
      next->clear();
      parts[p].row(i, *next);
      if (next->empty()) continue;
      if (signs[p] == '|') {
        unite(out, *next, *joined);
      } else {
        subtract(out, *next, *joined);
      }
      out.swap(*joined);
    }
  };
  return source;
}

Source intersect_all(const Place& place, std::vector<Source> parts) {
  Source source;
  source.edges = static_cast<double>(place.n_rows) * static_cast<double>(place.n_cols);
  for (const Source& part : parts) {
    source.runs += part.runs;
    source.edges = std::min(source.edges, part.edges);
  }
  source.runs = std::min(source.runs, source.edges);
  source.row = [parts = std::move(parts)](Offset i, RunList& out) {
    Borrowed next;
    Borrowed met;
    parts[0].row(i, out);
    for (std::size_t p = 1; p < parts.size() && !out.empty(); ++p) {
      next->clear();
      parts[p].row(i, *next);
      intersect(out, *next, *met);
      out.swap(*met);
    }
  };
  return source;
}

Source from_graph(Graph graph) {
  Source source;
  source.edges = static_cast<double>(graph.nnz());
  source.runs = source.edges;
  if (graph.implicit()) {
    source.runs = 0;
    for (Offset i = 0; i < graph.n_rows(); ++i) graph.for_each_run(i, [&](Run) { source.runs += 1; });
  }
  source.row = [graph](Offset i, RunList& out) {
    graph.for_each_run(i, [&](Run run) { out.push_back(run); });
  };
  source.graph = std::move(graph);
  return source;
}

Source lift(const Place& place, const Graph& base, Offset b) {
  Source source = from_graph(base);
  source.graph.reset();
  source.runs *= static_cast<double>(b);
  source.edges *= static_cast<double>(b) * static_cast<double>(b);
  source.row = [base, b, n = place.n_cols](Offset i, RunList& out) {
    base.for_each_run(i / b, [&](Run run) {
      const Offset begin = run.begin * b;
      const Offset end = std::min(run.end * b, n);
      append_run(out, {static_cast<Index>(begin), static_cast<Index>(end)});
    });
  };
  return source;
}

namespace {

// A multigraph with its multiplicities as weights; without weights when all of them are 1.
Graph build_multi(const Place& place, double edges,
                  const std::function<void(Offset, std::vector<Index>&)>& columns_of) {
  require_memory(place, static_cast<double>(place.n_rows) * 8 + edges * 24, "the multigraph");
  constexpr Offset kGrain = 256;
  const Offset chunks = (place.n_rows + kGrain - 1) / kGrain;
  std::vector<std::vector<Index>> columns(static_cast<std::size_t>(chunks));
  std::vector<std::vector<double>> weights(static_cast<std::size_t>(chunks));
  std::vector<Offset> indptr(static_cast<std::size_t>(place.n_rows) + 1);
  parallel_for(chunks, [&](Offset chunk) {
    auto& own = columns[static_cast<std::size_t>(chunk)];
    auto& counts = weights[static_cast<std::size_t>(chunk)];
    std::vector<Index> row;
    for (Offset i = chunk * kGrain; i < std::min(place.n_rows, (chunk + 1) * kGrain); ++i) {
      row.clear();
      columns_of(i, row);
      const std::size_t before = own.size();
      for (const Index column : row) {
        if (own.size() > before && own.back() == column) {
          counts.back() += 1;
        } else {
          own.push_back(column);
          counts.push_back(1);
        }
      }
      indptr[static_cast<std::size_t>(i) + 1] = static_cast<Offset>(own.size() - before);
    }
  });
  for (std::size_t i = 1; i < indptr.size(); ++i) indptr[i] += indptr[i - 1];
  std::vector<Index> indices;
  std::vector<double> all;
  indices.reserve(static_cast<std::size_t>(indptr.back()));
  all.reserve(static_cast<std::size_t>(indptr.back()));
  for (std::size_t c = 0; c < columns.size(); ++c) {
    indices.insert(indices.end(), columns[c].begin(), columns[c].end());
    all.insert(all.end(), weights[c].begin(), weights[c].end());
  }
  const bool simple = std::all_of(all.begin(), all.end(), [](double w) { return w == 1; });
  if (simple) all.clear();
  return Graph::from_csr(place.n_rows, place.n_cols, std::move(indptr), std::move(indices), std::move(all));
}

// The bounds of a source are sums over its parts and may be far above the truth: before refusing, look at
// rows spread over the whole range.
void require_rows_fit(const Place& place, const Source& source) {
  const auto rows = static_cast<double>(place.n_rows);
  const double bytes = building_bytes(rows, source.runs, source.edges);
  constexpr double kLargestSample = 1 << 21;
  if (bytes <= limit_of(place) || rows == 0) return;
  if (rows * 24 > limit_of(place) || source.runs / rows > kLargestSample) {
    require_memory(place, bytes, fmt::format("a pattern of up to {:.3g} edges", source.edges));
  }
  constexpr Offset kSamples = 16;
  double runs = 0;
  double edges = 0;
  RunList row;
  for (Offset s = 0; s < kSamples; ++s) {
    check_stop();
    row.clear();
    source.row((place.n_rows - 1) * s / (kSamples - 1), row);
    runs += static_cast<double>(row.size());
    for (const Run run : row) edges += static_cast<double>(run.end - run.begin);
  }
  runs *= rows / kSamples;
  edges *= rows / kSamples;
  require_memory(place, building_bytes(rows, runs, edges),
                 fmt::format("a pattern of about {:.3g} edges", edges));
}

}  // namespace

Graph build(const Place& place, const Source& source) {
  if (source.graph) return *source.graph;
  if (source.alone) return source.alone();
  require_rows_fit(place, source);
  return build_rows(place.n_rows, place.n_cols, source.row);
}

Source from_multigraph(const Place& place, Offset degree,
                       const std::function<void(Offset, std::vector<Index>&)>& columns) {
  Source source;
  source.edges = static_cast<double>(place.n_rows) * static_cast<double>(degree);
  source.runs = source.edges;
  source.row = [columns](Offset i, RunList& out) {
    thread_local std::vector<Index> row;
    row.clear();
    columns(i, row);
    append_columns(out, row);
  };
  source.alone = [place, edges = source.edges, columns] { return build_multi(place, edges, columns); };
  return source;
}

}  // namespace manyhop::patterns
