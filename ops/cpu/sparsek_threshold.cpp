#include "manyhop/ops/cpu/sparsek_threshold.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "manyhop/ops/cpu/sparsek_kernels.hpp"

namespace manyhop::ops::cpu {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kSortFrom = 24;      // so few are sorted at once
constexpr std::size_t kSampleFrom = 1024;  // so many are worth a sample
constexpr std::size_t kSample = 128;
constexpr Offset kNarrowFrom = 512;  // shorter lists are summed faster than taken apart
constexpr int kSteps = 48;  // a bracket that has not closed by then never shrinks; rows of noise take 4 to 8

struct Guess {
  double low;
  double high;
};

// tau of a sample, for as many more and fewer than its share of k as chance may bring (two deviations).
Guess guess(std::span<const double> x, double k) {
  double sample[kSample];
  const std::size_t step = x.size() / kSample;
  for (std::size_t i = 0; i < kSample; ++i) sample[i] = x[i * step];
  const double share = k * static_cast<double>(kSample) / static_cast<double>(x.size());
  const double spread = 1 + 2 * std::sqrt(share);
  Guess found{-kInfinity, 0};
  if (share + spread < static_cast<double>(kSample)) {
    found.low = threshold_by_sorting(sample, share + spread).sum();
  }
  found.high = threshold_by_sorting(sample, std::max(0.0, share - spread)).sum();
  return found;
}

}  // namespace

// As the reference walks, but in double: gaps of more than 1 count as 1, so that nothing is lost where scores
// lie far apart, and tau is computed afresh from the scores it leaves strictly between.
Threshold threshold_by_sorting(std::span<double> x, double k) {
  std::sort(x.begin(), x.end(), std::greater<>());
  const std::size_t n = x.size();
  std::size_t entered = 0;    // above tau
  std::size_t saturated = 0;  // at or above tau + 1
  double t = 0;               // on an axis that starts at x[0] and whose gaps are cut
  double enters = 0;          // x[entered] on it
  double saturates = -1;      // x[saturated] - 1 on it
  double sum = 0;
  const auto gap = [&](std::size_t i) { return x[i - 1] == x[i] ? 0 : std::min(x[i - 1] - x[i], 1.0); };
  while (true) {
    while (entered < n && enters >= t) {
      ++entered;
      enters = entered < n ? enters - gap(entered) : -kInfinity;
    }
    while (saturated < entered && saturates >= t) {
      ++saturated;
      if (saturated < n) saturates -= gap(saturated);
    }
    const double next = saturated < entered ? std::max(enters, saturates) : enters;
    const auto active = static_cast<double>(entered - saturated);
    const double there = sum + active * (t - next);
    if (there > k || next == -kInfinity) break;
    sum = there;
    t = next;
  }
  const auto between = x.subspan(saturated, entered - saturated);
  if (between.empty()) return {x[entered - 1], 0};
  const double base = between.front();
  double total = 0;
  for (const double value : between) total += value - base;
  return {base, (total - (k - static_cast<double>(saturated))) / static_cast<double>(between.size())};
}

bool threshold_by_search(std::span<double> x, double k, double lowest, double& tau, double slack) {
  if (x.size() <= kSortFrom) {
    const Threshold found = threshold_by_sorting(x, k);
    tau = std::max(found.sum(), lowest);
    return true;
  }
  const SearchKernels kernels = search_kernels();
  double lo = -kInfinity;  // more than k there
  double hi = 0;           // at most k there
  double next = lowest;    // points to ask about, in turn; then Newton's
  double then = -kInfinity;
  if (next == -kInfinity) {
    if (x.size() >= kSampleFrom) {
      const Guess sample = guess(x, k);
      next = sample.low;
      then = sample.high;
    }
    if (next == -kInfinity) next = *std::min_element(x.begin(), x.end()) - 1;
  }
  GateSums settled;  // scores that have left the list
  auto n = static_cast<Offset>(x.size());
  double seen_inner = -1;  // how many were between and at 1 where Newton set out
  double seen_full = -1;
  for (int step = 0; step < kSteps; ++step) {
    const GateSums here = kernels.sums(x.data(), n, next);
    const double inner = settled.inner + here.inner;
    const double full = settled.full + here.full;
    const double inner_sum = settled.inner_sum + here.inner_sum;
    const double newton = inner > 0 ? (inner_sum - (k - full)) / inner : -kInfinity;
    // The same scores between and at 1 at both ends: the step was exact.
    if (inner > 0 && inner == seen_inner && full == seen_full) {
      tau = newton;
      return true;
    }
    const double over = full + inner_sum - inner * next - k;
    if (over <= 0 && next == lowest) {
      tau = lowest;
      return true;
    }
    if (over == 0 && inner > 0) {
      tau = next;
      return true;
    }
    if (over == 0) {  // a stretch without slope; it ends at the next score below
      double below = -kInfinity;
      for (Offset i = 0; i < n; ++i) {
        const double value = x[static_cast<std::size_t>(i)];
        if (value <= next) below = std::max(below, value);
      }
      tau = std::max({below, lo, lowest});
      return std::isfinite(tau);
    }
    (over > 0 ? lo : hi) = next;
    if (over > 0 && inner > 0 && newton - next < slack) {
      tau = next;
      return true;
    }
    seen_inner = inner;
    seen_full = full;
    if (then > lo && then < hi) {
      next = then;
      then = -kInfinity;
      seen_inner = -1;
    } else if (newton > lo && newton < hi) {
      next = newton;
    } else {
      next = lo + (hi - lo) / 2;
      seen_inner = -1;
      if (!(next > lo && next < hi)) return false;
    }
    if (n > kNarrowFrom && lo > -kInfinity && hi < 0 && hi - lo < 0.5) {
      n = kernels.narrow(x.data(), n, lo, hi, settled);
    }
  }
  return false;
}

}  // namespace manyhop::ops::cpu
