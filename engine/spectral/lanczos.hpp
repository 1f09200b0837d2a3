// Lanczos for both ends of a symmetric operator in one run, without restarts and without
// reorthogonalisation.
//
// Orthogonality is lost towards pairs that have converged and nothing else (Paige 1971), so up to the
// residual wanted here (well above the root of rounding) the ends are those of exact arithmetic; later copies
// of an end that has converged do not move the other one.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/graphs/base/memory.hpp"

namespace manyhop::spectral {

struct SymmetricProblem;

/// Largest (top) or smallest eigenvalue of the tridiagonal matrix with `diagonal` and `off` (off[k] beside
/// k, k + 1) by bisection, and its unit vector by a twisted factorisation (Dhillon, Parlett 2004).   Cost
/// O(60 n).
struct TridiagonalEnd {
  double value = 0;
  std::vector<double> vector;
};
TridiagonalEnd tridiagonal_end(const std::vector<double>& diagonal, const std::vector<double>& off, bool top);

class Lanczos {
 public:
  /// The basis may take `max_bytes`. Where doubles for `likely_steps` would be large it is kept in single
  /// precision, which may cost refine() a few products; sooner for a `goal` that rounding does not touch.
  Lanczos(const SymmetricProblem& problem, std::size_t max_bytes, int likely_steps, double goal);

  /// Forgets everything; x need not have length 1.
  void start(std::vector<double> x);
  /// Steps until the wanted ends are expected to have a residual of at most `goal`, `steps` more steps were
  /// taken, or the basis is full.   Each step is one product and about ten passes over a vector.
  void run(int steps, bool top, bool bottom, double goal);

  bool converged(bool top) const { return ends_[top ? 0 : 1].converged; }
  /// From the next start() on products are exact.
  void be_exact() { exact_ = true; }
  bool rounds() const { return rounded_; }  // a product of this run was of rounded vectors
  bool full() const { return static_cast<int>(alpha_.size()) >= capacity_; }
  int steps() const { return static_cast<int>(alpha_.size()); }
  /// Ritz vector of an end, length 1.   Cost O(n steps).
  std::vector<double> vector(bool top) const;

 private:
  struct End {
    bool converged = false;
    std::vector<double> share;  // of each basis vector
  };
  /// A column of the basis, of a block of several.
  template <class T>
  using Basis = std::vector<std::vector<T, BlockAllocator<T>>>;
  template <class T>
  T* column(Basis<T>& basis, int k);
  template <class T>
  const T* column(const Basis<T>& basis, int k) const;
  template <class T>
  void combine(const Basis<T>& basis, const std::vector<double>& share, std::vector<double>& y) const;
  void look(double goal);
  double advance(double alpha, double beta, const std::vector<double>& along);
  void take_next(double scale);

  const SymmetricProblem& problem_;
  bool single_ = false;
  bool exact_ = false;    // no rounded products
  bool rounded_ = false;  // some were since start()
  int capacity_ = 0;
  int block_ = 1;  // columns of the basis that are allocated at once
  Basis<double> basis_;
  Basis<float> basis_single_;
  std::vector<double> alpha_, beta_;  // beta_[k] between steps k and k + 1
  std::vector<double> v_, before_, w_;
  std::vector<double> along_before_;  // what before_ has of each known vector
  int next_look_ = 0;
  double expected_[2] = {0, 0};  // residuals of the ends at the last look
  int looked_ = 0;               // steps then
  bool broken_ = false;          // the space is invariant
  End ends_[2];
};

/// The end of the spectrum within the span of x and `steps` products, with full orthogonalisation: takes
/// rounding of single precision off a vector that is nearly there.
std::vector<double> refine(const SymmetricProblem& problem, std::vector<double> x, bool top, int steps);

}  // namespace manyhop::spectral
