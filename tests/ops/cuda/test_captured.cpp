// Hops as CUDA Graphs: the same bits as hops queued one by one, whatever changes between calls, and what
// happens where a capture is not possible.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/ops/cuda/repeated.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

Graph tiled() { return pattern("window(9)|random(2,seed=3)|global(2)", 40); }

template <class T>
Repeated<T> plain_of(const std::vector<Graph>& graphs) {
  Repeated<T> calls(graphs);
  calls.options.hops = 6;
  calls.options.teleport = 0.2;
  return calls;
}

#ifndef MANYHOP_TEST_ON_DEVICE
/// Whether this process takes CUDA Graphs at all.
bool graphs_on() {
  const char* text = std::getenv("MANYHOP_CUDA_GRAPHS");
  return text == nullptr || std::string(text) != "0";
}

struct GraphsFail {
  explicit GraphsFail(const char* call) { emulator::fail_graphs_at(call); }
  ~GraphsFail() { emulator::fail_graphs_at(nullptr); }
};
#endif

template <class T>
void same_bits(const std::vector<Graph>& graphs, int seed, AttentionBackward mode, double dropout,
               bool lengths) {
  Repeated<T> calls = plain_of<T>(graphs);
  calls.options.backward = mode;
  calls.options.dropout_p = dropout;
  calls.options.hop_dropout_p = dropout;
  if (lengths) calls.lengths = {17, 40};
  for (int round = 0; round < 3; ++round) {
    INFO("round ", round, ", bytes ", sizeof(T), ", graphs ", graphs.size(), ", mode ",
         static_cast<int>(mode));
    calls.options.seed = static_cast<std::uint64_t>(round);  // keys lie in memory: a graph takes new ones
    calls.fill(seed + round);
    const auto got = calls.run();
    Repeated<T> fresh = calls.fresh();  // a plan that has seen no call captures nothing
    const auto want = fresh.run();
    CHECK(got.out == want.out);
    CHECK(got.dq == want.dq);
    CHECK(got.dk == want.dk);
    CHECK(got.dv == want.dv);
  }
}

}  // namespace

DEVICE_CASE("captured hops: the same bits as hops one by one, with new tensors, lengths and seeds") {
  const std::vector<Graph> one = {tiled()};
  const std::vector<Graph> per_head = {pattern("window(6)", 40), tiled()};
  same_bits<bf16>(one, 1, AttentionBackward::stored, 0, false);
  same_bits<bf16>(one, 11, AttentionBackward::checkpointed, 0.3, true);
  same_bits<float>(one, 21, AttentionBackward::stored, 0.2, false);
  same_bits<float>(per_head, 31, AttentionBackward::checkpointed, 0, true);
  same_bits<bf16>(per_head, 41, AttentionBackward::stored, 0, false);
  same_bits<double>(one, 51, AttentionBackward::implicit, 0, true);
}

DEVICE_CASE("captured hops: calls that differ do not take each other's graphs") {
  Repeated<bf16> calls = plain_of<bf16>({tiled()});
  const AttentionOptions plain = calls.options;
  std::vector<AttentionOptions> ways(8, plain);
  ways[1].teleport = 0.3;
  ways[2].hops = 5;
  ways[3].scale = 0.5;
  ways[4].hop_dropout_p = 0.2;
  ways[5].hop_dropout_p = 0.4;
  ways[6].backward = AttentionBackward::checkpointed;
  ways[7].hops = 9;
  std::vector<typename Repeated<bf16>::Answer> want;
  for (const AttentionOptions& way : ways) {
    Repeated<bf16> fresh = calls.fresh();
    fresh.options = way;
    want.push_back(fresh.run());
  }
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < ways.size(); ++i) {
      INFO("round ", round, ", way ", i);
      calls.options = ways[i];
      const auto got = calls.run();
      CHECK(got.out == want[i].out);
      CHECK(got.dq == want[i].dq);
      CHECK(got.dk == want[i].dk);
      CHECK(got.dv == want[i].dv);
    }
  }
}

#ifndef MANYHOP_TEST_ON_DEVICE

TEST_CASE("captured hops: captured the second time, launched from then on, told by explain") {
  Repeated<bf16> calls = plain_of<bf16>({tiled()});
  const emulator::GraphCounts start = emulator::graphs();
  const auto counts = [&] {
    return std::pair(emulator::graphs().captures - start.captures,
                     emulator::graphs().launches - start.launches);
  };
  const long on = graphs_on() ? 1 : 0;
  calls.forward();
  CHECK(counts() == std::pair(0L, 0L));
  calls.forward();
  CHECK(counts() == std::pair(on, on));
  calls.forward();
  CHECK(counts() == std::pair(on, 2 * on));
  CHECK(calls.told("captured") == (graphs_on()
                                       ? "captured  hops after the first of a call that comes again: 1 "
                                         "captured, 2 launched"
                                       : "captured  none (MANYHOP_CUDA_GRAPHS)"));
  calls.options.hops = 2;  // one hop is left: no graph
  calls.forward();
  calls.forward();
  CHECK(counts() == std::pair(on, 2 * on));
  calls.options.hops = 0;
  calls.forward();
  calls.forward();
  CHECK(counts() == std::pair(on, 2 * on));
}

