// Graphs that may never change: random streams by hash, the reference code's edges by a checksum from NumPy,
// and texts by how they print.
#include <doctest/doctest.h>

#include <string>
#include <utility>

#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

TEST_CASE("hashes of patterns are fixed") {
  const std::pair<const char*, const char*> cases[] = {
      {"diffuser(64, 64, 64)", "e4c8920a80a11665"},
      {"overlap(64, 32) | random(64, 0) | global(64, seed=0)", "e4c8920a80a11665"},
      {"random(8)", "1db478295bca9651"},
      {"random(8, 3, causal=true)", "b22a80f2170f0859"},
      {"random(100, 5)", "97753cbd33ee40e2"},
      {"random(600, 5)", "4be00093702f066a"},
      {"regular(4)", "c246a92040ac0845"},
      {"regular(700)", "e6b7598aa20d42c5"},
      {"smallworld(6, 0.25)", "025075dbf07b8a61"},
      {"global(5, seed=1)", "34a1052b894e4f06"},
      {"bigbird(8, 2)", "6c81dc1126dde11f"},
      {"exphormer(4, 2)", "800b61d7c936119b"},
      {"hops(random(2), 3)", "9e8228e8782d5f9d"},
      {"lift(regular(3, 1), 8)", "3a49ffd51b47d762"},
      {"longformer(4, 2)", "0416963b64083fb2"},
      {"strided(9) | logsparse", "88eb714479a5a965"},
  };
  for (const auto& [text, hash] : cases) {
    CHECK_MESSAGE(pattern(text, 1024).hash_text() == hash, text);
  }
}

// With NumPy: the dense array of the reference code is filled (blocks of 64, stride 32; np.random.seed(0);
// choice(range(N * N), 64 * N, replace=False); choice(range(64, N), 64, replace=False)), cut to n x n and
// transposed; `sum` adds (i n + j + 1)^3 mod 2^64 over its cells.
TEST_CASE("diffuser_ref is the reference code's edge set") {
  struct Case {
    Offset n;
    Offset edges;
    std::uint64_t sum;
  };
  for (const Case wanted : {Case{512, 54623, 794909474691204222U}, Case{1024, 148938, 6101569934731711394U},
                            Case{4096, 1147411, 12030099134462867201U}}) {
    const Graph graph = pattern("diffuser_ref", wanted.n);
    std::uint64_t sum = 0;
    for (Offset i = 0; i < wanted.n; ++i) {
      for (const Index j : graph.row(i)) {
        const auto cell = static_cast<std::uint64_t>(i * wanted.n + j + 1);
        sum += cell * cell * cell;
      }
    }
    CHECK(graph.nnz() == wanted.edges);
    CHECK(sum == wanted.sum);
  }
}

TEST_CASE("texts print back in one way") {
  const std::pair<const char*, const char*> cases[] = {
      {"self", "self"},
      {" window( 3 )|self ", "window(3) | self"},
      {"window(ring=true,r=1e1)", "window(10, ring=true)"},
      {"window(1,2,true)", "window(1, 2, ring=true)"},
      {"global(4,7)", "global(4, seed=7)"},
      {"global(ids=[0,3,1])", "global(ids=[0, 3, 1])"},
      {"random(4, causal=false)", "random(4, causal=false)"},
      {"diffuser()", "diffuser"},
      {"diffuser(seed=3)", "diffuser(seed=3)"},
      {"smallworld(4,1,2)", "smallworld(4, 1, 2)"},
      {"smallworld(4,.5)", "smallworld(4, 0.5)"},
      {"((self))", "self"},
      {"(self|full)-causal", "self | full - causal"},
      {"self|(full-causal)", "self | (full - causal)"},
      {"self|full&causal", "self | full & causal"},
      {"(self|full)&causal", "(self | full) & causal"},
      {"self&(full&causal)", "self & (full & causal)"},
      {"(self&full)&causal", "self & full & causal"},
      {"lift(self|full,b=4)", "lift(self | full, 4)"},
      {"file(\"a \\\"b\\\\c\")", "file(\"a \\\"b\\\\c\")"},
      {"hops(t(sym(self)),\n\t2)", "hops(t(sym(self)), 2)"},
  };
  for (const auto& [text, printed] : cases) {
    CHECK(canonical_pattern(text) == printed);
    CHECK(canonical_pattern(printed) == printed);
  }
}

TEST_CASE("sizes that a text fixes") {
  CHECK(implied_size("lps(13, 5)") == 120);
  CHECK(implied_size("self | lps(29, 5)") == 60);
  CHECK(implied_size("lift(lps(5, 13), 4)") == 8736);
  CHECK(implied_size("t(grid(3, 4, 1))") == 12);
  CHECK(implied_size("axial(3, 5) & causal") == 15);
  CHECK_FALSE(implied_size("paley").has_value());
  CHECK_FALSE(implied_size("axial(99999999999, 99999999999)").has_value());
}

TEST_CASE("options set the seed of atoms that name none") {
  const PatternOptions three{.seed = 3};
  CHECK(pattern("random(5)", 40, std::nullopt, three).same_edges(pattern("random(5, 3)", 40)));
  CHECK(
      pattern("diffuser(4, 4, 4)", 40, std::nullopt, three).same_edges(pattern("diffuser(4, 4, 4, 3)", 40)));
  CHECK(pattern("random(5, 0)", 40, std::nullopt, three).same_edges(pattern("random(5)", 40)));
  CHECK(pattern("global(5)", 40, std::nullopt, three).same_edges(pattern("global(5)", 40)));
  CHECK_FALSE(pattern("random(5, 3)", 40).same_edges(pattern("random(5)", 40)));
}
