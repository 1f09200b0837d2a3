#include "signals.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "manyhop/graphs/io/files.hpp"

namespace manyhop::cli {
namespace {

constexpr int kInterrupted = 130;
constexpr long kGraceNanoseconds = 700'000'000;

std::atomic<bool> stop{false};
std::atomic<bool> said{false};

// Who comes first, a signal or the last output in place: what follows the other is ignored.
enum class Phase : int { running, stopped, finished };
std::atomic<Phase> phase{Phase::running};

struct Listed {
  std::mutex mutex;
  std::vector<std::string> paths;
};
// Never destroyed: the waiting thread may outlive main's statics.
Listed& listed() {
  static Listed& instance = *new Listed;
  return instance;
}

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  struct sigaction hangup {};
  // Started under nohup: a hang-up stays ignored.
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  return set;
}

void wait_for_signals(const sigset_t& set) {
  int number = 0;
  Phase running = Phase::running;
  do {
    while (sigwait(&set, &number) != 0) {
    }
    running = Phase::running;
  } while (!phase.compare_exchange_strong(running, Phase::stopped));
  stop.store(true);
  const timespec grace{0, kGraceNanoseconds};
  while (sigtimedwait(&set, nullptr, &grace) < 0 && errno == EINTR) {
  }
  remove_pending_files();
  remove_listed();
  if (first_to_say_interrupted()) {
    constexpr std::string_view message = "manyhop: interrupted\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, message.data(), message.size());
  }
  _exit(kInterrupted);
}

}  // namespace

void start_signal_thread() {
  listed();
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_DFL);  // a reader that left (`| head`) ends the program without a word
  signal(SIGXFSZ, SIG_IGN);  // a file past `ulimit -f` is a failure to write, which removes it
  std::thread([set] { wait_for_signals(set); }).detach();
}

bool finish_work() {
  Phase running = Phase::running;
  return phase.compare_exchange_strong(running, Phase::finished) || running == Phase::finished;
}

const std::atomic<bool>& stop_flag() { return stop; }

bool first_to_say_interrupted() { return !said.exchange(true); }

void forget_on_success(const std::string& path) {
  const std::lock_guard lock(listed().mutex);
  listed().paths.push_back(path);
}

void keep(const std::string& path) {
  const std::lock_guard lock(listed().mutex);
  std::erase(listed().paths, path);
}

void keep_all() {
  const std::lock_guard lock(listed().mutex);
  listed().paths.clear();
}

void remove_listed() {
  const std::lock_guard lock(listed().mutex);
  std::error_code ignored;
  // Last listed first: a file goes before the folder it was written into.
  std::for_each(listed().paths.rbegin(), listed().paths.rend(),
                [&](const std::string& path) { std::filesystem::remove(path, ignored); });
  listed().paths.clear();
}

}  // namespace manyhop::cli
