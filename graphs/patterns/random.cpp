// random(k): distinct columns drawn for each row by itself.
#include <algorithm>
#include <bit>

#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

// Sorts numbers that are uniform in 0 .. n - 1: a counting sort by the leading part leaves about one number
// in a bucket, and an insertion sort finishes. Four times faster than std::sort on 64 numbers.
void sort_uniform(std::vector<Index>& values, Offset n, std::vector<Index>& from,
                  std::vector<std::uint32_t>& count) {
  const std::size_t size = values.size();
  if (size < 2) return;
  const auto width = [](Offset x) { return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(x))); };
  const int shift = std::max(0, width(n - 1) - width(static_cast<Offset>(size)) - 1);
  const std::size_t buckets = (static_cast<std::size_t>(n - 1) >> shift) + 1;
  count.assign(buckets + 1, 0);
  for (const Index v : values) ++count[(static_cast<std::size_t>(v) >> shift) + 1];
  for (std::size_t b = 1; b <= buckets; ++b) count[b] += count[b - 1];
  from.swap(values);
  values.resize(size);
  for (const Index v : from) values[count[static_cast<std::size_t>(v) >> shift]++] = v;
  for (std::size_t i = 1; i < size; ++i) {
    const Index v = values[i];
    std::size_t slot = i;
    for (; slot > 0 && values[slot - 1] > v; --slot) values[slot] = values[slot - 1];
    values[slot] = v;
  }
}

struct Draws {
  std::vector<Index> values;
  std::vector<Index> fresh;
  std::vector<Index> scratch;
  std::vector<std::uint32_t> count;
  std::vector<std::uint64_t> bits;
};

// The set of the first k distinct draws below n, as sorted values. Few of many: draw what is missing, sort,
// drop repetitions, and again; otherwise a bit for each number.
void draw_sparse(CounterRng& rng, Offset n, Offset k, Draws& draws) {
  auto& values = draws.values;
  values.clear();
  while (static_cast<Offset>(values.size()) < k) {
    auto& fresh = draws.fresh;
    fresh.resize(static_cast<std::size_t>(k) - values.size());
    for (Index& v : fresh) v = static_cast<Index>(rng.below(static_cast<std::uint64_t>(n)));
    sort_uniform(fresh, n, draws.scratch, draws.count);
    if (values.empty()) {
      values.swap(fresh);
    } else {
      draws.scratch.resize(values.size() + fresh.size());
      std::merge(values.begin(), values.end(), fresh.begin(), fresh.end(), draws.scratch.begin());
      values.swap(draws.scratch);
    }
    values.erase(std::unique(values.begin(), values.end()), values.end());
  }
}

void draw_bits(CounterRng& rng, Offset n, Offset k, Draws& draws) {
  draws.bits.assign(static_cast<std::size_t>((n + 63) / 64), 0);
  for (Offset taken = 0; taken < k;) {
    const std::uint64_t v = rng.below(static_cast<std::uint64_t>(n));
    std::uint64_t& word = draws.bits[v / 64];
    const std::uint64_t bit = std::uint64_t{1} << (v % 64);
    taken += (word & bit) == 0 ? 1 : 0;
    word |= bit;
  }
  draws.values.clear();
  for (std::size_t w = 0; w < draws.bits.size(); ++w) {
    for (std::uint64_t word = draws.bits[w]; word != 0; word &= word - 1) {
      draws.values.push_back(static_cast<Index>(w * 64 + static_cast<std::size_t>(std::countr_zero(word))));
    }
  }
}

void draw(CounterRng& rng, Offset n, Offset k, Draws& draws) {
  if (k > n / 16) {
    draw_bits(rng, n, k, draws);
  } else {
    draw_sparse(rng, n, k, draws);
  }
}

Draws& thread_draws() {
  thread_local Draws draws;
  return draws;
}

// Runs of k distinct columns below n; above n / 2 the missing ones are drawn.
void draw_row(Offset n, Offset k, CounterRng rng, RunList& out) {
  Draws& draws = thread_draws();
  if (k > n / 2) {
    draw(rng, n, n - k, draws);
    Index begin = 0;
    for (const Index hole : draws.values) {
      append_run(out, {begin, hole});
      begin = hole + 1;
    }
    append_run(out, {begin, static_cast<Index>(n)});
  } else {
    draw(rng, n, k, draws);
    append_columns(out, draws.values);
  }
}

}  // namespace

std::vector<Index> draw_distinct(Offset n, Offset k, std::uint64_t seed, std::uint32_t stage,
                                 std::uint64_t index) {
  RunList runs;
  draw_row(n, k, CounterRng(seed, stage, index), runs);
  std::vector<Index> values;
  for (const Run run : runs) {
    for (Index v = run.begin; v < run.end; ++v) values.push_back(v);
  }
  return values;
}

Source random(const Place& place, std::uint64_t k, std::uint64_t seed, bool causal) {
  const Offset n = place.n_cols;
  Source source;
  // A causal row that has fewer than k columns takes them all, so a count above n is no mistake there.
  const Offset count = causal ? capped(k, n) : place.fit(k, n, "random: k", "columns");
  source.edges = static_cast<double>(place.n_rows) * static_cast<double>(count);
  source.runs = static_cast<double>(place.n_rows) * static_cast<double>(std::min(count, n - count + 1));
  if (causal) {
    source.runs = source.edges;
    // Keyed by the position among the columns, so that the last rows of a square are the rectangle.
    source.row = [count, seed, shift = n - place.n_rows](Offset i, RunList& out) {
      const Offset position = i + shift;
      if (position < 0) return;
      draw_row(position + 1, std::min(count, position + 1),
               CounterRng(seed, kStageRandomCausal, static_cast<std::uint64_t>(position)), out);
    };
  } else {
    source.row = [n, count, seed](Offset i, RunList& out) {
      draw_row(n, count, CounterRng(seed, kStageRandom, static_cast<std::uint64_t>(i)), out);
    };
  }
  return source;
}

}  // namespace manyhop::patterns
