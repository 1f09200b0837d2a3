// manyhop._core: what pickles of selections and caches hold, as bytes in the machine's order, and back.
// Pickles come from anywhere: whatever is read is checked before it is used.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "manyhop/engine/sparsek/cache.hpp"
#include "manyhop/graphs/base/error.hpp"

namespace manyhop::python {

template <class T>
nb::bytes bytes_of(const std::vector<T>& values) {
  return nb::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

/// Throws ValueError where the bytes are no whole number of T.
template <class T>
std::vector<T> vector_of(const nb::bytes& bytes) {
  if (bytes.size() % sizeof(T) != 0) throw ValueError("sparsek: bytes that no state has");
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// A cache's state as bytes, in the machine's order: (tokens, fixed, kept, positions, numbers of each
/// selection, how many keys it has of either kind, the keys' scores and positions).
template <class T>
nb::tuple packed(const typename SparsekCache<T>::State& state) {
  std::vector<double> numbers, scores;
  std::vector<Offset> counts;
  std::vector<Index> positions;
  for (const CausalSparsek::State& one : state.selections) {
    numbers.insert(numbers.end(), {one.tau, one.lost, one.sum, one.sum_rest});
    for (const auto* keys : {&one.between, &one.full}) {
      counts.push_back(static_cast<Offset>(keys->size()));
      for (const CausalSparsek::Key& key : *keys) {
        scores.push_back(key.score);
        positions.push_back(key.position);
      }
    }
  }
  return nb::make_tuple(state.tokens, bytes_of(state.fixed), bytes_of(state.kept), bytes_of(state.positions),
                        bytes_of(numbers), bytes_of(counts), bytes_of(scores), bytes_of(positions));
}

template <class T>
typename SparsekCache<T>::State unpacked(Offset tokens, const nb::bytes& fixed, const nb::bytes& kept,
                                         const nb::bytes& places, const nb::bytes& number_bytes,
                                         const nb::bytes& count_bytes, const nb::bytes& score_bytes,
                                         const nb::bytes& position_bytes) {
  const auto numbers = vector_of<double>(number_bytes);
  const auto counts = vector_of<Offset>(count_bytes);
  const auto scores = vector_of<double>(score_bytes);
  const auto positions = vector_of<Index>(position_bytes);
  if (numbers.size() % 4 != 0 || counts.size() != numbers.size() / 2 || scores.size() != positions.size())
    throw ValueError("sparsek: arrays of unequal length, which no state has");
  typename SparsekCache<T>::State state{
      tokens, vector_of<T>(fixed), vector_of<T>(kept), vector_of<Index>(places), {}};
  std::size_t next = 0;
  for (std::size_t s = 0; s < numbers.size() / 4; ++s) {
    const double* const n = numbers.data() + 4 * s;
    CausalSparsek::State one{tokens, n[0], n[1], n[2], n[3], {}, {}};
    for (auto* keys : {&one.between, &one.full}) {
      const Offset count = counts[2 * s + (keys == &one.full ? 1 : 0)];
      if (count < 0 || static_cast<std::size_t>(count) > scores.size() - next)
        throw ValueError("sparsek: more keys than there are");
      for (Offset i = 0; i < count; ++i, ++next) keys->push_back({scores[next], positions[next]});
    }
    state.selections.push_back(std::move(one));
  }
  return state;
}

/// A selection from its arrays.   Throws ValueError for those that no selection has.
inline CausalSelection selection_of(const CausalOptions& options, const nb::bytes& score,
                                    const nb::bytes& tau, const nb::bytes& until, Offset capped_rows) {
  CausalSelection s;
  s.options = CausalSparsek(options).options();
  s.score = vector_of<double>(score);
  s.tau = vector_of<double>(tau);
  s.until = vector_of<Index>(until);
  s.capped_rows = capped_rows;
  const Offset n = s.rows();
  bool fits = s.score.size() == s.tau.size() && s.until.size() == s.tau.size() && n <= kMaxVertices &&
              capped_rows >= 0 && capped_rows <= n;
  for (std::size_t j = 0; fits && j < s.tau.size(); ++j) {
    const Offset from = static_cast<Offset>(j);
    const Offset until_row = std::min<Offset>(s.until[j], n);
    fits = !std::isnan(s.score[j]) && !std::isnan(s.tau[j]) && s.until[j] >= from &&
           (s.until[j] < n || s.until[j] == CausalSelection::kOpen);
    s.edges += until_row - from;
  }
  if (!fits) throw ValueError("sparsek: arrays that no selection has");
  return s;
}

}  // namespace manyhop::python
