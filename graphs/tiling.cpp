#include "manyhop/graphs/tiling.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

bool is_dense(std::uint32_t mask, int count) { return std::popcount(mask) * kEdgesOfColumn >= count; }

// Short runs of a panel: one mask word for each column and two levels of "which columns have bits".
class ColumnMasks {
 public:
  explicit ColumnMasks(Offset n_cols)
      : mask_(at(n_cols)), words_(at(n_cols / 64 + 1)), summary_(at(n_cols / 4096 + 1)) {}

  void add(Index column, std::uint32_t bit) {
    const auto c = static_cast<std::size_t>(column);
    mask_[c] |= bit;
    words_[c / 64] |= std::uint64_t{1} << (c % 64);
    summary_[c / 4096] |= std::uint64_t{1} << (c / 64 % 64);
  }

  /// Moves all (column, mask) pairs out in increasing column order and leaves everything zero.
  template <class F>
  void drain(F&& f) {
    for (std::size_t s = 0; s < summary_.size(); ++s) {
      for (std::uint64_t upper = std::exchange(summary_[s], 0); upper != 0; upper &= upper - 1) {
        const std::size_t w = s * 64 + static_cast<std::size_t>(std::countr_zero(upper));
        for (std::uint64_t lower = std::exchange(words_[w], 0); lower != 0; lower &= lower - 1) {
          const std::size_t c = w * 64 + static_cast<std::size_t>(std::countr_zero(lower));
          f(static_cast<Index>(c), std::exchange(mask_[c], 0));
        }
      }
    }
  }

 private:
  std::vector<std::uint32_t> mask_;
  std::vector<std::uint64_t> words_;
  std::vector<std::uint64_t> summary_;
};

struct Event {  // a long run of `bit` begins or ends at `column`
  Index column;
  std::uint32_t bit;
};

struct Part {  // what one chunk of panels produced; offsets are local to the chunk
  std::vector<Panel> panels;
  std::vector<Segment> segments;
  std::vector<std::uint32_t> masks;
  std::vector<Index> rest;
  std::vector<Offset> rest_counts;
  Offset dense_edges = 0;
  Offset padding = 0;
};

class PanelBuilder {
 public:
  PanelBuilder(const Graph& graph, const Tiling& tiling, Offset col_limit, Part& part)
      : graph_(graph),
        tiling_(tiling),
        col_limit_(col_limit),
        part_(part),
        columns_(col_limit),
        rest_(kPanelRows) {}

