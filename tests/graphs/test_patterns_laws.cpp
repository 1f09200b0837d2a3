// Laws of patterns on random expressions, against a set of pairs.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <set>
#include <string>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/expressions.hpp"

using namespace manyhop;

namespace {

using Pairs = std::set<std::pair<Offset, Offset>>;

Pairs pairs(const Graph& graph) {
  Pairs all;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) all.insert({i, j});
  }
  return all;
}

Pairs pairs(const std::string& text, Offset n) { return pairs(pattern(text, n)); }

struct Drawn {
  Offset n;
  std::string a;
  std::string b;
};

Drawn drawn() {
  const auto index = *rc::gen::arbitrary<std::uint32_t>();
  const auto n = static_cast<Offset>(*rc::gen::inRange(0, 70));
  CounterRng rng(7, 1, index);
  Drawn result{n, test::random_expression(rng, n), test::random_expression(rng, n)};
  RC_TAG(n == 0 ? "empty" : "tokens");
  RC_LOG() << "n = " << n << "\na = " << result.a << "\nb = " << result.b << '\n';
  return result;
}

std::string wrap(const std::string& text) { return "(" + text + ")"; }

}  // namespace

TEST_CASE("set algebra of patterns is set algebra of pairs") {
  CHECK(rc::check([] {
    const Drawn d = drawn();
    const Pairs a = pairs(d.a, d.n);
    const Pairs b = pairs(d.b, d.n);
    Pairs both, either, only;
    for (const auto& p : a) (b.contains(p) ? both : only).insert(p);
    either = a;
    either.insert(b.begin(), b.end());
    RC_ASSERT(pairs(wrap(d.a) + "|" + wrap(d.b), d.n) == either);
    RC_ASSERT(pairs(wrap(d.a) + "&" + wrap(d.b), d.n) == both);
    RC_ASSERT(pairs(wrap(d.a) + "-" + wrap(d.b), d.n) == only);
    RC_ASSERT(pairs("full - " + wrap(d.a), d.n).size() + a.size() == static_cast<std::size_t>(d.n * d.n));
  }));
}

TEST_CASE("operators against pairs") {
  CHECK(rc::check([] {
    const Drawn d = drawn();
    const Pairs a = pairs(d.a, d.n);
    Pairs turned, both = a, lifted;
    for (const auto& [i, j] : a) turned.insert({j, i});
    both.insert(turned.begin(), turned.end());
    RC_ASSERT(pairs("t(" + d.a + ")", d.n) == turned);
    RC_ASSERT(pairs("t(t(" + d.a + "))", d.n) == a);
    RC_ASSERT(pairs("sym(" + d.a + ")", d.n) == both);
    const Offset b = 1 + *rc::gen::inRange(0, 5);
    const Offset cut = d.n == 0 ? 0 : d.n * b - *rc::gen::inRange<Offset>(0, b);
    for (const auto& [i, j] : a) {
      for (Offset u = i * b; u < std::min(cut, (i + 1) * b); ++u) {
        for (Offset v = j * b; v < std::min(cut, (j + 1) * b); ++v) lifted.insert({u, v});
      }
    }
    RC_ASSERT(pairs("lift(" + d.a + "," + std::to_string(b) + ")", cut) == lifted);
    // Reachable in 1 .. 3 steps.
    Pairs reach = a;
    Pairs last = a;
    for (int step = 2; step <= 3; ++step) {
      Pairs next;
      for (const auto& [i, j] : last) {
        for (auto e = a.lower_bound({j, 0}); e != a.end() && e->first == j; ++e) next.insert({i, e->second});
      }
      reach.insert(next.begin(), next.end());
      last = std::move(next);
    }
    RC_ASSERT(pairs("hops(" + d.a + ", 3)", d.n) == reach);
  }));
}

TEST_CASE("a pattern prints back as a text with the same tree and the same graph") {
  CHECK(rc::check([] {
    const Drawn d = drawn();
    const std::string once = canonical_pattern(d.a);
    RC_ASSERT(canonical_pattern(once) == once);
    RC_ASSERT(pattern(once, d.n).same_edges(pattern(d.a, d.n)));
    RC_ASSERT(pattern(d.a, d.n).text() == once);
  }));
}

TEST_CASE("a pattern is the same for any number of threads") {
  CHECK(rc::check([] {
    const Drawn d = drawn();
    const auto hash = [&](int threads) {
      const ThreadScope scope(threads);
      return pattern(d.a, d.n * 9).hash();
    };
    try {
      RC_ASSERT(hash(1) == hash(4));
    } catch (const ValueError&) {
      RC_DISCARD("fits n only");
    }
  }));
  for (const char* text :
       {"diffuser(64, 16, 16)", "regular(6, 3)", "smallworld(6, 0.2, 1)", "hops(random(2), 2)"}) {
    const auto hash = [&](int threads) {
      const ThreadScope scope(threads);
      return pattern(text, 5000).hash();
    };
    CHECK(hash(1) == hash(4));
  }
}

