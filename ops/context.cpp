#include "manyhop/ops/context.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/machine.hpp"
#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/ops/cuda/attention.hpp"

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

std::size_t Context::limit() const { return memory_limit > 0 ? memory_limit : half_of_memory(); }

std::vector<std::string> available_backends() {
  std::vector<std::string> names{"reference", "cpu"};
  if (ops::cuda::unavailable().empty()) names.emplace_back("cuda");
  return names;
}

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

namespace {

/// What to say of a backend that cannot run; empty where it can.
std::string missing(Backend backend, std::string_view name) {
  std::string why;
  if (backend == Backend::reference || backend == Backend::cpu) return why;
  if (backend == Backend::cuda && ops::cuda::compiled()) {
    why = ops::cuda::unavailable();
    if (!why.empty()) why += fmt::format("; there are {}", fmt::join(available_backends(), ", "));
    return why;
  }
  return fmt::format("'{}' is not in this build, which has {}", name, fmt::join(available_backends(), ", "));
}

}  // namespace

void require_backend(const Context& ctx, std::string_view what) {
  const std::string why = missing(ctx.backend, name_of(ctx.backend));
  if (!why.empty()) throw ValueError(fmt::format("{}: backend {}", what, why));
}

void require_host_backend(const Context& ctx, std::string_view what) {
  require_backend(ctx, what);
  if (ctx.backend == Backend::reference || ctx.backend == Backend::cpu) return;
  throw ValueError(fmt::format("{}: backend '{}' has no such operation, reference and cpu have", what,
                               name_of(ctx.backend)));
}

Backend backend_of(std::string_view name) {
  if (name == "reference") return Backend::reference;
  if (name == "cpu") return Backend::cpu;
  const bool cuda = name == "cuda";
  const std::string why = cuda ? missing(Backend::cuda, name)
                               : fmt::format("'{}' is not in this build, which has {}", name,
                                             fmt::join(available_backends(), ", "));
  if (!why.empty()) throw ValueError(fmt::format("backend: {}", why));
  return Backend::cuda;
}

}  // namespace manyhop
