// The type of values on edges and of sums: double for double, else float (bf16 is storage only).
#pragma once

#include <type_traits>

namespace manyhop {

template <class T>
using EdgeValue = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// A stored value as one that can be summed, and back (bf16 rounds to nearest even).
template <class T>
EdgeValue<T> widen(T value) {
  return static_cast<EdgeValue<T>>(value);
}
template <class T, class V>
T narrow(V value) {
  return static_cast<T>(static_cast<EdgeValue<T>>(value));
}

}  // namespace manyhop
