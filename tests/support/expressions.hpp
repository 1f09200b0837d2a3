// Random pattern texts over the whole grammar, for tests that want any graph of n tokens.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/base/types.hpp"

namespace manyhop::test {

namespace detail {

inline Offset up_to(CounterRng& rng, Offset most) {
  return most <= 0 ? 0 : static_cast<Offset>(rng.below(static_cast<std::uint64_t>(most) + 1));
}

inline bool chance(CounterRng& rng, int one_in) { return rng.below(static_cast<std::uint64_t>(one_in)) == 0; }

inline std::string random_atom(CounterRng& rng, Offset n) {
  const auto count = [&](Offset most) { return up_to(rng, most); };
  const auto size = [&] { return 1 + up_to(rng, n / 2 + 1); };
  std::vector<std::string> texts{
      "self",
      "full",
      "causal",
      "logsparse",
      fmt::format("window({})", count(9)),
      fmt::format("window({}, step={})", count(5), 1 + count(4)),
      fmt::format("window({}, {}, ring=true)", count(5), 1 + count(4)),
      fmt::format("overlap({}, {})", size(), size()),
      fmt::format("overlap({}, s={})", 1 + count(12), 1 + count(12)),
      fmt::format("block({})", size()),
      fmt::format("block({})", 1 + count(12)),
      fmt::format("global({})", count(std::min<Offset>(n, 4))),
      fmt::format("global({}, seed={})", count(std::min<Offset>(n, 4)), count(99)),
      fmt::format("random({}, seed={})", count(std::min<Offset>(n, 9)), count(99)),
      fmt::format("random({})", count(n)),
      fmt::format("random({}, {}, causal=true)", count(9), count(99)),
      fmt::format("strided({})", size()),
      fmt::format("debruijn({})", 1 + count(3)),
      fmt::format("diffuser({}, {}, {}, {})", 1 + count(9), count(5), count(3), count(99)),
      fmt::format("diffuser(global={}, block={})", count(3), 1 + count(9)),
      fmt::format("longformer({}, {})", count(5), count(3)),
      fmt::format("bigbird({}, {}, {})", 1 + count(6), count(3), count(99)),
      fmt::format("exphormer({}, {}, {})", count(5), count(3), count(99)),
      fmt::format("axial({}, 1)", n),
      fmt::format("grid(1, {}, {})", n, count(3)),
      fmt::format("grid({}, 1, r={})", n, count(3)),
      fmt::format("regular({}, {})", n > 0 ? count(std::min<Offset>(n - 1, 8)) / 2 * 2 : 0, count(99)),
      fmt::format("smallworld({}, 0.25, {})", n > 0 ? count(std::min<Offset>(n - 1, 8)) / 2 * 2 : 0,
                  count(99)),
  };
  if (n > 0) texts.push_back(fmt::format("global(ids=[{}, {}])", count(n - 1), count(n - 1)));
  // A permutation of max_len squared cells: rare, and no longer than needed.
  if (n <= 4096 && chance(rng, 60)) return fmt::format("diffuser_ref({})", std::max<Offset>(n, 128));
  if (n > 0 && (n & (n - 1)) == 0 && chance(rng, 8)) return "hypercube";
  const auto root = [n] {
    Offset s = 0;
    while ((s + 1) * (s + 1) <= n) ++s;
    return s;
  }();
  if (root * root == n && chance(rng, 8)) return "margulis";
  return texts[static_cast<std::size_t>(rng.below(texts.size()))];
}

inline std::string random_expression(CounterRng& rng, Offset n, int depth) {
  if (depth == 0 || chance(rng, 3)) return random_atom(rng, n);
  const auto inner = [&](Offset size) { return random_expression(rng, size, depth - 1); };
  const char* blank = chance(rng, 4) ? "" : " ";
  switch (rng.below(9)) {
    case 0:
    case 1:
      return fmt::format("{}{}|{}{}", inner(n), blank, blank, inner(n));
    case 2:
      return fmt::format("{}{}-{}{}", inner(n), blank, blank, inner(n));
    case 3:
      return fmt::format("{}{}&{}({})", inner(n), blank, blank, inner(n));
    case 4:
      return fmt::format("({}) & {}", inner(n), inner(n));
    case 5: {
      const Offset b = 1 + up_to(rng, 7);
      return fmt::format("lift({}, {})", inner((n + b - 1) / b), b);
    }
    case 6:
      return fmt::format("sym({})", inner(n));
    case 7:
      return fmt::format("t({})", inner(n));
    default:
      return fmt::format("hops({}, {})", inner(n), 1 + up_to(rng, 3));
  }
}

}  // namespace detail

/// A pattern text that is valid on n x n tokens: atoms, set algebra and operators, nested up to four deep.
/// Only file("...") does not occur. `rng` moves on.
inline std::string random_expression(CounterRng& rng, Offset n) {
  return detail::random_expression(rng, n, 4);
}

}  // namespace manyhop::test
