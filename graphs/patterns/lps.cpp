// lps(p, q): the Ramanujan graphs of Lubotzky, Phillips and Sarnak, Combinatorica 8 (1988).
//
// Cayley graphs of PGL(2, q), or of PSL(2, q) when p is a square mod q, with the p + 1 matrices of the
// integer quaternions of norm p. Primes p, q = 1 mod 4, p != q; degree p + 1, multiplicities for small q.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

constexpr std::uint64_t kLargestPrime = 100000;  // finding the generators takes p^(3/2) steps

bool fits(Offset prime) { return prime % 4 == 1 && is_prime(static_cast<std::uint64_t>(prime)); }

Offset checked_prime(std::size_t column, std::string_view name, std::uint64_t value) {
  if (value > kLargestPrime) {
    fail_at(column, fmt::format("lps: {} = {} is above {}", name, value, kLargestPrime));
  }
  const auto prime = static_cast<Offset>(value);
  if (fits(prime)) return prime;
  Offset below = prime - 1;
  while (below > 0 && !fits(below)) --below;
  Offset above = prime + 1;
  while (!fits(above)) ++above;
  fail_at(column, fmt::format("lps: {} = {} is not a prime that is 1 mod 4; {}{} = {} {}", name, value,
                              below > 0 ? fmt::format("{} = {} and ", name, below) : "", name, above,
                              below > 0 ? "fit" : "fits"));
}

struct Matrix {
  Offset a, b, c, d;
};

// PGL(2, q) with a number for each element, or its subgroup PSL(2, q). A class is written with its first
// non-zero entry of the upper row scaled to 1; the determinant is then known up to nothing.
class Group {
 public:
  Group(Offset q, bool special) : q_(q) {
    inverse_.resize(at(q));
    for (Offset x = 1; x < q; ++x) {
      for (Offset y = 1; y < q && inverse_[at(x)] == 0; ++y) {
        if (x * y % q == 1) inverse_[at(x)] = y;
      }
    }
    std::vector<char> square(at(q));
    for (Offset x = 1; x < q; ++x) square[at(x * x % q)] = 1;
    rank_.resize(at(q));
    for (Offset x = 1; x < q; ++x) {
      if (special && square[at(x)] == 0) continue;
      rank_[at(x)] = static_cast<Offset>(units_.size());
      units_.push_back(x);
    }
  }

  Offset size() const { return static_cast<Offset>(units_.size()) * q_ * (q_ + 1); }

  Matrix element(Offset number) const {
    const auto units = static_cast<Offset>(units_.size());
    if (number < q_ * q_ * units) {  // (1 b; c d), d = det + b c
      const Offset b = number / units / q_;
      const Offset c = number / units % q_;
      return {1, b, c, (units_[at(number % units)] + b * c) % q_};
    }
    number -= q_ * q_ * units;  // (0 1; c d), det = -c
    return {0, 1, q_ - units_[at(number / q_)], number % q_};
  }

  Offset number(Matrix m) const {
    const Offset scale = inverse_[at(m.a != 0 ? m.a : m.b)];
    const auto units = static_cast<Offset>(units_.size());
    const Offset c = m.c * scale % q_;
    const Offset d = m.d * scale % q_;
    if (m.a != 0) {
      const Offset b = m.b * scale % q_;
      const Offset det = (d + q_ * q_ - b * c) % q_;
      return (b * q_ + c) * units + rank_[at(det)];
    }
    return q_ * q_ * units + rank_[at(q_ - c)] * q_ + d;
  }

  Matrix product(const Matrix& x, const Matrix& y) const {
    return {(x.a * y.a + x.b * y.c) % q_, (x.a * y.b + x.b * y.d) % q_, (x.c * y.a + x.d * y.c) % q_,
            (x.c * y.b + x.d * y.d) % q_};
  }

 private:
  static std::size_t at(Offset i) { return static_cast<std::size_t>(i); }
  Offset q_;
  std::vector<Offset> inverse_;
  std::vector<Offset> rank_;   // of a determinant among those allowed
  std::vector<Offset> units_;  // determinants allowed: all, or the squares
};

// p = a0^2 + a1^2 + a2^2 + a3^2 with a0 odd and positive and the others even: p + 1 solutions.
std::vector<Matrix> generators(Offset p, Offset q) {
  Offset unit = 2;  // unit^2 = -1 mod q
  while (unit * unit % q != q - 1) ++unit;
  const auto mod = [q](Offset x) { return (x % q + q) % q; };
  std::vector<Matrix> found;
  for (Offset a0 = 1; a0 * a0 <= p; a0 += 2) {
    check_stop();
    for (Offset a1 = 0; a0 * a0 + a1 * a1 <= p; a1 += 2) {
      Offset a3 = 0;
      while (a0 * a0 + a1 * a1 + a3 * a3 <= p) a3 += 2;
      // a2 goes up while a3 comes down: one walk along the circle.
      for (Offset a2 = 0; a0 * a0 + a1 * a1 + a2 * a2 <= p; a2 += 2) {
        const Offset left = p - a0 * a0 - a1 * a1 - a2 * a2;
        while (a3 > 0 && a3 * a3 > left) a3 -= 2;
        if (a3 * a3 != left) continue;
        for (int signs = 0; signs < 8; ++signs) {
          const bool repeated =
              ((signs & 1) != 0 && a1 == 0) || ((signs & 2) != 0 && a2 == 0) || ((signs & 4) != 0 && a3 == 0);
          if (repeated) continue;
          const Offset x1 = (signs & 1) != 0 ? -a1 : a1;
          const Offset x2 = (signs & 2) != 0 ? -a2 : a2;
          const Offset x3 = (signs & 4) != 0 ? -a3 : a3;
          found.push_back(
              {mod(a0 + unit * x1), mod(x2 + unit * x3), mod(-x2 + unit * x3), mod(a0 - unit * x1)});
        }
      }
    }
  }
  return found;
}

bool is_square(Offset x, Offset q) {
  for (Offset y = 1; y < q; ++y) {
    if (y * y % q == x % q) return true;
  }
  return false;
}

}  // namespace

Offset lps_size(std::size_t column, std::uint64_t p, std::uint64_t q) {
  const Offset first = checked_prime(column, "p", p);
  const Offset second = checked_prime(column, "q", q);
  if (first == second) fail_at(column, fmt::format("lps: p = {} and q = {} must differ", p, q));
  const Offset whole = second * (second * second - 1);
  const Offset size = is_square(first, second) ? whole / 2 : whole;
  if (size > kMaxVertices) {
    fail_at(column, fmt::format("lps: q = {} makes {} vertices, above {}", q, size, kMaxVertices));
  }
  return size;
}

Source lps(const Place& place, std::uint64_t p, std::uint64_t q) {
  const Offset size = lps_size(place.column, p, q);
  place.want_square("lps");
  if (place.n_rows != size) {
    place.fail(fmt::format("lps({}, {}) has {} vertices, n = {}", p, q, size, place.n_rows));
  }
  const auto prime = static_cast<Offset>(q);
  const Group group(prime, is_square(static_cast<Offset>(p), prime));
  return from_multigraph(
      place, static_cast<Offset>(p) + 1,
      [group, steps = generators(static_cast<Offset>(p), prime)](Offset i, std::vector<Index>& out) {
        const Matrix from = group.element(i);
        for (const Matrix& step : steps) {
          out.push_back(static_cast<Index>(group.number(group.product(from, step))));
        }
        std::sort(out.begin(), out.end());
      });
}

}  // namespace manyhop::patterns
