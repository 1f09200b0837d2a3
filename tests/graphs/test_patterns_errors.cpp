// Every mistake names its column and what is allowed there.
#include <doctest/doctest.h>

#include <string>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

namespace {

std::string error_of(const std::string& text, Offset n = 8, std::optional<Offset> cols = std::nullopt,
                     const PatternOptions& options = {}) {
  try {
    (void)pattern(text, n, cols, options);
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return "no error";
}

bool starts(const std::string& text, const std::string& head) { return text.rfind(head, 0) == 0; }

}  // namespace

TEST_CASE("mistakes of syntax point at their column") {
  CHECK(starts(error_of("windw(3)"), "pattern, column 1: unknown name 'windw'; known are window, "));
  CHECK(starts(error_of("self | windw"), "pattern, column 8: unknown name 'windw'; known are window, "));
  CHECK(error_of("") == "pattern, column 1: found the end, expected a name or '('");
  CHECK(error_of("self |") == "pattern, column 7: found the end, expected a name or '('");
  CHECK(error_of("(self") == "pattern, column 6: found the end, expected '|', '-', '&' or ')'");
  CHECK(error_of("self)") == "pattern, column 5: found ')', expected '|', '-', '&' or the end");
  CHECK(error_of("window(1") == "pattern, column 9: window: found the end, expected ',' or ')'");
  CHECK(error_of("window(1 2)") == "pattern, column 10: window: found '2', expected ',' or ')'");
  CHECK(error_of("file(\"a") == "pattern, column 6: the quote that opens here is not closed");
  CHECK(starts(error_of("file(\"\\n\")"), "pattern, column 7: a backslash"));
  CHECK(starts(error_of(std::string(300, '(') + "self" + std::string(300, ')')),
               "pattern, column 201: nested deeper than 200 levels"));
  CHECK(starts(error_of(std::string(2 << 20, ' ')),
               "pattern, column 1048577: the text has 2097152 characters"));
}

TEST_CASE("messages are printable whatever the text holds") {
  CHECK(starts(error_of("\xC3\xA9"), "pattern, column 1: found '\\xc3', expected a name"));
  CHECK(starts(error_of("\x01"), "pattern, column 1: found '\\x01', expected a name"));
}

TEST_CASE("mistakes of arguments say what is allowed") {
  CHECK(error_of("window") ==
        "pattern, column 1: window needs r (a whole number from 0); allowed: window(r, step=..., ring=...)");
  CHECK(error_of("window(1, 1, true, 4)") ==
        "pattern, column 20: window: argument 4 of at most 3; allowed: window(r, step=..., ring=...)");
  CHECK(error_of("window(width=1)") ==
        "pattern, column 8: window has no argument 'width'; allowed: window(r, step=..., ring=...)");
  CHECK(error_of("window(1, r=2)") == "pattern, column 11: window: r is given twice");
  CHECK(error_of("window(r=1, 2)") ==
        "pattern, column 13: window: an argument without a name after named ones; found '2'");
  CHECK(error_of("window(-1)") == "pattern, column 8: window: r is a whole number from 0, found -1");
  CHECK(error_of("window(1.5)") == "pattern, column 8: window: r is a whole number from 0, found 1.5");
  CHECK(error_of("window(1, step=0)") ==
        "pattern, column 16: window: step is a whole number from 1, found 0");
  CHECK(error_of("window(causal)") ==
        "pattern, column 8: window: r is a whole number from 0, found the pattern 'causal'");
  CHECK(error_of("window(1, ring=1)") == "pattern, column 16: window: ring is true or false, found 1");
  CHECK(error_of("sym(3)") == "pattern, column 5: sym: expr is a pattern, found 3");
  CHECK(error_of("causal(3)") ==
        "pattern, column 8: causal: argument 1 of at most 0; causal takes no arguments");
  CHECK(error_of("smallworld(2, 1.5)") ==
        "pattern, column 15: smallworld: p is a number from 0 to 1, found 1.5");
  CHECK(starts(error_of("global"), "pattern, column 1: global needs k or ids"));
  CHECK(starts(error_of("global(1, ids=[1])"), "pattern, column 1: global needs only one of k and ids"));
  CHECK(error_of("global(ids=[1, 8])") == "pattern, column 16: global: token 8 is outside 0 .. 7");
  CHECK(error_of("window(99999999999999999999)") ==
        "pattern, column 8: the number 99999999999999999999 is above 18446744073709551615");
  CHECK(error_of("window(1e999)") == "pattern, column 8: the number 1e999 is out of range");
  CHECK(error_of("window(1x)") == "pattern, column 9: found 'x' in a number");
}

TEST_CASE("sizes that do not fit name both numbers and the nearest that do") {
  CHECK(error_of("random(9)", 4) == "pattern, column 1: random: k = 9 is above the 4 columns");
  CHECK(error_of("self | global(9)", 4) == "pattern, column 8: global: k = 9 is above the 4 columns");
  CHECK(error_of("regular(9)", 4) == "pattern, column 1: regular: d = 9 is above n - 1 = 3");
  CHECK(error_of("regular(3)", 5) ==
        "pattern, column 1: regular: n * d = 5 * 3 is odd; n = 4 and n = 6 fit, or d = 2 and d = 4");
  CHECK(error_of("hypercube", 9) ==
        "pattern, column 1: hypercube: n = 9 is not a power of two; n = 8 and n = 16 fit");
  CHECK(error_of("hypercube", 0) == "pattern, column 1: hypercube: n = 0 is not a power of two; n = 1 fits");
  CHECK(error_of("paley", 7) ==
        "pattern, column 1: paley: n = 7 is not a prime that is 1 mod 4; n = 5 and n = 13 fit");
  CHECK(error_of("paley", 2) == "pattern, column 1: paley: n = 2 is not a prime that is 1 mod 4; n = 5 fits");
  CHECK(error_of("margulis", 17) ==
        "pattern, column 1: margulis: n = 17 is not a square; n = 16 and n = 25 fit");
  CHECK(error_of("chordal", 8) == "pattern, column 1: chordal: n = 8 is not a prime; n = 7 and n = 11 fit");
  CHECK(error_of("lps(13, 5)", 60) == "pattern, column 1: lps(13, 5) has 120 vertices, n = 60");
  CHECK(error_of("lps(7, 5)", 60) ==
        "pattern, column 1: lps: p = 7 is not a prime that is 1 mod 4; p = 5 and p = 13 fit");
  CHECK(error_of("lps(5, 5)", 60) == "pattern, column 1: lps: p = 5 and q = 5 must differ");
  CHECK(error_of("axial(2, 3)", 7) == "pattern, column 1: axial: h * w = 2 * 3 = 6 does not fit n = 7");
  CHECK(error_of("smallworld(3, 0)") == "pattern, column 1: smallworld: k = 3 is odd; 2 and 4 fit");
  CHECK(error_of("diffuser_ref(256)", 300) ==
        "pattern, column 1: diffuser_ref: n = 300 is above max_len = 256");
  CHECK(error_of("sym(self)", 3, 4) ==
        "pattern, column 1: sym wants as many rows as columns, the sizes are 3 x 4");
  CHECK(starts(error_of("self", -1), "pattern: size -1 x -1 is outside 0 .. 2147483647"));
}

TEST_CASE("clipped counts and composites fit every size") {
  const PatternOptions clip{.clip = true};
  for (const Offset n : {0, 1, 2, 3, 5}) {
    CHECK(error_of("random(9)", n, std::nullopt, clip) == "no error");
    CHECK(error_of("global(9)", n, std::nullopt, clip) == "no error");
    CHECK(error_of("global(9, seed=3)", n, std::nullopt, clip) == "no error");
    CHECK(error_of("regular(9)", n, std::nullopt, clip) == "no error");
    CHECK(error_of("smallworld(8, 0.5)", n, std::nullopt, clip) == "no error");
    for (const char* text :
         {"diffuser", "longformer(9, 9)", "bigbird(2, 9, 1)", "exphormer(9, 9)", "exphormer(3, 1)",
          "lift(window(1), 64)", "hops(causal, 9)", "sym(causal)", "t(causal)", "logsparse", "strided(9)",
          "overlap(9, 4)", "diffuser_ref", "margulis | self"}) {
      if (std::string(text) == "margulis | self" && n > 1) continue;
      CHECK_MESSAGE(error_of(text, n) == "no error", text, " at ", n);
    }
  }
}

TEST_CASE("what would not fit into memory is refused before it is made") {
  for (const char* text :
       {"hypercube | self", "hypercube", "random(1000000)", "regular(1000)", "smallworld(1000, 0.5)",
        "window(1000, 3)", "sym(random(1000))", "debruijn(4294967296)"}) {
    CHECK_THROWS_AS((void)pattern(text, Offset{1} << 30), LimitError);
  }
}

TEST_CASE("huge numbers and sizes stay cheap") {
  CHECK(pattern("window(9223372036854775807)", 5).nnz() == 25);
  CHECK(pattern("window(18446744073709551615, 18446744073709551615)", 5).nnz() == 5);
  CHECK(pattern("window(9223372036854775807, 9223372036854775807, ring=true)", 5).nnz() == 25);
  CHECK(pattern("overlap(9223372036854775807, 9223372036854775807)", 5).nnz() == 25);
  CHECK(pattern("strided(9223372036854775807)", 5).nnz() == 25);
  CHECK(pattern("lift(self, 9223372036854775807)", 5).nnz() == 25);
  CHECK(pattern("debruijn(9223372036854775807)", 5).nnz() == 25);
  CHECK(pattern("random(3, 18446744073709551615)", 5).nnz() == 15);
  CHECK(pattern("bigbird(9223372036854775807, 9223372036854775807)", 5).nnz() == 25);
  CHECK(pattern("hops(window(1), 9223372036854775807)", 5).nnz() == 25);
  const Graph full = pattern("full", 1000000);
  CHECK(full.implicit());
  CHECK(full.nnz() == 1000000000000);
  CHECK(full.bytes() < std::size_t{32} << 20);
  CHECK(pattern("hops(full, 100)", 100000).nnz() == 10000000000);
  CHECK(pattern("sym(causal)", 100000).nnz() == 10000000000);
  CHECK(pattern("lift(full, 64)", 100000).nnz() == 10000000000);
  CHECK(pattern("full - causal", 100000).nnz() == 4999950000);
  CHECK(pattern("causal & window(2)", 100000).nnz() == 299997);
}
