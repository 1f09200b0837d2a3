// Expanders and relatives that are formulas of the row.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

bool is_prime(std::uint64_t n) {
  if (n < 2) return false;
  for (std::uint64_t f = 2; f * f <= n; f += f == 2 ? 1 : 2) {
    if (n % f == 0) return false;
  }
  return true;
}

std::string misfit(std::string_view name, Offset n, std::string_view what,
                   const std::function<bool(Offset)>& fits) {
  std::string found;
  for (Offset below = n - 1; below >= 0; --below) {
    if (fits(below)) {
      found = fmt::format("n = {}", below);
      break;
    }
  }
  for (Offset above = n + 1; above <= kMaxVertices; ++above) {
    if (fits(above)) {
      found += fmt::format("{}n = {}", found.empty() ? "" : " and ", above);
      break;
    }
  }
  const bool one = found.find(" and ") == std::string::npos;
  return fmt::format("{}: n = {} is not {}; {} {}", name, n, what, found, one ? "fits" : "fit");
}

namespace {

Offset root_of(Offset n) {
  auto s = static_cast<Offset>(std::sqrt(static_cast<double>(n)));
  while (s * s > n) --s;
  while ((s + 1) * (s + 1) <= n) ++s;
  return s;
}

Offset power(Offset base, Offset exponent, Offset modulus) {
  Offset result = 1 % modulus;
  for (base %= modulus; exponent > 0; exponent /= 2) {
    if (exponent % 2 == 1) result = result * base % modulus;
    base = base * base % modulus;
  }
  return result;
}

}  // namespace

Source hypercube(const Place& place) {
  place.want_square("hypercube");
  const Offset n = place.n_rows;
  const auto fits = [](Offset size) { return std::has_single_bit(static_cast<std::uint64_t>(size)); };
  if (!fits(n)) {  // powers lie far apart: name them directly
    const Offset below = n == 0 ? 0 : static_cast<Offset>(std::bit_floor(static_cast<std::uint64_t>(n)));
    const Offset above = n == 0 ? 1 : 2 * below;
    std::string found = below > 0 ? fmt::format("n = {}", below) : "";
    if (above <= kMaxVertices) found += fmt::format("{}n = {}", found.empty() ? "" : " and ", above);
    place.fail(fmt::format("hypercube: n = {} is not a power of two; {} {}", n, found,
                           below > 0 && above <= kMaxVertices ? "fit" : "fits"));
  }
  const int bits = std::countr_zero(static_cast<std::uint64_t>(n));
  Source source;
  source.edges = static_cast<double>(n) * bits;
  source.runs = source.edges;
  source.row = [bits](Offset i, RunList& out) {
    // Clearing a set bit goes down, most for the highest; setting a clear bit goes up.
    const auto one = [&](Offset j) { append_run(out, {static_cast<Index>(j), static_cast<Index>(j + 1)}); };
    for (int b = bits; b-- > 0;) {
      if ((i >> b & 1) != 0) one(i ^ (Offset{1} << b));
    }
    for (int b = 0; b < bits; ++b) {
      if ((i >> b & 1) == 0) one(i ^ (Offset{1} << b));
    }
  };
  return source;
}

Source paley(const Place& place) {
  place.want_square("paley");
  const Offset n = place.n_rows;
  const auto fits = [](Offset size) { return size % 4 == 1 && is_prime(static_cast<std::uint64_t>(size)); };
  if (!fits(n)) place.fail(misfit("paley", n, "a prime that is 1 mod 4", fits));
  Source source;
  source.edges = static_cast<double>(n) * (static_cast<double>(n) - 1) / 2;
  source.runs = source.edges / 2 + static_cast<double>(n);
  require_memory(place, static_cast<double>(n) * 16 + source.runs * 16 + source.edges * 4, "paley");
  std::vector<char> square(static_cast<std::size_t>(n));
  for (Offset x = 1; x <= n / 2; ++x) square[static_cast<std::size_t>(x * x % n)] = 1;
  RunList squares;
  for (Offset x = 1; x < n; ++x) {
    if (square[static_cast<std::size_t>(x)] != 0) {
      append_run(squares, {static_cast<Index>(x), static_cast<Index>(x + 1)});
    }
  }
  source.row = [n, squares = std::move(squares)](Offset i, RunList& out) {
    const auto append = [&](Offset begin, Offset end) {
      begin = std::max<Offset>(begin, 0);
      end = std::min(end, n);
      append_run(out, {static_cast<Index>(begin), static_cast<Index>(end)});
    };
    const auto wrapped =
        std::partition_point(squares.begin(), squares.end(), [&](Run run) { return run.end + i <= n; });
    for (auto run = wrapped; run != squares.end(); ++run) append(run->begin + i - n, run->end + i - n);
    for (auto run = squares.begin(); run != squares.end() && run->begin + i < n; ++run) {
      append(run->begin + i, run->end + i);
    }
  };
  return source;
}

