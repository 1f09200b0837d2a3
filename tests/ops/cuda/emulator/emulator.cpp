#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

namespace {

constexpr int kLanes = 32;
constexpr std::size_t kStack = std::size_t{256} << 10;

enum class State { runs, waits, ended };

struct Lane {
  ucontext_t
      first;  // entered once; later switches are jumps, which do not ask the system for the signal mask
  jmp_buf place;
  std::unique_ptr<char[]> stack;
  bool entered = false;
  State state = State::ended;
  int round = 0;  // exchanges it has met
  std::exception_ptr error;
};

struct Warp {
  jmp_buf scheduler;
  std::array<Lane, kLanes> lanes;
  std::array<std::array<Slot, kLanes>, 2>
      slots;  // of even and odd exchanges: one lane may be an exchange ahead
  const std::function<void()>* body = nullptr;
  int current = 0;
};

void fiber();

Warp& warp() {
  static thread_local std::unique_ptr<Warp> one;
  if (!one) {
    one = std::make_unique<Warp>();
    for (Lane& each : one->lanes) {
      each.stack = std::make_unique<char[]>(kStack);
      getcontext(&each.first);
      each.first.uc_stack.ss_sp = each.stack.get();
      each.first.uc_stack.ss_size = kStack;
      each.first.uc_link = nullptr;
      makecontext(&each.first, fiber, 0);
    }
  }
  return *one;
}

long launched = 0;
int allowed_allocations = -1;
std::size_t held = 0;
std::size_t most = 0;
struct Block {
  std::size_t bytes = 0;
  bool guarded = false;  // in pages of its own, which the host cannot read

  void protect(void* memory, int protection) const {
    if (guarded && bytes > 0 && mprotect(memory, bytes, protection) != 0) {
      throw std::logic_error("emulator: memory cannot be protected");
    }
  }
};
std::map<void*, Block>& blocks() {
  static std::map<void*, Block> all;
  return all;
}

std::size_t pooled = 0;
bool guarding = false;
std::multimap<std::pair<std::size_t, bool>, void*>& idle() {
  static std::multimap<std::pair<std::size_t, bool>, void*> all;
  return all;
}

void* system_memory(std::size_t bytes) {
  if (!guarding) {
    constexpr std::size_t kAlign = 256;
    return std::aligned_alloc(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
  }
  void* pages = mmap(nullptr, std::max<std::size_t>(bytes, 1), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : pages;
}

int accesses = 0;
void protect_all(int protection) {
  for (const auto& [memory, block] : blocks()) block.protect(memory, protection);
}

/// Back to the scheduler, and on from here when the lane's turn comes again.
void leave(Lane& mine) {
  if (_setjmp(mine.place) == 0) _longjmp(warp().scheduler, 1);
}

void enter(Lane& next) {
  if (_setjmp(warp().scheduler) != 0) return;
  if (next.entered) _longjmp(next.place, 1);
  next.entered = true;
  setcontext(&next.first);
}

void fiber() {
  for (;;) {
    Warp& w = warp();
    Lane& mine = w.lanes[static_cast<std::size_t>(w.current)];
    try {
      (*w.body)();
    } catch (...) {
      mine.error = std::current_exception();
    }
    mine.state = State::ended;
    leave(mine);
  }
}

void run_warp(unsigned first_thread, const std::function<void()>& body, std::mt19937& order) {
  Warp& w = warp();
  w.body = &body;
  for (Lane& each : w.lanes) {
    each.state = State::runs;
    each.round = 0;
    each.error = nullptr;
  }
  std::array<int, kLanes> sequence;
  for (int i = 0; i < kLanes; ++i) sequence[static_cast<std::size_t>(i)] = i;
  std::shuffle(sequence.begin(), sequence.end(), order);
  for (;;) {
    std::rotate(sequence.begin(), sequence.begin() + 1 + static_cast<int>(order() % (kLanes - 1)),
                sequence.end());
    for (const int next : sequence) {
      Lane& each = w.lanes[static_cast<std::size_t>(next)];
      if (each.state == State::ended) continue;
      each.state = State::runs;
      w.current = next;
      threadIdx = dim3(first_thread + static_cast<unsigned>(next));
      enter(each);
      if (each.error) std::rethrow_exception(each.error);
    }
    int ended = 0;
    for (const Lane& each : w.lanes) ended += each.state == State::ended;
    if (ended == kLanes) return;
    if (ended > 0) throw std::logic_error("emulator: some lanes of a warp wait for others that have ended");
    const int round = w.lanes[0].round;
    const int kind = w.slots[static_cast<std::size_t>(round % 2)][0].kind;
    for (int i = 0; i < kLanes; ++i) {
      if (w.lanes[static_cast<std::size_t>(i)].round != round ||
          w.slots[static_cast<std::size_t>(round % 2)][static_cast<std::size_t>(i)].kind != kind) {
        throw std::logic_error("emulator: the lanes of a warp meet in different exchanges");
      }
    }
  }
}

}  // namespace

int lane() { return warp().current; }

void exchange(const void* bytes, std::size_t count, int kind) {
  Warp& w = warp();
  const auto me = static_cast<std::size_t>(w.current);
  Lane& mine = w.lanes[me];
  ++mine.round;
  Slot& to = w.slots[static_cast<std::size_t>(mine.round % 2)][me];
  std::memcpy(to.bytes.data(), bytes, count);
  to.kind = kind;
  mine.state = State::waits;
  leave(mine);
}

const Slot& slot(int from) {
  Warp& w = warp();
  const Lane& mine = w.lanes[static_cast<std::size_t>(w.current)];
  return w.slots[static_cast<std::size_t>(mine.round % 2)][static_cast<std::size_t>(from)];
}

namespace {

void run_grid(dim3 grid, unsigned threads, const std::function<void()>& body) {
  ++launched;
  std::mt19937 order(static_cast<unsigned>(launched));
  gridDim = grid;
  blockDim = dim3(threads);
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      for (unsigned first = 0; first < threads; first += kLanes) run_warp(first, body, order);
    }
  }
}

}  // namespace

