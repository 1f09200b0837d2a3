// When a plan's device memory goes. The emulator knows which work comes before what.
#ifndef MANYHOP_TEST_ON_DEVICE
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/cuda/runtime.cuh"
#include "tests/ops/cuda/device.hpp"
#include "tests/ops/cuda/repeated.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

class Stream {
 public:
  Stream() {
    if (cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess) throw Error("no stream");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <class T>
std::unique_ptr<Repeated<T>> dropping() {
  auto calls =
      std::make_unique<Repeated<T>>(std::vector<Graph>{pattern("window(3)|random(2,seed=3)|global(1)", 24)});
  calls->options.hops = 3;
  calls->options.dropout_p = 0.2;  // which wants the order of edges
  return calls;
}

}  // namespace

TEST_CASE("lifetime: a plan that is dropped goes after the calls on every stream") {
  const Stream one;
  const Stream two;
  auto calls = dropping<bf16>();
  calls->on(one.get());
  calls->run();
  calls->on(two.get());
  calls->run();
  calls->on(one.get());
  calls->queue_forward();
  const long unordered = emulator::unordered_frees();
  calls->forget_plan();
  CHECK(emulator::unordered_frees() == unordered);
}

TEST_CASE("lifetime: arrays that a call makes outlive its stream") {
  auto calls = dropping<float>();
  {
    const Stream stream;
    calls->on(stream.get());
    calls->run();
  }
  const long unordered = emulator::unordered_frees();
  calls->forget_plan();
  CHECK(emulator::unordered_frees() == unordered);
}

TEST_CASE("lifetime: what a caller has captured stays") {
  const Stream stream;
  auto calls = dropping<bf16>();
  calls->on(stream.get());
  const auto want = calls->forward();
  REQUIRE(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal) == cudaSuccess);
  calls->queue_forward();
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream.get(), &graph) == cudaSuccess);
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaGraphInstantiateWithFlags(&exec, graph, 0) == cudaSuccess);
  cudaGraphDestroy(graph);
  const std::size_t before = device_bytes();
  calls->forget_plan();
  CHECK(device_bytes() == before);
  REQUIRE(cudaGraphLaunch(exec, stream.get()) == cudaSuccess);
  CHECK(calls->answer() == want);
  cudaGraphExecDestroy(exec);
}

TEST_CASE("lifetime: many streams, of which some have done") {
  ops::cuda::StreamUses uses;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 40; ++i) {
    streams.push_back(std::make_unique<Stream>());
    emulator::queue(streams.back()->get(), [] {});
    uses.record(streams.back()->get());
    emulator::hold_events(i < 30);
  }
  emulator::hold_events(false);
  const Stream last;
  uses.come_before(last.get());
  const OnDevice<float> block(1);
  const long unordered = emulator::unordered_frees();
  emulator::count_free(last.get());
  CHECK(emulator::unordered_frees() == unordered);
}
#endif
