// What this machine can do in this minute: printed beside every number, because clocks and neighbours change.
#pragma once

#include <cstddef>

namespace manyhop::bench {

struct Peaks {
  double fma_gflops = 0;  // fp32 multiply-adds on all threads, registers only
  double l2_gbs = 0;      // reads of 256 KiB a thread, over and over
  double l3_gbs = 0;      // of 8 MiB a thread
  double dram_gbs = 0;    // of 256 MiB in all
};

/// Measures on the threads that parallel_for would use; about 0.1 s.
Peaks measure_peaks();

/// GFLOP of `loops` rounds of multiply-adds on this thread; the sum goes to `sink` so that it is not removed.
double multiply_add(long loops, float* sink);
/// Adds up `count` floats (a multiple of 64).
float add_up(const float* values, std::size_t count);

}  // namespace manyhop::bench
