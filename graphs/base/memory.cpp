#include "manyhop/graphs/base/memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "manyhop/graphs/base/parallel.hpp"

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

void fetch_large_pages(void* begin, std::size_t bytes) {
  if (bytes < kLargeBlock) return;
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::size_t skipped = (kPage - address % kPage) % kPage;
  std::byte* const first = static_cast<std::byte*>(begin) + skipped;
  const std::size_t pages = (bytes - skipped) / kPage;
  madvise(first, pages * kPage, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
  parallel_for(static_cast<std::int64_t>(pages), [&](std::int64_t page) {
    madvise(first + static_cast<std::size_t>(page) * kPage, kPage, MADV_POPULATE_WRITE);
  });
#endif
}

void free_block(void* block, std::size_t bytes) noexcept { ::operator delete(block, alignment(bytes)); }

}  // namespace manyhop
