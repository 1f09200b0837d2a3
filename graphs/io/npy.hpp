// The header of a .npy array and its numbers, shared by .npy files and the members of .npz archives.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"

namespace manyhop {

struct NpyArray {
  std::string name;       // for messages
  char kind = 'f';        // f, i, u, b (bool) or a kind that only shows() reads: S, U
  std::size_t width = 8;  // bytes of an item
  bool swapped = false;   // big-endian
  bool fortran = false;
  std::vector<Offset> shape;
  Offset count = 0;         // product of shape
  std::size_t data_at = 0;  // byte where the items begin
  std::string_view items;   // count x width bytes

  [[noreturn]] void fail(std::size_t byte, const std::string& message) const;
  std::size_t byte_of(Offset item) const { return data_at + static_cast<std::size_t>(item) * width; }
  /// Item as an integer; a FileError when the kind is not integer or the value is past int64.
  Offset integer(Offset item) const;
  /// Item as a double; a FileError when an integer is not held exactly.
  double number(Offset item) const;
  /// Item of kind S or U as text.
  std::string text() const;
};

/// Parses header and checks that exactly the promised bytes follow. `bytes` must outlive the result.
NpyArray parse_npy_array(std::string_view bytes, const std::string& name);
/// Version 1.0 header (64-byte aligned) of a C-order array.
std::string npy_header(std::string_view descr, const std::vector<Offset>& shape);

}  // namespace manyhop
