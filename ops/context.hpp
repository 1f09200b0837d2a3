// Where and under which limits work runs: threads, memory, backend, stop flag, progress; and the workspace
// that run-type calls take their scratch memory from. One context for each caller's thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace manyhop {

enum class Backend : std::uint8_t { reference, cpu, cuda };

/// Grows to the largest request and keeps it; memory is not initialised. 64-byte aligned.
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(Workspace&&) noexcept;
  Workspace& operator=(Workspace&&) noexcept;
  std::byte* reserve(std::size_t bytes);
  /// Uses the caller's memory (64-byte aligned) for requests up to `bytes`, and does not free it.
  void lend(std::byte* memory, std::size_t bytes);
  std::size_t capacity() const;
  void release();

 private:
  struct Free {
    std::size_t bytes;  // 0: lent
    void operator()(std::byte* pointer) const;
  };
  std::unique_ptr<std::byte, Free> block_;
  std::size_t capacity_ = 0;
};

struct Context {
  int threads = 0;               // 0: MANYHOP_THREADS, else the hardware's count
  std::size_t memory_limit = 0;  // bytes; 0: half of the machine's memory
  Backend backend = Backend::cpu;
  // cuda: tensors lie in device memory, work is queued on this cudaStream_t and calls return at once
  // (gradients to the teleport wait). Absent: tensors lie on the host; a call copies them, computes and
  // waits.
  std::optional<std::uintptr_t> stream = std::nullopt;
  const std::atomic<bool>* stop = nullptr;  // polled between tasks; raised: Interrupted
  std::function<void(std::string_view, double)> progress =
      {};  // stage, share done in [0, 1]; called from the caller's thread or a worker
  mutable Workspace workspace = {};

  std::size_t limit() const;  // memory_limit resolved
};

/// Backends that can run: what is linked into this build and, for cuda, has a device.
std::vector<std::string> available_backends();
std::string_view name_of(Backend backend);
/// Throws ValueError naming `what`, the backend and the available ones when this build lacks the context's
/// backend.
void require_backend(const Context& ctx, std::string_view what);
/// The same for operations that only the reference and cpu backends have.
void require_host_backend(const Context& ctx, std::string_view what);
/// The instruction set that the cpu backend runs on: the best that machine and build have, or the one that
/// MANYHOP_SIMD names (avx512, avx2, sse4, ...; read once). Bits differ between instruction sets, for sums
/// are cut by vector width. Throws ValueError listing the available ones.
std::string_view simd_name();
/// Instruction sets that this build has kernels for and that rank before simd_name(), comma separated.
std::string simd_rejected();
/// What multiplies bf16 tiles, where storage is bf16: "amx", "avx512bf16" (AVX-512's products of bf16 pairs),
/// "" (vectors do it), or "emulated" (plain loops that do what these do, for tests).
/// MANYHOP_TILES=none|emulated|amx|avx512bf16 chooses (read once); by default the first of amx and avx512bf16
/// that processor and system have, where MANYHOP_SIMD leaves AVX-512. Throws ValueError where one that is
/// asked for cannot be had.
std::string_view tiles_name();
/// Why tiles_name() is empty; empty where it is not.
std::string tiles_rejected();
/// Throws ValueError listing the available ones.
Backend backend_of(std::string_view name);

}  // namespace manyhop
