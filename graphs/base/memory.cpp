#include "manyhop/graphs/base/memory.hpp"

#include <sys/mman.h>

#include <new>

namespace manyhop {

namespace {
constexpr std::size_t kPage = std::size_t{2} << 20;
std::align_val_t alignment(std::size_t bytes) { return std::align_val_t{bytes < kLargeBlock ? 64 : kPage}; }
}  // namespace

void* allocate_block(std::size_t bytes) {
  void* block = ::operator new(bytes, alignment(bytes));
  // Whole pages only: the last part one would be held in full. Advice may be refused, and nothing is lost.
  if (bytes >= kLargeBlock) madvise(block, bytes / kPage * kPage, MADV_HUGEPAGE);
  return block;
}

void free_block(void* block, std::size_t bytes) noexcept { ::operator delete(block, alignment(bytes)); }

}  // namespace manyhop
