// How a Python call runs: no lock of the interpreter, a context of its own, Ctrl-C heard.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "manyhop/ops/context.hpp"

namespace manyhop::python {

namespace nb = nanobind;

/// A context from a pool: its workspace stays warm from one call to the next. One caller at a time.
class Lease {
 public:
  explicit Lease(int threads, std::size_t memory_limit = 0);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Context& context() { return *context_; }

 private:
  std::unique_ptr<Context> context_;
};

/// The memory limit of calls that are given none; 0: half of the machine's memory.
void set_default_limit(std::size_t bytes);

/// A uint8 array whose memory comes from blocks of the same size that arrays before it gave back: a training
/// step frees and takes the same states again, and fresh pages would cost a tenth of its time.
nb::object pooled_array(std::size_t bytes);

/// Gives the workspaces of idle contexts and the blocks of arrays that are gone back to the system.
void release_memory();

/// While alive on the main thread, SIGINT raises `flag` before Python's own handler notes it.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
  const std::atomic<bool>* flag() const;

 private:
  bool installed_ = false;
};

/// f(context) without the interpreter's lock. Interrupted becomes what Python's handler of SIGINT raises.
template <class F>
auto run(int threads, std::size_t memory_limit, F&& f, Backend backend = Backend::cpu,
         std::optional<std::uintptr_t> stream = std::nullopt) {
  Lease lease(threads, memory_limit);
  lease.context().backend = backend;
  lease.context().stream = stream;
  const InterruptScope interrupt;
  lease.context().stop = interrupt.flag();
  const nb::gil_scoped_release unlocked;
  return f(std::as_const(lease.context()));
}

}  // namespace manyhop::python
