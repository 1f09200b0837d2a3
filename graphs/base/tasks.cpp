#include "manyhop/graphs/base/tasks.hpp"

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <thread>

namespace manyhop::tasks {

struct Arena {
  explicit Arena(int threads) : arena(threads, 1) {}
  tbb::task_arena arena;
};

Arena* make_arena(int threads) {
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
  return new Arena(threads);
}

void run(Arena& arena, std::int64_t chunks, void (*body)(void* data, std::int64_t chunk), void* data) {
  // Isolated: a thread that waits here for its inner chunks must not pick up an outer one, which could ask
  // for the very lock (a graph's call_once) that the waiting thread holds.
  arena.arena.execute([&] {
    tbb::this_task_arena::isolate(
        [&] { tbb::parallel_for(std::int64_t{0}, chunks, [&](std::int64_t chunk) { body(data, chunk); }); });
  });
}

}  // namespace manyhop::tasks
