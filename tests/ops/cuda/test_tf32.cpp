// TF32: f32 whose dense columns go by products of operands with 10 bits of mantissa.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/attention_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

Context cuda() {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  return ctx;
}

AttentionCase case_of(const Graph& graph, Offset d, Offset d_v) {
  AttentionCase c;
  c.graphs = {graph};
  c.batch = 2;
  c.heads = 2;
  c.kv_heads = 1;
  c.d = d;
  c.d_v = d_v;
  c.q = doubles(random_values<float>(c.batch * c.heads * c.rows() * d, 1));
  c.k = doubles(random_values<float>(c.batch * c.kv_heads * c.cols() * d, 2));
  c.v = doubles(random_values<float>(c.batch * c.kv_heads * c.cols() * d_v, 3));
  c.hops = 3;
  c.teleport = 0.1;
  c.scale = 1 / std::sqrt(static_cast<double>(d));
  c.seed = 17;
  c.tf32 = true;
  return c;
}

}  // namespace

DEVICE_CASE("tf32: values and gradients of every structure and width, as near as 10 bits are") {
  struct Shape {
    const char* text;
    Offset n, d, d_v;
  };
  for (const auto& [text, n, d, d_v] : {Shape{"window(9)", 70, 24, 32},
                                        {"diffuser(8,8,4,seed=1)", 90, 64, 64},
                                        {"(window(20)&causal)|random(3,seed=2)", 60, 40, 16},
                                        {"window(12)|global(2)", 75, 80, 128},
                                        {"full", 33, 200, 256},
                                        {"full", 100, 8, 8}}) {  // panels of several tasks
    const AttentionCase c = case_of(pattern(text, n), d, d_v);
    const auto g = doubles(random_values<float>(c.batch * c.heads * n * d_v, 5));
    const auto want = oracle(c, g);
    const auto got = run_attention<float>(cuda(), c, Layout::bshd, {}, g);
    INFO(text, ", n ", n, ", d ", d, " and ", d_v);
    const double error = relative_l2(got.out, want.out, got.out.size()).total;
    CHECK(error < 1e-3);
    CHECK(error > 1e-6);  // not fp32 by another name
    CHECK(relative_l2(got.weights, flat(want.weights), got.weights.size()).total < 1e-3);
    CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < 3e-3);
    CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < 3e-3);
    CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < 3e-3);
  }
}

DEVICE_CASE("tf32: operands of 10 bits lose nothing") {
  // A matching: each row has one key, so that weights are 1, and V has few bits.
  AttentionCase c = case_of(pattern("full", 1), 32, 32);
  for (double& value : c.v) value = std::round(value * 512) / 512;
  c.teleport = 0;
  const auto got = run_attention<float>(cuda(), c);
  const auto want = oracle(c);
  for (std::size_t i = 0; i < want.out.size(); ++i) CHECK(static_cast<double>(got.out[i]) == want.out[i]);
}

DEVICE_CASE("tf32: bias, dropout, lengths, checkpoints") {
  AttentionCase c = case_of(pattern("window(6)|random(3,seed=3)|global(1)", 50), 32, 32);
  const auto bias = random_values<float>(c.graphs[0].nnz(), 4);
  c.bias = [&](Offset, Offset, Offset e) { return double{bias[static_cast<std::size_t>(e)]}; };
  c.lengths = {17, 50};
  c.dropout_p = 0.3;
  c.hop_dropout_p = 0.2;
  const auto g = doubles(random_values<float>(c.batch * c.heads * 50 * 32, 5));
  const auto want = oracle(c, g);
  for (const AttentionBackward mode : {AttentionBackward::stored, AttentionBackward::checkpointed}) {
    const auto got = run_attention<float>(cuda(), c, Layout::gaps, bias, g, {}, mode);
    CHECK(relative_l2(got.out, want.out, got.out.size()).total < 1e-3);
    CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < 3e-3);
    CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < 3e-3);
    CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < 3e-3);
    CHECK(got.untouched);
  }
}

DEVICE_CASE("tf32: only when asked for, and only where it is") {
  AttentionCase c = case_of(pattern("window(9)", 70), 32, 32);
  c.tf32 = false;
  const auto got = run_attention<float>(cuda(), c);
  CHECK(relative_l2(got.out, oracle(c).out, got.out.size()).total < 1e-6);
  PlanOptions options;
  options.tf32 = true;
  Context cpu;
  cpu.threads = 1;
  CHECK_THROWS_WITH_AS(plan(cpu, c.graphs[0], options),
                       "plan: tf32 without backend 'cuda', which alone has such products", ValueError);
  options.dtype = DType::bf16;
  CHECK_THROWS_WITH_AS(plan(cuda(), c.graphs[0], options), "plan: tf32 with dtype bf16, f32 is wanted",
                       ValueError);
  options.dtype = DType::f32;
  std::string told;
  for (const std::string& line : plan(cuda(), c.graphs[0], options).explain()) told += line + "\n";
  CHECK(told.find("by TF32 products") != std::string::npos);
}
