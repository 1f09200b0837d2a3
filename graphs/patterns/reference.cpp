// diffuser_ref: the edges of the Diffuser paper's code, NumPy's legacy generator included.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <random>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

constexpr Offset kBlock = 64;
constexpr Offset kDrawn = 64;          // random cells a row on average, and global tokens
constexpr Offset kLargestLen = 65535;  // cells are counted in 32 bits

// The head of NumPy's legacy permutation(count): Fisher-Yates from the last place down, each partner drawn
// by masking and rejecting 32-bit outputs of the Mersenne twister.
std::vector<std::uint32_t> legacy_permutation_head(std::mt19937& twister, std::size_t count,
                                                   std::size_t head) {
  std::vector<std::uint32_t> cells(count);
  std::iota(cells.begin(), cells.end(), 0U);
  constexpr std::size_t kBatch = 64;  // partners lie anywhere in 64 MB: ask for a batch before swapping
  std::size_t partner[kBatch];
  for (std::size_t i = count - 1; i >= 1;) {
    const std::size_t batch = std::min(kBatch, i);
    for (std::size_t b = 0; b < batch; ++b) {
      const auto most = static_cast<std::uint32_t>(i - b);
      const std::uint32_t mask = ~std::uint32_t{0} >> std::countl_zero(most);
      std::uint32_t draw = 0;
      do {
        draw = static_cast<std::uint32_t>(twister()) & mask;
      } while (draw > most);
      partner[b] = draw;
      __builtin_prefetch(&cells[draw], 1);
    }
    for (std::size_t b = 0; b < batch; ++b) std::swap(cells[i - b], cells[partner[b]]);
    i -= batch;
    if ((i & 0xFFFC0U) == 0) check_stop();
  }
  cells.resize(head);
  return cells;
}

}  // namespace

Source diffuser_ref(const Place& place, std::uint64_t max_len) {
  place.want_square("diffuser_ref");
  const Offset n = place.n_rows;
  if (max_len > static_cast<std::uint64_t>(kLargestLen)) {
    place.fail(fmt::format("diffuser_ref: max_len = {} is above {}", max_len, kLargestLen));
  }
  const auto length = static_cast<Offset>(max_len);
  if (n > length) place.fail(fmt::format("diffuser_ref: n = {} is above max_len = {}", n, length));
  const auto cells = static_cast<std::size_t>(length) * static_cast<std::size_t>(length);
  require_memory(place, static_cast<double>(cells) * 4, fmt::format("diffuser_ref({})", max_len));

  std::mt19937 twister(0);  // the seeding of np.random.seed(0)
  const auto drawn = legacy_permutation_head(
      twister, cells, static_cast<std::size_t>(kDrawn) * static_cast<std::size_t>(length));
  const auto tokens = legacy_permutation_head(twister, static_cast<std::size_t>(length - kBlock),
                                              static_cast<std::size_t>(kDrawn));

  // A cell is (row of the array, column of the array) = (key, query).
  std::vector<Index> rows;
  std::vector<Index> columns;
  for (const std::uint32_t cell : drawn) {
    const Offset key = cell % length;
    const Offset query = cell / length;
    if (key >= n || query >= n) continue;
    rows.push_back(static_cast<Index>(query));
    columns.push_back(static_cast<Index>(key));
  }
  std::vector<Index> ids;
  for (const std::uint32_t token : tokens) {
    const Offset id = token + kBlock;
    if (id < n) ids.push_back(static_cast<Index>(id));
  }
  std::vector<Source> parts;
  parts.push_back(overlap(place, kBlock, kBlock / 2));
  parts.push_back(from_graph(Graph::from_edges(n, n, rows, columns)));
  parts.push_back(global(place, std::move(ids)));
  return unite_all(place, std::move(parts), "|||");
}

}  // namespace manyhop::patterns
