// Threads are oneTBB's, which tasks.cpp alone names. Work is cut into chunks by the *structure* of the
// problem, never by the number of threads, so that every result has the same bits for any thread count.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace manyhop {

/// Calls body(c) once for each c in [0, chunks), on the threads of the innermost ThreadScope of the caller
/// (or of the process default). Polls the scope's stop flag between chunks and throws Interrupted once it is
/// raised. Order is unspecified: a chunk may write only what it owns. An exception of a chunk reaches the
/// caller.
void parallel_for(std::int64_t chunks, const std::function<void(std::int64_t)>& body);

/// Rows are cut into fixed chunks of `grain`: body(begin, end) with end - begin <= grain.
void parallel_ranges(std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body);

/// The most that MANYHOP_THREADS and --threads name; loops take up to 1024 of them.
inline constexpr int kMostNamedThreads = 4096;

/// Threads that parallel_for would use here. Throws ValueError for a MANYHOP_THREADS that is no such number.
int thread_count();

/// Sets the process default (0: MANYHOP_THREADS, else the hardware's count).   Throws ValueError below 0.
void set_default_threads(int threads);

/// Throws Interrupted when the stop flag of the current scope is raised; for long serial loops.
void check_stop();

/// While alive, parallel_for of this thread runs in an arena of `threads` threads (0: the default) and polls
/// `stop`.   Throws ValueError for less than 0 threads, or a default that MANYHOP_THREADS spoils.
class ThreadScope {
 public:
  explicit ThreadScope(int threads, const std::atomic<bool>* stop = nullptr);
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

  struct State;

 private:
  std::shared_ptr<State> previous_;
};

}  // namespace manyhop
