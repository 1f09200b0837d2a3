// Attention in bf16 where tiles multiply: widths, gradients, what rounding must not lose. Run with other
// tiles, too (MANYHOP_TILES).
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/attention_run.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

Context on(int threads) {
  Context ctx;
  ctx.threads = threads;
  return ctx;
}

// Blocks, loose columns, single edges, panels of few columns, a panel that is not full.
const char* const kPatterns[] = {"overlap(64, 32) | global(ids=[3, 77, 78])",
                                 "window(44) | random(4, seed=3)", "causal", "window(50) - window(8)",
                                 "lift(regular(4, seed=1), 16) | random(2, seed=3)"};

struct Widths {
  Offset d, d_v;
};
constexpr Widths kWidths[] = {{64, 64}, {33, 64}, {16, 64}, {96, 80}};

AttentionCase case_of(const std::string& text, Widths widths, int hops, Offset n = 171, Offset batch = 2) {
  AttentionCase c;
  c.graphs = {pattern(text, n)};
  c.batch = batch;
  c.heads = 2;
  c.kv_heads = 1;
  c.d = widths.d;
  c.d_v = widths.d_v;
  c.q = doubles(random_values<bf16>(c.batch * c.heads * n * c.d, 1));
  c.k = doubles(random_values<bf16>(c.batch * c.kv_heads * n * c.d, 2));
  c.v = doubles(random_values<bf16>(c.batch * c.kv_heads * n * c.d_v, 3));
  c.hops = hops;
  c.teleport = hops == 1 ? 0 : 0.2;
  c.scale = 0.3;
  c.seed = 17;
  c.keep = true;
  return c;
}

std::vector<double> gradient_of(const AttentionCase& c, std::uint64_t seed = 5) {
  return doubles(random_values<bf16>(c.batch * c.heads * c.rows() * c.d_v, seed));
}

// What a plan with gradients says of it.
bool by_tiles(const char* text, Offset n, Widths widths, int hops = 1) {
  const Plan made = plan(on(1), pattern(text, n),
                         {.head_dim = static_cast<int>(widths.d),
                          .value_dim = static_cast<int>(widths.d_v),
                          .dtype = DType::bf16,
                          .hops = hops,
                          .backward = true});
  for (const std::string& line : made.explain()) {
    if (line.starts_with("kernel")) return line.find(std::string(" and ").append(tiles_name())) != line.npos;
  }
  return false;
}

void check_near(const AttentionRun<bf16>& got, const AttentionAnswer& want, double tolerance) {
  CHECK(relative_l2(got.out, want.out, got.out.size()).total < tolerance);
  CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < tolerance);
  CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < tolerance);
  CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < tolerance);
}

}  // namespace

TEST_CASE("attention_backward: tiles multiply where that pays") {
  if (tiles_name().empty()) return;
  for (const char* text : kPatterns) CHECK(by_tiles(text, 171, {64, 64}, 5));
  CHECK(by_tiles("full", 64, {256, 32}));
  CHECK(by_tiles("diffuser(64, 64, 64)", 4096, {64, 64}, 5));
  CHECK(by_tiles("block(16)", 4096, {64, 64}));
  // Every row would be rounded for few products.
  CHECK_FALSE(by_tiles("window(3)", 4096, {64, 64}));
  CHECK_FALSE(by_tiles("regular(4)", 4096, {64, 64}, 5));
  CHECK_FALSE(by_tiles("random(64)", 4096, {64, 64}, 5));
  // Rows of 16 or 48 features would be padded to 32 or 64.
  CHECK_FALSE(by_tiles("full", 512, {16, 16}));
  CHECK_FALSE(by_tiles("diffuser(64, 64, 64)", 4096, {48, 48}, 5));
}

TEST_CASE("attention_backward: bf16 by tiles against the oracle") {
  for (const char* text : kPatterns) {
    for (const Widths widths : kWidths) {
      for (const int hops : {1, 2, 5, 19}) {  // 16 hops are one product
        if (hops == 19 && widths.d != 64) continue;
        AttentionCase c = case_of(text, widths, hops);
        if (hops == 2) {
          c.dropout_p = 0.3;
          c.hop_dropout_p = 0.2;
        }
        if (hops == 5) c.lengths = {c.rows() - 70, c.rows()};
        const auto g = gradient_of(c);
        const auto want = oracle(c, g, {});
        INFO(text, ", d ", c.d, ", d_v ", c.d_v, ", hops ", hops);
        for (const auto mode : {AttentionBackward::stored, AttentionBackward::checkpointed}) {
          const auto got = run_attention<bf16>(on(2), c, Layout::bshd, {}, g, {}, mode);
          check_near(got, want, 1e-2);
          CHECK(std::abs(got.dteleport - want.dteleport) < 0.1 * std::sqrt(static_cast<double>(g.size())));
          CHECK(got.untouched);
        }
      }
    }
  }
}