TEST_CASE("captured hops: memory somewhere else is another key") {
  if (!graphs_on()) return;
  Repeated<bf16> calls = plain_of<bf16>({tiled()});
  calls.forward();
  calls.forward();
  const long captured = emulator::graphs().captures;
  const std::size_t bytes = most_taken([&] { calls.forward(); });
  void* in_the_way = nullptr;
  REQUIRE(cudaMallocAsync(&in_the_way, bytes, nullptr) == cudaSuccess);  // what the pool would have given
  calls.fill(5);
  const auto want = calls.fresh().forward();
  for (int round = 0; round < 3; ++round) {
    CHECK(calls.forward() == want);
    CHECK(emulator::graphs().captures - captured == std::min(round, 1));
  }
  cudaFreeAsync(in_the_way, nullptr);
}

TEST_CASE("captured hops: the least recently used graph leaves, and is destroyed when it is done") {
  if (!graphs_on()) return;
  constexpr int kMost = 64;
  const long before = emulator::graphs().alive;
  {
    Repeated<float> calls = plain_of<float>({pattern("window(2)", 12)});
    const auto twice = [&](int i) {
      calls.options.teleport = 0.001 * (i + 1);
      calls.forward();
      calls.forward();
    };
    for (int i = 0; i < kMost; ++i) twice(i);
    CHECK(emulator::graphs().alive - before == kMost);
    const long captured = emulator::graphs().captures;
    twice(0);  // still there, and now the most recently used
    CHECK(emulator::graphs().captures == captured);
    emulator::hold_events(true);
    for (int i = kMost; i < kMost + 6; ++i) twice(i);
    CHECK(emulator::graphs().alive - before == kMost + 6);  // six have left and may still run
    emulator::hold_events(false);
    twice(0);
    CHECK(emulator::graphs().alive - before == kMost);
    CHECK(emulator::graphs().captures - captured == 6);
    twice(1);  // had left
    CHECK(emulator::graphs().captures - captured == 7);
  }
  CHECK(emulator::graphs().alive == before);
}

TEST_CASE("captured hops: where a capture fails hops go one by one and explain says why") {
  if (!graphs_on()) return;
  const Repeated<bf16> calls = plain_of<bf16>({tiled()});
  const auto want = calls.fresh().forward();
  for (const char* call : {"cudaStreamCreateWithFlags", "cudaStreamBeginCapture", "cudaStreamEndCapture",
                           "cudaGraphInstantiateWithFlags", "cudaGraphLaunch"}) {
    Repeated<bf16> failing = calls.fresh();
    const long alive = emulator::graphs().alive;
    {
      const GraphsFail fail(call);
      for (int round = 0; round < 3; ++round) {
        INFO(call, ", round ", round);
        CHECK(failing.forward() == want);
      }
    }
    const long launched = emulator::graphs().launches;
    CHECK(failing.forward() == want);
    CHECK(emulator::graphs().launches == launched);  // it is not tried again
    INFO(failing.told("captured"));
    CHECK(failing.told("captured").rfind("captured  none (", 0) == 0);
    CHECK(failing.told("captured").find(call) != std::string::npos);
    CHECK(emulator::graphs().alive <= alive + 1);
  }
}

template <class T>
void takes_the_whole_call() {
  Repeated<T> calls = plain_of<T>({tiled()});
  calls.lengths = {17, 40};
  calls.options.hop_dropout_p = 0.2;
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  calls.on(stream);
  for (int round = 0; round < 3; ++round) calls.forward();
  const long captures = emulator::graphs().captures;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  calls.queue_forward();
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(emulator::graphs().captures == captures + 1);  // the caller's
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaGraphInstantiateWithFlags(&exec, graph, 0) == cudaSuccess);
  for (int round = 0; round < 2; ++round) {
    calls.fill(round + 3);
    REQUIRE(cudaGraphLaunch(exec, stream) == cudaSuccess);
    const std::vector<T> want = calls.fresh().forward();
    if (calls.told("hops").rfind("hops      cuSPARSE", 0) == 0) {  // whose sums have another order
      CHECK(relative_l2(calls.answer(), doubles(want), want.size()).total < 1e-6);
    } else {
      CHECK(calls.answer() == want);
    }
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_CASE("captured hops: a caller's own capture takes the whole call") {
  takes_the_whole_call<bf16>();
  takes_the_whole_call<float>();
}

TEST_CASE("captured hops: by cuSPARSE in their turn") {
  Repeated<float> calls = plain_of<float>({pattern("window(6)|global(1)", 50)});
  const bool sparse = calls.told("hops").find("cuSPARSE (") != std::string::npos;
  const auto want = calls.fresh().run();
  for (int round = 0; round < 3; ++round) {
    const long products = emulator::sparse_products;
    CHECK(calls.run().out == want.out);
    // Five of six hops, for the first one comes with its weights, and five again in the backward pass.
    CHECK(emulator::sparse_products - products == (sparse ? 10 * calls.units() : 0));
  }
  CHECK(calls.told("captured").find(graphs_on() ? "3 captured, 6 launched" : "none") != std::string::npos);
}

#endif
