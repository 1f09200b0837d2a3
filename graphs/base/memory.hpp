// Memory for large blocks: on pages of 2 MiB where the system has them on request. Rows of one head of
// [n, h, d] tensors lie a token apart, each on a page of its own, and with pages of 4 KiB the walk through
// the page table takes longer than the row (4096 tokens, 12 heads of 64 floats: 1.1 to 1.2 times the whole
// run).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace manyhop {

/// From this size on blocks start on a large page.
inline constexpr std::size_t kLargeBlock = std::size_t{4} << 20;

/// Not initialised, 64-byte aligned. Throws std::bad_alloc.
void* allocate_block(std::size_t bytes);
void free_block(void* block, std::size_t bytes) noexcept;

/// Asks for large pages under memory that somebody else allocated and nobody has touched yet, and has all
/// threads fetch them. Advice only.   Throws Interrupted.
void fetch_large_pages(void* begin, std::size_t bytes);

/// resize() of a vector that has nothing yet: the zeros of 92 MB take 10 ms instead of 40 (pages of 4 KiB),
/// or of 55 where a virtual machine has to ask for the memory.
template <class T>
void resize_large(std::vector<T>& vector, std::size_t count) {
  vector.reserve(count);
  fetch_large_pages(vector.data(), count * sizeof(T));
  vector.resize(count);
}

/// For containers.
template <class T>
struct BlockAllocator {
  using value_type = T;
  BlockAllocator() = default;
  template <class U>
  BlockAllocator(const BlockAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(std::size_t count) { return static_cast<T*>(allocate_block(count * sizeof(T))); }
  void deallocate(T* block, std::size_t count) noexcept { free_block(block, count * sizeof(T)); }
  friend bool operator==(const BlockAllocator&, const BlockAllocator&) { return true; }
};

}  // namespace manyhop
