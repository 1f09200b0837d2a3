// Included once by each mutation program: no single allocation may pass 64 MiB, whatever a header claims.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace manyhop::fuzz {
inline constexpr std::size_t kLargestBlock = std::size_t{64} << 20;
}

#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // GCC 12 at -O1 does not pair the two below
void* operator new(std::size_t size) {
  if (size > manyhop::fuzz::kLargestBlock) throw std::bad_alloc();
  void* block = std::malloc(size == 0 ? 1 : size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return size > manyhop::fuzz::kLargestBlock ? nullptr : std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
