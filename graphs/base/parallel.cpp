#include "manyhop/graphs/base/parallel.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/tasks.hpp"

// ThreadSanitizer cannot see how libtbb hands a chunk to another thread (it is not built for it), so the loop
// tells: what the caller wrote is seen by the chunks, and what the chunks wrote by the caller after the loop.
#if defined(__SANITIZE_THREAD__)
#define MANYHOP_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MANYHOP_TSAN 1
#endif
#endif
#ifdef MANYHOP_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace manyhop {

struct ThreadScope::State {
  tasks::Arena* arena = nullptr;
  int threads = 1;
  const std::atomic<bool>* stop = nullptr;
};

namespace {

#ifdef MANYHOP_TSAN
void acquire(void* address) { __tsan_acquire(address); }
void release(void* address) { __tsan_release(address); }
#else
void acquire(void*) {}
void release(void*) {}
#endif

thread_local std::shared_ptr<ThreadScope::State> current;
std::atomic<int> default_threads{0};

constexpr int kMostThreads = 1024;  // an arena reserves a slot for each thread, used or not

int environment_threads() {
  const char* const text = std::getenv("MANYHOP_THREADS");
  if (text == nullptr || *text == '\0')
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const std::string_view digits = text;
  int value = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
  if (error != std::errc() || end != digits.end() || value < 1 || value > kMostNamedThreads) {
    throw ValueError("MANYHOP_THREADS is '" + std::string(digits) + "': expected an integer from 1 to " +
                     std::to_string(kMostNamedThreads) + ", or nothing for all cores");
  }
  return value;
}

void check_threads(int threads) {
  if (threads < 0) {
    throw ValueError("threads: " + std::to_string(threads) +
                     ", at least 0 is wanted (0: MANYHOP_THREADS, else all cores)");
  }
}

int resolve(int threads) {
  check_threads(threads);
  if (threads > 0) return std::min(threads, kMostThreads);
  const int chosen = default_threads.load(std::memory_order_relaxed);
  return std::min(chosen > 0 ? chosen : environment_threads(), kMostThreads);
}

// Arenas live as long as the process: creating one per call costs more than a small graph.
tasks::Arena* arena_of(int threads) {
  static std::mutex mutex;
  static auto& arenas = *new std::map<int, tasks::Arena*>();  // never destroyed: workers may outlive main
  const std::lock_guard lock(mutex);
  auto& arena = arenas[threads];
  if (arena == nullptr) arena = tasks::make_arena(threads);
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

// One loop on an arena. `begin` and `end` are its borders for ThreadSanitizer.
struct Loop {
  const std::function<void(std::int64_t)>& body;
  const std::shared_ptr<ThreadScope::State>& state;
  char begin = 0;
  char end = 0;

  struct Finish {
    Loop* loop;
    ~Finish() { release(&loop->end); }
  };

  void run(std::int64_t chunks) {
    release(&begin);
    const struct Wait {
      Loop* loop;
      ~Wait() { acquire(&loop->end); }
    } wait{this};
    tasks::run(
        *state->arena, chunks,
        [](void* data, std::int64_t chunk) {
          auto* loop = static_cast<Loop*>(data);
          acquire(&loop->begin);
          const Finish finish{loop};
          check(loop->state.get());
          const Inherit inherit(loop->state);
          loop->body(chunk);
        },
        this);
  }
};

}  // namespace

void set_default_threads(int threads) {
  check_threads(threads);
  default_threads.store(threads, std::memory_order_relaxed);
}

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
  Loop{body, state}.run(chunks);
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
