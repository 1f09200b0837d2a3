// Cholesky factors of banded symmetric operators, for shift-invert: the envelope (skyline) of a matrix under
// its natural or reverse Cuthill-McKee order. A factorisation that succeeds proves that no eigenvalue lies
// beyond the shift.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "manyhop/engine/spectral/operator.hpp"

namespace manyhop::spectral {

class Skyline {
 public:
  /// The envelope of an operator, or nothing when its factor would pass `max_entries` numbers or the
  /// factorisation `max_work` multiply-adds.   Cost O(n + m).
  static std::optional<Skyline> plan(const SymmetricOperator& op, Offset max_entries, double max_work);

  /// The same in the order of the vertices as they are.   Cost O(n + runs).
  static std::optional<Skyline> natural(const SymmetricOperator& op, Offset max_entries, double max_work);

  /// Factors sign (H - sigma I); false when that is not positive definite.   Polls the stop flag.
  bool factor(const SymmetricOperator& op, double sign, double sigma);
  /// y = (sign (H - sigma I))^-1 x of the last successful factor().   Cost O(entries).
  void solve(const double* x, double* y) const;

  Offset entries() const { return starts_.back(); }
  double work() const { return work_; }  // multiply-adds of a factorisation

 private:
  void take(std::vector<Index> order, std::vector<Index> first, double work);

  std::vector<Index> order_;     // order_[position] = vertex
  std::vector<Index> position_;  // its inverse
  std::vector<Index> first_;     // first stored column of a row
  std::vector<Offset> starts_;   // row i: values_[starts_[i] ..), columns first_[i] .. i
  std::vector<double> values_;
  double work_ = 0;
};

}  // namespace manyhop::spectral
