#include "manyhop/graphs/base/parallel.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/runs.hpp"

using namespace manyhop;

TEST_CASE("every chunk runs once for any thread count") {
  for (const int threads : {1, 2, 4}) {
    const ThreadScope scope(threads);
    CHECK(thread_count() == threads);
    for (const std::int64_t chunks : {-1, 0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> seen(1000);
      parallel_for(chunks, [&](std::int64_t c) { ++seen[static_cast<std::size_t>(c)]; });
      for (std::int64_t c = 0; c < 1000; ++c)
        CHECK(seen[static_cast<std::size_t>(c)] == (c < chunks ? 1 : 0));
    }
  }
}

TEST_CASE("ranges cover the count in fixed pieces") {
  for (const std::int64_t count : {0, 1, 9, 10, 11}) {
    std::mutex mutex;
    std::set<std::pair<std::int64_t, std::int64_t>> pieces;
    parallel_ranges(count, 5, [&](std::int64_t begin, std::int64_t end) {
      const std::lock_guard lock(mutex);
      pieces.insert({begin, end});
    });
    std::int64_t at = 0;
    for (const auto& [begin, end] : pieces) {
      CHECK(begin == at);
      CHECK(begin % 5 == 0);
      CHECK(end - begin <= 5);
      at = end;
    }
    CHECK(at == count);
  }
}

TEST_CASE("an exception of a chunk reaches the caller") {
  for (const int threads : {1, 4}) {
    const ThreadScope scope(threads);
    const auto fail = [](std::int64_t c) {
      if (c == 37) throw ValueError("chunk 37");
    };
    CHECK_THROWS_WITH_AS(parallel_for(100, fail), "chunk 37", ValueError);
    std::atomic<int> count{0};
    parallel_for(100, [&](std::int64_t) { ++count; });  // the arena is still good
    CHECK(count == 100);
  }
}

TEST_CASE("a raised stop flag interrupts") {
  for (const int threads : {1, 4}) {
    std::atomic<bool> stop{false};
    const ThreadScope scope(threads, &stop);
    std::atomic<int> count{0};
    CHECK_NOTHROW(check_stop());
    const auto body = [&](std::int64_t) {
      if (++count == 10) stop = true;
    };
    CHECK_THROWS_AS(parallel_for(100000, body), Interrupted);
    CHECK(count < 100000);
    CHECK_THROWS_AS(check_stop(), Interrupted);
    {
      const ThreadScope inner(2);  // a scope of its own has no flag
      CHECK_NOTHROW(check_stop());
    }
    CHECK_THROWS_AS(check_stop(), Interrupted);
  }
  CHECK_NOTHROW(check_stop());
}

TEST_CASE("nested loops see the scope and its flag") {
  std::atomic<bool> stop{false};
  const ThreadScope scope(4, &stop);
  std::atomic<int> count{0};
  std::atomic<int> wrong{0};
  parallel_for(20, [&](std::int64_t) {
    if (thread_count() != 4) ++wrong;
    parallel_for(20, [&](std::int64_t) { ++count; });
  });
  CHECK(count == 400);
  CHECK(wrong == 0);
  stop = true;
  CHECK_THROWS_AS(parallel_for(4, [](std::int64_t) { parallel_for(4, [](std::int64_t) {}); }), Interrupted);
}

TEST_CASE("a thread that waits for an inner loop starts no outer chunk") {
  static thread_local bool inside = false;
  const ThreadScope scope(4);
  std::atomic<int> wrong{0};
  // Uneven chunks: whoever is done early takes inner chunks of others, who then have to wait.
  for (int round = 0; round < 10; ++round) {
    parallel_for(200, [&](std::int64_t chunk) {
      if (inside) ++wrong;
      if (chunk % 13 != 0) return;
      inside = true;
      parallel_for(16, [](std::int64_t c) {
        std::this_thread::sleep_for(std::chrono::microseconds(c % 3 == 0 ? 500 : 20));
      });
      inside = false;
    });
  }
  CHECK(wrong == 0);
}

// A thread that waits for the inner loop under the graph's call_once must not start an outer chunk, which
// would wait for the same call_once.
TEST_CASE("first use of an implicit graph inside a loop does not lock up") {
  for (int round = 0; round < 30; ++round) {
    const ThreadScope scope(4);
    const Graph graph = build_rows(5000, 500, [](Offset, RunList& out) { out.push_back({0, 500}); });
    REQUIRE(graph.implicit());
    std::atomic<Offset> sum{0};
    parallel_for(200, [&](std::int64_t c) { sum += static_cast<Offset>(graph.row(c).size()); });
    CHECK(sum == 200 * 500);
  }
}

TEST_CASE("threads beyond the cores take part when asked for") {
  const ThreadScope scope(4);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  for (int round = 0; round < 50 && ids.size() < 4; ++round) {
    parallel_for(64, [&](std::int64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const std::lock_guard lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
  }
  CHECK(ids.size() == 4);
}

TEST_CASE("the default follows the call, then MANYHOP_THREADS, then the machine") {
  const char* const before = std::getenv("MANYHOP_THREADS");
  const std::string saved = before == nullptr ? "" : before;
  setenv("MANYHOP_THREADS", "3", 1);
  CHECK(thread_count() == 3);
  set_default_threads(2);
  CHECK(thread_count() == 2);
  set_default_threads(0);
  CHECK(thread_count() == 3);
  setenv("MANYHOP_THREADS", "", 1);
  CHECK(thread_count() == static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  for (const std::string bad : {"0", "-4", "many", "3x", "4097", "99999999999"}) {
    setenv("MANYHOP_THREADS", bad.c_str(), 1);
    const std::string message =
        "MANYHOP_THREADS is '" + bad + "': expected an integer from 1 to 4096, or nothing for all cores";
    CHECK_THROWS_WITH_AS((void)thread_count(), message.c_str(), ValueError);
    CHECK_THROWS_WITH_AS(ThreadScope(0), message.c_str(), ValueError);
    CHECK_THROWS_WITH_AS(parallel_for(9, [](std::int64_t) {}), message.c_str(), ValueError);
    const ThreadScope named(1);  // needs no default
    CHECK(thread_count() == 1);
  }
  if (before == nullptr) {
    unsetenv("MANYHOP_THREADS");
  } else {
    setenv("MANYHOP_THREADS", saved.c_str(), 1);
  }
  const char* negative = "threads: -1, at least 0 is wanted (0: MANYHOP_THREADS, else all cores)";
  CHECK_THROWS_WITH_AS(ThreadScope(-1), negative, ValueError);
  CHECK_THROWS_WITH_AS(set_default_threads(-1), negative, ValueError);
  const ThreadScope scope(2000000000);
  CHECK(thread_count() == 1024);
}