  void build(Offset first, int count) {
    count_ = count;
    all_ = count == 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << count) - 1;
    panel_ = {.first = first, .count = count, .segment = static_cast<Offset>(part_.segments.size())};
    collect(first);
    sweep();
    close_segment();
    panel_.segment_end = static_cast<Offset>(part_.segments.size());
    part_.panels.push_back(panel_);
    for (int r = 0; r < count; ++r) {
      auto& list = rest_[static_cast<std::size_t>(r)];
      part_.rest.insert(part_.rest.end(), list.begin(), list.end());
      part_.rest_counts.push_back(static_cast<Offset>(list.size()));
      list.clear();
    }
  }

 private:
  void collect(Offset first) {
    constexpr Index kLong =
        32;  // longer runs become two events, so that `full` costs O(rows) and not O(edges)
    events_.clear();
    for (int r = 0; r < count_; ++r) {
      const std::uint32_t bit = std::uint32_t{1} << r;
      graph_.for_each_run(tiling_.rows[at(first + r)], [&](Run run) {
        run.end = static_cast<Index>(std::min<Offset>(run.end, col_limit_));
        if (run.end - run.begin > kLong) {
          events_.push_back({run.begin, bit});
          events_.push_back({run.end, bit});
        } else {
          for (Index c = run.begin; c < run.end; ++c) columns_.add(c, bit);
        }
      });
    }
    std::sort(events_.begin(), events_.end(), [](Event a, Event b) { return a.column < b.column; });
  }

  // Walks the columns from left to right: stretches of long runs with one mask, broken by single columns.
  void sweep() {
    Index cursor = 0;
    std::uint32_t base = 0;
    std::size_t next = 0;
    const auto advance = [&](Index to) {  // emits [cursor, to) under the long runs
      while (next < events_.size() && events_[next].column <= to) {
        if (base != 0) emit(cursor, events_[next].column, base);
        cursor = events_[next].column;
        base ^= events_[next].bit;
        ++next;
      }
      if (base != 0) emit(cursor, to, base);
      cursor = to;
    };
    columns_.drain([&](Index column, std::uint32_t mask) {
      advance(column);
      emit(column, column + 1, base | mask);
      cursor = column + 1;
    });
    if (!events_.empty() && events_.back().column > cursor) advance(events_.back().column);
  }

  void emit(Index begin, Index end, std::uint32_t mask) {
    if (begin >= end) return;
    if (!is_dense(mask, count_)) {
      for (std::uint32_t bits = mask; bits != 0; bits &= bits - 1) {
        auto& list = rest_[static_cast<std::size_t>(std::countr_zero(bits))];
        for (Index c = begin; c < end; ++c) list.push_back(c);
      }
      return;
    }
    if (open_.count > 0 && open_.begin + open_.count != begin) close_segment();
    if (open_.count == 0) open_.begin = begin;
    open_.count += end - begin;
    const Offset cells = static_cast<Offset>(end - begin);
    part_.dense_edges += cells * std::popcount(mask);
    part_.padding += cells * (count_ - std::popcount(mask));
    if (mask != all_ && !masked_) {  // the columns so far were full
      masked_ = true;
      open_masks_.assign(static_cast<std::size_t>(open_.count - (end - begin)), all_);
    }
    if (masked_) open_masks_.insert(open_masks_.end(), static_cast<std::size_t>(end - begin), mask);
  }

  void close_segment() {
    if (open_.count == 0) return;
    if (masked_) {
      open_.mask = static_cast<Offset>(part_.masks.size());
      part_.masks.insert(part_.masks.end(), open_masks_.begin(), open_masks_.end());
    }
    panel_.dense_cols += open_.count;
    part_.segments.push_back(open_);
    open_ = Segment{};
    open_masks_.clear();
    masked_ = false;
  }

  const Graph& graph_;
  const Tiling& tiling_;
  Offset col_limit_;
  Part& part_;
  ColumnMasks columns_;
  std::vector<std::vector<Index>> rest_;
  std::vector<Event> events_;
  int count_ = 0;
  std::uint32_t all_ = 0;
  Panel panel_;
  Segment open_;
  bool masked_ = false;
  std::vector<std::uint32_t> open_masks_;
};

// Rows that have at least half of the columns and twice the mean (global tokens) share panels of their own:
// scattered among short rows their edges would all be single.
std::vector<Index> order_rows(const Graph& graph, Offset rows, Offset cols) {
  std::vector<Index> order;
  order.reserve(at(rows));
  const double mean = rows > 0 ? static_cast<double>(graph.nnz()) / static_cast<double>(graph.n_rows()) : 0.0;
  const auto is_hub = [&](Offset i) {
    const auto degree = static_cast<double>(graph.degree(i));
    return degree * 2 >= static_cast<double>(cols) && degree >= 2 * mean + kPanelRows;
  };
  for (Offset i = 0; i < rows; ++i) {
    if (is_hub(i)) order.push_back(static_cast<Index>(i));
  }
  for (Offset i = 0; i < rows; ++i) {
    if (!is_hub(i)) order.push_back(static_cast<Index>(i));
  }
  return order;
}

}  // namespace

std::size_t Tiling::bytes() const {
  return rows.size() * sizeof(Index) + panels.size() * sizeof(Panel) + segments.size() * sizeof(Segment) +
         masks.size() * sizeof(std::uint32_t) + rest_indptr.size() * sizeof(Offset) +
         rest.size() * sizeof(Index);
}

