// The one place that says which instruction set the kernels run on.
#include "manyhop/ops/cpu/simd.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

namespace {

// Better ones first, as Highway numbers them.
constexpr std::array<std::pair<std::string_view, std::int64_t>, 8> kNames{{{"avx512dl", HWY_AVX3_DL},
                                                                           {"avx512", HWY_AVX3},
                                                                           {"avx2", HWY_AVX2},
                                                                           {"sse4", HWY_SSE4},
                                                                           {"ssse3", HWY_SSSE3},
                                                                           {"neon", HWY_NEON},
                                                                           {"emu128", HWY_EMU128},
                                                                           {"scalar", HWY_SCALAR}}};

std::vector<std::pair<std::string_view, std::int64_t>> available() {
  std::vector<std::pair<std::string_view, std::int64_t>> found;
  const std::int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  for (const auto& entry : kNames) {
    if ((targets & entry.second) != 0) found.push_back(entry);
  }
  return found;
}

// Highway takes the lowest bit it may.
std::string choose() {
  const auto choices = available();
  const char* text = std::getenv("MANYHOP_SIMD");
  if (text == nullptr || *text == '\0') {
    return choices.empty() ? std::string("unnamed") : std::string(choices.front().first);
  }
  std::vector<std::string_view> names;
  for (const auto& [name, target] : choices) {
    names.push_back(name);
    if (name != text) continue;
    hwy::DisableTargets(target - 1);
    return std::string(name);
  }
  throw ValueError(
      fmt::format("MANYHOP_SIMD is '{}': expected one of {}, which this machine and this build have", text,
                  fmt::join(names, ", ")));
}

}  // namespace

std::string_view simd_name() {
  static const std::string name = choose();  // a throw leaves it to the next call
  return name;
}

std::string simd_rejected() {
  std::string names;
  for (const auto& [name, bit] : kNames) {
    if (name == simd_name()) break;
    if ((HWY_TARGETS & bit) != 0) names += (names.empty() ? "" : ", ") + std::string(name);
  }
  return names;
}

}  // namespace manyhop
