// Debian packages no progress-bar library for C++ (it has them for Go, Perl and Python), and one bar is forty
// lines, so this is ours.
#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <string>

namespace manyhop::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kCells = 30;

struct Bar {
  std::mutex mutex;
  std::string stage;
  Clock::time_point started = Clock::now();
  Clock::time_point drawn;
  bool visible = false;

  void update(std::string_view name, double share) {
    const std::lock_guard lock(mutex);
    const auto now = Clock::now();
    if (name != stage) {
      stage = name;
      started = now;
    }
    using namespace std::chrono_literals;
    if (now - started < 1s || now - drawn < 100ms) return;
    drawn = now;
    visible = true;
    const double done = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0.0;
    const auto filled = static_cast<std::size_t>(done * kCells);
    write(fmt::format("\r\033[K{} [{}{}] {:3.0f} %", stage, std::string(filled, '#'),
                      std::string(kCells - filled, '.'), 100 * done));
  }

  // A terminal that went away ends no run.
  static void write(const std::string& text) {
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  }

  void clear() {
    const std::lock_guard lock(mutex);
    if (!visible) return;
    visible = false;
    write("\r\033[K");
  }
};

// Never destroyed: a worker may still report while main leaves.
Bar& bar() {
  static Bar& instance = *new Bar;
  return instance;
}

}  // namespace

std::function<void(std::string_view, double)> progress_bar() {
  if (isatty(STDERR_FILENO) == 0) return {};
  return [](std::string_view stage, double share) { bar().update(stage, share); };
}

void clear_progress() { bar().clear(); }

}  // namespace manyhop::cli