std::size_t RestByColumn::bytes() const {
  return (indptr.size() + slots.size()) * sizeof(Offset) + rows.size() * sizeof(Index);
}

RestByColumn rest_by_column(const Tiling& tiling, Offset n_cols) {
  RestByColumn result;
  result.indptr.assign(at(n_cols) + 1, 0);
  result.rows.resize(tiling.rest.size());
  result.slots.resize(tiling.rest.size());
  for (const Index column : tiling.rest) ++result.indptr[static_cast<std::size_t>(column) + 1];
  std::partial_sum(result.indptr.begin(), result.indptr.end(), result.indptr.begin());
  std::vector<Offset> next(result.indptr.begin(), result.indptr.end() - 1);
  for (std::size_t position = 0; position < tiling.rows.size(); ++position) {
    for (Offset e = tiling.rest_indptr[position]; e < tiling.rest_indptr[position + 1]; ++e) {
      const Offset slot = next[static_cast<std::size_t>(tiling.rest[at(e)])]++;
      result.rows[at(slot)] = tiling.rows[position];
      result.slots[at(e)] = slot;
    }
  }
  return result;
}

Tiling make_tiling(const Graph& graph, Offset row_limit, Offset col_limit) {
  Tiling tiling;
  const Offset rows = row_limit < 0 ? graph.n_rows() : std::min(row_limit, graph.n_rows());
  const Offset cols = col_limit < 0 ? graph.n_cols() : std::min(col_limit, graph.n_cols());
  tiling.rows = order_rows(graph, rows, cols);
  const Offset panel_count = (rows + kPanelRows - 1) / kPanelRows;
  const Offset grain = std::max<Offset>(16, panel_count / 64);  // a chunk pays for one mask word a column
  const Offset chunks = (panel_count + grain - 1) / grain;
  std::vector<Part> parts(at(chunks));
  parallel_for(chunks, [&](Offset chunk) {
    PanelBuilder builder(graph, tiling, cols, parts[at(chunk)]);
    for (Offset p = chunk * grain; p < std::min(panel_count, (chunk + 1) * grain); ++p) {
      const Offset first = p * kPanelRows;
      builder.build(first, static_cast<int>(std::min<Offset>(kPanelRows, rows - first)));
    }
  });

  tiling.rest_indptr.reserve(at(rows) + 1);
  tiling.rest_indptr.push_back(0);
  for (Part& part : parts) {
    const auto segment_shift = static_cast<Offset>(tiling.segments.size());
    const auto mask_shift = static_cast<Offset>(tiling.masks.size());
    for (Segment segment : part.segments) {
      if (segment.mask >= 0) segment.mask += mask_shift;
      tiling.segments.push_back(segment);
    }
    tiling.masks.insert(tiling.masks.end(), part.masks.begin(), part.masks.end());
    tiling.rest.insert(tiling.rest.end(), part.rest.begin(), part.rest.end());
    for (const Offset count : part.rest_counts)
      tiling.rest_indptr.push_back(tiling.rest_indptr.back() + count);
    for (Panel panel : part.panels) {
      panel.segment += segment_shift;
      panel.segment_end += segment_shift;
      tiling.panels.push_back(panel);
    }
    tiling.dense_edges += part.dense_edges;
    tiling.padding += part.padding;
    part = Part{};
  }
  tiling.irregular_edges = static_cast<Offset>(tiling.rest.size());
  constexpr Offset kAlign = 16;  // values of a panel start on a cache line
  for (Panel& panel : tiling.panels) {
    panel.values = tiling.value_count;
    const Offset values = tiling.panel_values(panel);
    tiling.value_count += (values + kAlign - 1) / kAlign * kAlign;
    tiling.max_panel_values = std::max(tiling.max_panel_values, values);
    tiling.max_panel_cols = std::max(tiling.max_panel_cols, panel.dense_cols);
  }
  return tiling;
}

}  // namespace manyhop
