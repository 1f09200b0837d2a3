// Chunks that write one number without owning it. Under ThreadSanitizer this must be reported: what
// parallel.cpp tells the sanitizer about oneTBB may hide nothing of ours.
#include <cstdio>

#include "manyhop/graphs/base/parallel.hpp"

int main() {
  const manyhop::ThreadScope threads(4);
  long total = 0;
  manyhop::parallel_for(1000, [&](std::int64_t chunk) {
    for (int i = 0; i < 1000; ++i) total += static_cast<long>(chunk);
  });
  std::printf("%ld\n", total);
}
