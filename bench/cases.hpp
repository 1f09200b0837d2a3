// The one table of named cases; every binary takes the rows it can time, and the names appear in the README
// too.
#pragma once

#include <array>
#include <string_view>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/base/types.hpp"

namespace manyhop::bench {

struct Case {
  std::string_view name;
  std::string_view pattern;
  Offset n;
  int heads;
  int d;     // of a head; columns of the signal in bench_diffusion
  int hops;  // teleport is 0.1 wherever hops > 1
  DType dtype;
};

/// The first case is the smallest: the tests run every binary on it.
inline constexpr std::array kCases{
    Case{"tiny", "diffuser(8, 4, 2)", 96, 2, 16, 3, DType::f32},
    Case{"alice/window", "window(32)", 512, 12, 32, 5, DType::f32},
    Case{"alice/diffuser", "diffuser(24, 15, 8)", 512, 12, 32, 5, DType::f32},
    Case{"1k/diffuser", "diffuser(64, 64, 64)", 1024, 12, 64, 5, DType::f32},
    Case{"4k/window", "window(64)", 4096, 12, 64, 1, DType::f32},
    Case{"4k/longformer", "longformer(64, 64)", 4096, 12, 64, 1, DType::f32},
    Case{"4k/bigbird", "bigbird(32, 2)", 4096, 12, 64, 1, DType::f32},
    Case{"4k/regular", "regular(128)", 4096, 12, 64, 5, DType::f32},
    Case{"4k/diffuser", "diffuser(64, 64, 64)", 4096, 12, 64, 5, DType::f32},
    Case{"4k/diffuser/bf16", "diffuser(64, 64, 64)", 4096, 12, 64, 5, DType::bf16},
    Case{"4k/full", "full", 4096, 12, 64, 1, DType::f32},
    Case{"16k/diffuser", "diffuser(64, 64, 64)", 16384, 12, 64, 5, DType::f32},
    Case{"64k/diffuser", "diffuser(64, 64, 64)", 65536, 12, 64, 5, DType::f32},
};

}  // namespace manyhop::bench