Access::Access() {
  if (accesses++ == 0) protect_all(PROT_READ | PROT_WRITE);
}
Access::~Access() {
  if (--accesses == 0) protect_all(PROT_NONE);
}
void guard_memory(bool guarded) { guarding = guarded; }

void launch(cudaStream_t stream, dim3 grid, unsigned threads, std::function<void()> body) {
  queue(stream, [=] { run_grid(grid, threads, body); });
}

long launches() { return launched; }
void fail_allocations_after(int count) { allowed_allocations = count; }
std::size_t allocated() { return held; }

}  // namespace emulator

// A block that is freed waits for one that wants as many bytes, as in the device's pool, filled with NaN.
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
  if (emulator::allowed_allocations == 0) return cudaErrorMemoryAllocation;
  if (emulator::allowed_allocations > 0) --emulator::allowed_allocations;
  auto& idle = emulator::idle();
  const emulator::Block block{bytes, emulator::guarding};
  const auto found = idle.find({bytes, block.guarded});
  void* place = nullptr;
  if (found != idle.end()) {
    place = found->second;
    idle.erase(found);
    emulator::pooled -= bytes;
    block.protect(place, PROT_READ | PROT_WRITE);
  } else {
    place = emulator::system_memory(bytes);
    if (place == nullptr) return cudaErrorMemoryAllocation;
  }
  std::memset(place, 0xff, bytes);  // NaN in every type, and no index
  block.protect(place, PROT_NONE);
  emulator::blocks()[place] = block;
  emulator::held += bytes;
  emulator::most = std::max(emulator::most, emulator::held);
  *memory = place;
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  if (emulator::keep_for_graph(stream, memory)) return cudaSuccess;
  auto& blocks = emulator::blocks();
  const auto found = blocks.find(memory);
  if (found == blocks.end()) throw std::logic_error("emulator: memory is freed that was not allocated");
  emulator::count_free(stream);
  const emulator::Block block = found->second;
  block.protect(memory, PROT_READ | PROT_WRITE);
  std::memset(memory, 0xff, block.bytes);
  block.protect(memory, PROT_NONE);
  emulator::held -= block.bytes;
  emulator::pooled += block.bytes;
  emulator::idle().emplace(std::pair(block.bytes, block.guarded), memory);
  blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  emulator::count_wait();  // it may wait for the device
  *total = std::size_t{1} << 32;
  *free = *total - emulator::held - emulator::pooled;
  return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr which, void* value) {
  std::uint64_t bytes = emulator::held;
  if (which == cudaMemPoolAttrReservedMemCurrent) bytes += emulator::pooled;
  if (which == cudaMemPoolAttrUsedMemHigh) bytes = emulator::most;
  std::memcpy(value, &bytes, sizeof(bytes));
  return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) {
  for (const auto& [size, memory] : emulator::idle()) {
    if (size.second) {
      munmap(memory, std::max<std::size_t>(size.first, 1));
    } else {
      std::free(memory);
    }
  }
  emulator::idle().clear();
  emulator::pooled = 0;
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr which, void*) {
  if (which == cudaMemPoolAttrUsedMemHigh) emulator::most = emulator::held;  // the only value it takes is 0
  return cudaSuccess;
}