TEST_CASE("attention_backward: bits of bf16 by tiles do not depend on threads or on what is kept") {
  for (const char* text : kPatterns) {
    for (const Offset batch : {1, 3}) {  // one head with all threads, or several at once
      AttentionCase c = case_of(text, {64, 80}, 4, 171, batch);
      c.heads = 1;
      const auto g = gradient_of(c);
      const auto first = run_attention<bf16>(on(1), c, Layout::bhsd, {}, g);
      for (const bool keep : {true, false}) {
        c.keep = keep;
        for (const int threads : {1, 2, 5}) {
          const auto other = run_attention<bf16>(on(threads), c, Layout::bhsd, {}, g);
          INFO(text, ", batch ", batch, ", keep ", keep, ", threads ", threads);
          if (keep) CHECK(other.out == first.out);  // without a state Z is bf16 from hop to hop
          CHECK(other.dq == first.dq);
          CHECK(other.dk == first.dk);
          CHECK(other.dv == first.dv);
          CHECK(other.dteleport == first.dteleport);
        }
      }
    }
  }
}

// What all values or keys have in common falls out of the gradients of scores. Rounded with it, what is left
// would be off by 4e-2 in one hop and more in each that follows, of a mean of 30 by 0.4 after 17.
TEST_CASE("attention_backward: bf16 by tiles keeps its digits where values and keys have a mean") {
  struct Mean {
    int hops;
    double teleport;
    float of_values, of_keys;
    float size;
  };
  for (const Mean m : {Mean{5, 0.2, 3, 2, 1}, Mean{5, 0, 30, 0, 1}, Mean{17, 0, 30, 2, 1},
                       Mean{5, 0.1, 3, 0, 1e25F}, Mean{5, 0.1, 3, 0, 1e-25F}}) {
    AttentionCase c = case_of("overlap(64, 32) | global(16)", {64, 64}, m.hops, 256, 1);
    c.kv_heads = 2;
    c.teleport = m.teleport;
    auto v = random_values<bf16>(c.kv_heads * c.rows() * c.d_v, 3);
    auto k = random_values<bf16>(c.kv_heads * c.rows() * c.d, 2);
    for (bf16& x : v) x = bf16((static_cast<float>(x) + m.of_values) * m.size);
    for (bf16& x : k) x = bf16(static_cast<float>(x) + m.of_keys);
    c.v = doubles(v);
    c.k = doubles(k);
    const auto g = gradient_of(c);
    INFO("hops ", m.hops, ", values around ", m.of_values, " times ", m.size);
    const auto got = run_attention<bf16>(on(2), c, Layout::bhsd, {}, g);
    check_near(got, oracle(c, g, {}), 1e-2);
  }
}

// An infinite or missing number stays where edges bring it, forward and back.
TEST_CASE("attention: bf16 by tiles keeps a NaN with the rows that reach it") {
  const Offset n = 160;
  AttentionCase c =
      case_of("block(16)", {32, 32}, 2, n);  // a panel has two blocks, cells between them no edge
  c.batch = 1;
  c.heads = 1;
  const auto g = gradient_of(c);
  const auto clean = run_attention<bf16>(on(2), c, Layout::bhsd, {}, g);
  const Offset bad = 37;  // of the block 32 to 48
  c.v[static_cast<std::size_t>(bad * 32 + 5)] = std::numeric_limits<double>::quiet_NaN();
  for (const bool keep : {true, false}) {
    c.keep = keep;
    const auto got = run_attention<bf16>(on(2), c, Layout::bhsd, {}, g);
    INFO("keep ", keep);
    for (Offset i = 0; i < n; ++i) {
      const bool reached = i >= 32 && i < 48;
      for (Offset f = 0; f < 32; ++f) {
        const auto x = static_cast<std::size_t>(i * 32 + f);
        CHECK(std::isnan(to_double(got.out[x])) == (reached && f == 5));
        CHECK_FALSE(std::isnan(to_double(got.dv[x])));  // A does not know of V
        if (!reached) CHECK(std::isnan(to_double(got.dq[x])) == std::isnan(to_double(clean.dq[x])));
      }
    }
  }
}

TEST_CASE("attention_backward: a NaN in q stays with its row and the keys it asks") {
  const Offset n = 160;
  AttentionCase c = case_of("block(16)", {32, 32}, 2, n, 1);
  c.heads = 1;
  const auto g = gradient_of(c);
  c.q[37 * 32 + 5] = std::numeric_limits<double>::quiet_NaN();
  const auto check = [&](const auto& got) {
    for (Offset i = 0; i < n; ++i) {
      for (Offset f = 0; f < 32; ++f) {
        const auto x = static_cast<std::size_t>(i * 32 + f);
        if (i < 32 || i >= 48) {
          CHECK_FALSE(std::isnan(to_double(got.dq[x])));
          CHECK_FALSE(std::isnan(to_double(got.dk[x])));
          CHECK_FALSE(std::isnan(to_double(got.dv[x])));
        } else {
          CHECK(std::isnan(to_double(got.dk[x])));
        }
      }
    }
  };
  for (const int threads : {1, 3}) {
    check(run_attention<bf16>(on(threads), c, Layout::bhsd, {}, g));
    check(run_attention<float>(on(threads), c, Layout::bhsd, {}, g));
    check(run_attention<double>(on(threads), c, Layout::bhsd, {}, g));
  }
}
