#include "manyhop/graphs/base/parallel.hpp"

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "manyhop/graphs/base/error.hpp"

namespace manyhop {

struct ThreadScope::State {
  std::shared_ptr<tbb::task_arena> arena;
  int threads = 1;
  const std::atomic<bool>* stop = nullptr;
};

namespace {

thread_local std::shared_ptr<ThreadScope::State> current;
std::atomic<int> default_threads{0};

int environment_threads() {
  if (const char* text = std::getenv("MANYHOP_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && value >= 1 && value <= 4096) return static_cast<int>(value);
  }
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

constexpr int kMostThreads = 1024;  // an arena reserves a slot for each thread, used or not

int resolve(int threads) {
  if (threads > 0) return std::min(threads, kMostThreads);
  const int chosen = default_threads.load(std::memory_order_relaxed);
  return std::min(chosen > 0 ? chosen : environment_threads(), kMostThreads);
}

// Arenas live as long as the process: creating one per call costs more than a small graph.
std::shared_ptr<tbb::task_arena> arena_of(int threads) {
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<tbb::task_arena>> arenas;
  const std::lock_guard lock(mutex);
  auto& arena = arenas[threads];
  if (!arena) {
    // Without leave TBB starts no more workers than the machine has cores, whatever an arena asks for. The
    // control lives as long as the process, like the workers.
    static tbb::global_control* control = nullptr;
    static int allowed = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    if (threads > allowed) {
      delete control;
      control = new tbb::global_control(tbb::global_control::max_allowed_parallelism,
                                        static_cast<std::size_t>(threads));
      allowed = threads;
    }
    arena = std::make_shared<tbb::task_arena>(threads, 1);
  }
  return arena;
}

std::shared_ptr<ThreadScope::State> make_state(int threads, const std::atomic<bool>* stop) {
  auto state = std::make_shared<ThreadScope::State>();
  state->threads = resolve(threads);
  state->arena = arena_of(state->threads);
  state->stop = stop;
  return state;
}

void check(const ThreadScope::State* state) {
  if (state && state->stop && state->stop->load(std::memory_order_relaxed)) {
    throw Interrupted("interrupted: the stop flag was raised");
  }
}

// A worker thread sees the scope of the thread that started the loop, also in nested loops.
class Inherit {
 public:
  explicit Inherit(const std::shared_ptr<ThreadScope::State>& state)
      : saved_(std::exchange(current, state)) {}
  ~Inherit() { current = std::move(saved_); }
  Inherit(const Inherit&) = delete;
  Inherit& operator=(const Inherit&) = delete;

 private:
  std::shared_ptr<ThreadScope::State> saved_;
};

}  // namespace

void set_default_threads(int threads) { default_threads.store(threads, std::memory_order_relaxed); }

int thread_count() { return current ? current->threads : resolve(0); }

void check_stop() { check(current.get()); }

void parallel_for(std::int64_t chunks, const std::function<void(std::int64_t)>& body) {
  if (chunks <= 0) return;
  const auto state = current ? current : make_state(0, nullptr);
  if (chunks == 1 || state->threads == 1) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      check(state.get());
      body(chunk);
    }
    return;
  }
  // Isolated: a thread that waits here for its inner chunks must not pick up an outer one, which could ask
  // for the very lock (a graph's call_once) that the waiting thread holds.
  state->arena->execute([&] {
    tbb::this_task_arena::isolate([&] {
      tbb::parallel_for(std::int64_t{0}, chunks, [&](std::int64_t chunk) {
        check(state.get());
        const Inherit inherit(state);
        body(chunk);
      });
    });
  });
}

void parallel_ranges(std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body) {
  parallel_for((count + grain - 1) / grain,
               [&](std::int64_t chunk) { body(chunk * grain, std::min(count, (chunk + 1) * grain)); });
}

ThreadScope::ThreadScope(int threads, const std::atomic<bool>* stop)
    : previous_(std::exchange(current, make_state(threads, stop))) {}

ThreadScope::~ThreadScope() { current = std::move(previous_); }

}  // namespace manyhop
