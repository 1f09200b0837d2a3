#include "manyhop/graphs/runs.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <set>
#include <vector>

using namespace manyhop;

namespace {

RunList runs_of(const std::set<Index>& columns) {
  RunList out;
  append_columns(out, std::vector<Index>(columns.begin(), columns.end()));
  return out;
}

std::set<Index> columns_of(const RunList& runs) {
  std::set<Index> out;
  for (const Run run : runs) {
    for (Index c = run.begin; c < run.end; ++c) out.insert(c);
  }
  return out;
}

std::set<Index> draw() { return *rc::gen::container<std::set<Index>>(rc::gen::inRange<Index>(0, 40)); }

}  // namespace

// a: ##.##...    b: .###....
TEST_CASE("runs by hand") {
  const RunList a{{0, 2}, {3, 5}};
  const RunList b{{1, 4}};
  RunList out;
  unite(a, b, out);
  CHECK(out == RunList{{0, 5}});
  intersect(a, b, out);
  CHECK(out == RunList{{1, 2}, {3, 4}});
  subtract(a, b, out);
  CHECK(out == RunList{{0, 1}, {4, 5}});
  subtract(b, a, out);
  CHECK(out == RunList{{2, 3}});
  RunList list;
  append_columns(list, std::vector<Index>{1, 1, 2, 4});
  CHECK(list == RunList{{1, 3}, {4, 5}});
  append_run(list, {5, 5});
  CHECK(list.size() == 2);
  append_run(list, {5, 7});
  CHECK(list.back() == Run{4, 7});
}

TEST_CASE("runs follow set algebra and stay maximal") {
  CHECK(rc::check("runs against std::set", [] {
    const std::set<Index> x = draw();
    const std::set<Index> y = draw();
    std::set<Index> both;
    std::set<Index> common;
    std::set<Index> left;
    both = x;
    both.insert(y.begin(), y.end());
    for (const Index c : x) (y.contains(c) ? common : left).insert(c);
    RunList out;
    unite(runs_of(x), runs_of(y), out);
    RC_ASSERT(columns_of(out) == both);
    RC_ASSERT(out == runs_of(both));
    intersect(runs_of(x), runs_of(y), out);
    RC_ASSERT(out == runs_of(common));
    subtract(runs_of(x), runs_of(y), out);
    RC_ASSERT(out == runs_of(left));
  }));
}

TEST_CASE("runs reach the last column there can be") {
  const RunList all{{0, 2147483647}};
  const RunList tail{{2147483646, 2147483647}};
  RunList out;
  subtract(all, tail, out);
  CHECK(out == RunList{{0, 2147483646}});
  intersect(all, tail, out);
  CHECK(out == tail);
}
