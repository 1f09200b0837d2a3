#include "manyhop/ops/context.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/memory.hpp"

namespace manyhop {

Workspace::Workspace() = default;
Workspace::~Workspace() = default;
Workspace::Workspace(Workspace&&) noexcept = default;
Workspace& Workspace::operator=(Workspace&&) noexcept = default;

void Workspace::Free::operator()(std::byte* pointer) const {
  if (bytes > 0) free_block(pointer, bytes);
}

std::byte* Workspace::reserve(std::size_t bytes) {
  if (bytes > capacity_) {
    release();
    block_ = std::unique_ptr<std::byte, Free>(static_cast<std::byte*>(allocate_block(bytes)), Free{bytes});
    capacity_ = bytes;
  }
  return block_.get();
}

void Workspace::lend(std::byte* memory, std::size_t bytes) {
  block_ = std::unique_ptr<std::byte, Free>(memory, Free{0});
  capacity_ = bytes;
}

std::size_t Workspace::capacity() const { return capacity_; }

void Workspace::release() {
  block_.reset();
  capacity_ = 0;
}

std::size_t Context::limit() const {
  if (memory_limit > 0) return memory_limit;
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGE_SIZE);
  if (pages <= 0 || page <= 0) return std::size_t{8} << 30;
  return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page) / 2;
}

std::vector<std::string> available_backends() { return {"reference", "cpu"}; }

std::string_view name_of(Backend backend) {
  switch (backend) {
    case Backend::reference:
      return "reference";
    case Backend::cpu:
      return "cpu";
    case Backend::cuda:
      return "cuda";
  }
  return "?";
}

void require_backend(const Context& ctx, std::string_view what) {
  if (ctx.backend == Backend::reference || ctx.backend == Backend::cpu) return;
  throw ValueError(fmt::format("{}: backend '{}' is not in this build, which has {}", what,
                               name_of(ctx.backend), fmt::join(available_backends(), ", ")));
}

Backend backend_of(std::string_view name) {
  if (name == "reference") return Backend::reference;
  if (name == "cpu") return Backend::cpu;
  throw ValueError(fmt::format("backend: '{}' is not in this build, which has {}", name,
                               fmt::join(available_backends(), ", ")));
}

}  // namespace manyhop
