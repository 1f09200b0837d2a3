// The projection by sorted breakpoints in long double: the definition of correct.
#include "manyhop/ops/sparsek.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/edge_value.hpp"
#include "manyhop/ops/sparsek_backends.hpp"

namespace manyhop::ops::reference {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// x sorted downwards, none of them -inf, k < count. Gaps of more than 1 between neighbours are taken as 1:
// above such a gap everything is saturated before anything below begins, so the gates stay what they are, and
// neither huge scores nor +inf lose digits. Walks tau down from the largest score; between two breakpoints
// (a score, or a score less 1) the sum of the gates is linear. Returns tau as the number of the score at the
// walk's stop and the distance below it.
struct Stop {
  std::size_t anchor = 0;
  long double below = 0;
  std::vector<long double> y{};  // scores after gaps are cut, y[0] = 0
  long double tau = 0;           // among y
};

Stop walk(const std::vector<double>& x, long double k) {
  const std::size_t n = x.size();
  Stop stop;
  stop.y.assign(n, 0);
  for (std::size_t i = 1; i < n; ++i) {
    const long double gap = x[i - 1] == x[i] ? 0 : std::min(static_cast<long double>(x[i - 1]) - x[i], 1.0L);
    stop.y[i] = stop.y[i - 1] - gap;
  }
  const auto& y = stop.y;
  std::size_t entered = 0;    // above tau
  std::size_t saturated = 0;  // at or above tau + 1
  long double t = 0;
  long double sum = 0;
  while (true) {
    while (entered < n && y[entered] >= t) stop.anchor = entered++;
    while (saturated < entered && y[saturated] - 1 >= t) ++saturated;
    long double next = -std::numeric_limits<long double>::infinity();
    if (entered < n) next = y[entered];
    if (saturated < entered) next = std::max(next, y[saturated] - 1);
    const auto active = static_cast<long double>(entered - saturated);
    const long double there = sum + active * (t - next);
    if (there > k) {
      t -= (k - sum) / active;
      break;
    }
    sum = there;
    t = next;
  }
  stop.tau = t;
  stop.below = y[stop.anchor] - t;
  return stop;
}

template <class T>
void row(const SparsekCall& call, Offset r, const RowsOf<const T>& z, const RowsOf<T>& p) {
  const Offset n = z.size(r);
  std::vector<double> x;
  std::vector<Offset> order;
  bool nan = false;
  for (Offset i = 0; i < n; ++i) {
    const double value = double{widen(z.row(r)[i * z.step()])} / call.temperature;
    nan |= std::isnan(value);
    if (value == -kInfinity) continue;
    order.push_back(i);
    x.push_back(value);
  }
  const auto set = [&](Offset i, double value) { p.row(r)[i * p.step()] = narrow<T>(value); };
  if (nan) {
    for (Offset i = 0; i < n; ++i) set(i, std::nan(""));
    return call.set_tau(r, std::nan(""));
  }
  std::vector<std::size_t> place(x.size());
  std::iota(place.begin(), place.end(), std::size_t{0});
  std::stable_sort(place.begin(), place.end(), [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
  std::vector<double> sorted;
  sorted.reserve(place.size());
  for (const std::size_t i : place) sorted.push_back(x[i]);
  for (Offset i = 0; i < n; ++i) set(i, 0);
  const double k = call.k_of(r);
  if (k >= static_cast<double>(x.size())) {
    for (const Offset i : order) set(i, 1);
    return call.set_tau(r, -kInfinity);
  }
  const Stop stop = walk(sorted, k);
  for (std::size_t s = 0; s < sorted.size(); ++s) {
    set(order[place[s]], static_cast<double>(std::clamp(stop.y[s] - stop.tau, 0.0L, 1.0L)));
  }
  call.set_tau(r, static_cast<double>(sorted[stop.anchor] - stop.below));
}

}  // namespace

template <class T>
void sparsek(const SparsekCall& call, const RowsOf<const T>& z, const RowsOf<T>& p) {
  for (Offset r = 0; r < z.rows(); ++r) {
    check_stop();
    row(call, r, z, p);
  }
}

template void sparsek<float>(const SparsekCall&, const RowsOf<const float>&, const RowsOf<float>&);
template void sparsek<double>(const SparsekCall&, const RowsOf<const double>&, const RowsOf<double>&);
template void sparsek<bf16>(const SparsekCall&, const RowsOf<const bf16>&, const RowsOf<bf16>&);

}  // namespace manyhop::ops::reference
