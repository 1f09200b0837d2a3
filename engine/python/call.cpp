#include "call.hpp"

#include <signal.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <vector>

#include "arrays.hpp"
#include "manyhop/graphs/base/memory.hpp"

namespace manyhop::python {

namespace {

struct Pool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Context>> idle;
};
// Never destroyed: threads may still give contexts back while the interpreter ends.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

std::atomic<std::size_t> default_limit{0};
std::atomic<bool> interrupted{false};
struct sigaction previous {};

void on_interrupt(int number, siginfo_t* info, void* where) {
  interrupted = true;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(number, info, where);
  } else if (previous.sa_handler != SIG_IGN && previous.sa_handler != SIG_DFL) {
    previous.sa_handler(number);
  }
}

bool main_thread() { return gettid() == getpid(); }

}  // namespace

void set_default_limit(std::size_t bytes) { default_limit = bytes; }

Lease::Lease(int threads, std::size_t memory_limit) {
  Pool& all = pool();
  {
    const std::lock_guard lock(all.mutex);
    if (!all.idle.empty()) {
      context_ = std::move(all.idle.back());
      all.idle.pop_back();
    }
  }
  if (!context_) context_ = std::make_unique<Context>();
  context_->threads = threads;
  context_->memory_limit = memory_limit > 0 ? memory_limit : default_limit.load();
}

Lease::~Lease() {
  context_->stop = nullptr;
  Pool& all = pool();
  const std::lock_guard lock(all.mutex);
  all.idle.push_back(std::move(context_));
}

namespace {

struct Blocks {
  std::mutex mutex;
  std::multimap<std::size_t, void*> idle;
  std::size_t idle_bytes = 0;
};
Blocks& blocks() {
  static Blocks& instance = *new Blocks;
  return instance;
}

struct Block {
  void* memory;
  std::size_t bytes;
};

void give_block(void* pointer) noexcept {
  const std::unique_ptr<Block> block(static_cast<Block*>(pointer));
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  if (all.idle_bytes + block->bytes > Context{}.limit() / 2) {
    free_block(block->memory, block->bytes);
    return;
  }
  all.idle.emplace(block->bytes, block->memory);
  all.idle_bytes += block->bytes;
}

void* take_block(std::size_t bytes) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.idle.find(bytes);
  if (found == all.idle.end()) return allocate_block(bytes);
  void* memory = found->second;
  all.idle.erase(found);
  all.idle_bytes -= bytes;
  return memory;
}

}  // namespace

nb::object pooled_array(std::size_t bytes) {
  auto block = std::make_unique<Block>(Block{take_block(bytes), bytes});
  void* memory = block->memory;
  const nb::capsule owner(block.release(), give_block);
  return nb::cast(nb::ndarray<nb::numpy, std::uint8_t>(memory, {bytes}, owner));
}

void release_memory() {
  {
    Pool& all = pool();
    const std::lock_guard lock(all.mutex);
    all.idle.clear();
  }
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  for (const auto& [bytes, memory] : all.idle) free_block(memory, bytes);
  all.idle.clear();
  all.idle_bytes = 0;
}

// Another handler than Python's default may want the signal for itself, and an ignored one stays ignored:
// only a handler that is there is put behind ours.
InterruptScope::InterruptScope() {
  if (!main_thread()) return;
  struct sigaction current {};
  if (sigaction(SIGINT, nullptr, &current) != 0) return;
  if ((current.sa_flags & SA_SIGINFO) == 0 &&
      (current.sa_handler == SIG_IGN || current.sa_handler == SIG_DFL))
    return;
  interrupted = false;
  previous = current;
  struct sigaction mine {};
  mine.sa_sigaction = on_interrupt;
  mine.sa_flags = SA_SIGINFO | (current.sa_flags & SA_ONSTACK);
  sigemptyset(&mine.sa_mask);
  installed_ = sigaction(SIGINT, &mine, nullptr) == 0;
}

InterruptScope::~InterruptScope() {
  if (installed_) sigaction(SIGINT, &previous, nullptr);
}

const std::atomic<bool>* InterruptScope::flag() const { return installed_ ? &interrupted : nullptr; }

}  // namespace manyhop::python