TEST_CASE("prefixes are stable") {
  for (const std::string text : {"window(3)", "window(2, step=3)", "strided(5)", "logsparse", "block(7)",
                                 "random(6, 3, causal=true)", "global(2)", "causal & (window(3) | global(2))",
                                 "random(4, causal=true) | causal & strided(4) | global(1)"}) {
    const Pairs whole = pairs(text, 90);
    for (const Offset m : {2, 3, 17, 64, 89}) {
      Pairs corner;
      for (const auto& [i, j] : whole) {
        if (i < m && j < m) corner.insert({i, j});
      }
      CHECK_MESSAGE(pairs(text, m) == corner, text, " at ", m);
    }
  }
}

TEST_CASE("the last rows of a causal pattern are the pattern on a rectangle") {
  for (const char* text : {"causal", "random(5, 2, causal=true)"}) {
    CHECK(pattern(text, 40).rows(33, 40).same_edges(pattern(text, 7, 40)));
  }
}

TEST_CASE("symmetric atoms equal their transpose") {
  const std::pair<const char*, Offset> cases[] = {{"regular(6, 1)", 50},
                                                  {"regular(40, 1)", 50},
                                                  {"smallworld(6, 0.5)", 41},
                                                  {"hypercube", 64},
                                                  {"paley", 61},
                                                  {"margulis", 49},
                                                  {"chordal", 53},
                                                  {"lps(13, 5)", 120},
                                                  {"lps(5, 13)", 2184},
                                                  {"lps(17, 13)", 1092},
                                                  {"strided(4)", 30},
                                                  {"logsparse", 30},
                                                  {"global(3, seed=1)", 9},
                                                  {"grid(4, 5, 1)", 20},
                                                  {"axial(4, 5)", 20},
                                                  {"window(3, 2, ring=true)", 17},
                                                  {"longformer(2, 2)", 20},
                                                  {"exphormer(4, 2, 1)", 21}};
  for (const auto& [text, n] : cases) {
    const Graph graph = pattern(text, n);
    CHECK_MESSAGE(graph.same_edges(graph.transpose()), text);
    if (graph.weighted()) {
      const auto mine = graph.weights();
      const auto theirs = graph.transpose().weights();
      CHECK_MESSAGE(std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end()), text);
    }
  }
}

TEST_CASE("regular graphs are regular and simple") {
  for (Offset n = 0; n <= 24; ++n) {
    for (Offset d = 0; d < n; ++d) {
      if (n * d % 2 == 1) continue;
      for (int seed = 0; seed < 3; ++seed) {
        const Graph graph = pattern(fmt::format("regular({}, {})", d, seed), n);
        const DegreeSummary degree = degrees(graph);
        CHECK_MESSAGE((degree.min == d && degree.max == d), d, "-regular on ", n);
        CHECK(self_loop_count(graph) == 0);
        CHECK(is_symmetric(graph));
      }
    }
  }
  const Graph large = pattern("regular(64)", 4096);
  CHECK((degrees(large).min == 64 && degrees(large).max == 64));
  CHECK(self_loop_count(large) == 0);
  CHECK(is_symmetric(large));
}

TEST_CASE("multiplicities sum to the degree of the definition") {
  const auto sums = [](const char* text, Offset n, double wanted) {
    const Graph graph = pattern(text, n);
    std::size_t e = 0;
    for (Offset i = 0; i < n; ++i) {
      double sum = 0;
      for (const Index j : graph.row(i)) {
        sum += graph.weighted() ? graph.weights()[e] : (j >= 0 ? 1 : 0);
        ++e;
      }
      CHECK_MESSAGE(sum == wanted, text, " row ", i);
    }
  };
  sums("margulis", 49, 8);
  sums("margulis", 64, 8);
  sums("chordal", 2, 3);
  sums("chordal", 31, 3);
  sums("debruijn(7)", 5, 7);
  sums("lps(13, 5)", 120, 14);
  sums("lps(29, 5)", 60, 30);
  sums("lps(89, 5)", 60, 90);
  sums("lps(5, 13)", 2184, 6);
}

TEST_CASE("random rows hold distinct columns, spread evenly") {
  const Offset n = 1000;
  for (const Offset k : {1, 30, 63, 400, 501, 999}) {
    const Graph graph = pattern(fmt::format("random({})", k), n);
    CHECK((degrees(graph).min == k && degrees(graph).max == k));
    const DegreeSummary columns = degrees(graph.transpose());
    // A column is drawn k times on average, with a deviation of at most sqrt(k): six of them.
    CHECK(static_cast<double>(columns.max) <=
          static_cast<double>(k) + 6 * std::sqrt(static_cast<double>(k)) + 1);
    CHECK(static_cast<double>(columns.min) >=
          static_cast<double>(k) - 6 * std::sqrt(static_cast<double>(k)) - 1);
  }
}