// Gabber and Galil's graph on pairs (x, y) mod s: x +- 2y, x +- (2y + 1), y +- 2x, y +- (2x + 1).
Source margulis(const Place& place) {
  place.want_square("margulis");
  const Offset n = place.n_rows;
  const Offset s = root_of(n);
  if (s * s != n) {
    const Offset above = (s + 1) * (s + 1);
    place.fail(fmt::format("margulis: n = {} is not a square; n = {}{} fit", n, s * s,
                           above <= kMaxVertices ? fmt::format(" and n = {}", above) : ""));
  }
  return from_multigraph(place, 8, [s](Offset i, std::vector<Index>& out) {
    const Offset x = i / s;
    const Offset y = i % s;
    const auto add = [&](Offset u, Offset v) {
      out.push_back(static_cast<Index>((u % s + s) % s * s + (v % s + s) % s));
    };
    for (const Offset step : {2 * y, 2 * y + 1}) {
      add(x + step, y);
      add(x - step, y);
    }
    for (const Offset step : {2 * x, 2 * x + 1}) {
      add(x, y + step);
      add(x, y - step);
    }
    std::sort(out.begin(), out.end());
  });
}

// A cycle of prime length with a chord from each x to its inverse (0 to itself).
Source chordal(const Place& place) {
  place.want_square("chordal");
  const Offset n = place.n_rows;
  const auto fits = [](Offset size) { return is_prime(static_cast<std::uint64_t>(size)); };
  if (!fits(n)) place.fail(misfit("chordal", n, "a prime", fits));
  return from_multigraph(place, 3, [n](Offset i, std::vector<Index>& out) {
    const Offset chord = i == 0 ? 0 : power(i, n - 2, n);
    for (const Offset j : {(i + n - 1) % n, (i + 1) % n, chord}) out.push_back(static_cast<Index>(j));
    std::sort(out.begin(), out.end());
  });
}

// Row i receives from k i + c mod n for c = 0 .. k - 1.
Source debruijn(const Place& place, std::uint64_t k) {
  place.want_square("debruijn");
  const Offset n = place.n_rows;
  Source source;
  if (n == 0) {
    source.row = [](Offset, RunList&) {};
    return source;
  }
  const auto rest = static_cast<Offset>(k % static_cast<std::uint64_t>(n));
  const std::uint64_t rounds = k / static_cast<std::uint64_t>(n);  // times every column is met
  // Columns that are met once more: `rest` of them from k i on.
  const auto extra = [n, rest](Offset i, RunList& out) {
    const Offset begin = rest * i % n;
    const Offset end = begin + rest;
    if (end > n) append_run(out, {0, static_cast<Index>(end - n)});
    append_run(out, {static_cast<Index>(begin), static_cast<Index>(std::min(end, n))});
  };
  source.edges = static_cast<double>(n) * static_cast<double>(rounds > 0 ? n : rest);
  source.runs = 2 * static_cast<double>(n);
  if (rounds == 0) {
    source.row = extra;
    return source;
  }
  source.row = [n](Offset, RunList& out) { append_run(out, {0, static_cast<Index>(n)}); };
  if (rounds > 1 || rest > 0) {
    source.alone = [place, n, rounds, extra, row = source.row, edges = source.edges] {
      require_memory(place, edges * 12, "debruijn with multiplicities");
      std::vector<double> weights(static_cast<std::size_t>(n * n), static_cast<double>(rounds));
      parallel_ranges(n, 256, [&](Offset begin, Offset end) {
        RunList more;
        for (Offset i = begin; i < end; ++i) {
          more.clear();
          extra(i, more);
          for (const Run run : more) {
            for (Index j = run.begin; j < run.end; ++j) weights[static_cast<std::size_t>(i * n + j)] += 1;
          }
        }
      });
      return build_rows(n, n, row).with_weights(std::move(weights));
    };
  }
  return source;
}

}  // namespace manyhop::patterns
