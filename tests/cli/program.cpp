#include "program.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tests/support/sanitized.hpp"

extern char** environ;

namespace manyhop::test {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The child: nothing but system calls between fork and exec.
[[noreturn]] void become(char* const* argv, char* const* env, const std::string& in, const std::string& out,
                         const std::string& err, const Setting& setting) {
  dup2(open(in.c_str(), O_RDONLY), STDIN_FILENO);
  dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
  dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
  if (setting.closed >= 0) close(setting.closed);
  if (setting.address_space > 0 && !kSanitized) {
    const rlimit limit{setting.address_space, setting.address_space};
    setrlimit(RLIMIT_AS, &limit);
  }
  if (setting.file_size > 0) {
    const rlimit limit{setting.file_size, setting.file_size};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  execve(argv[0], argv, env);
  _exit(127);
}

// Until the program has blocked the signal (it waits for it in a thread of its own), or has ended: a signal
// that comes while the system still loads the program has its default effect. fork() and thread creation
// block every signal for a moment, so a mask that has SIGUSR1 too is not the program's own.
void wait_until_ready(pid_t child, int signal) {
  const std::string path = "/proc/" + std::to_string(child) + "/status";
  for (;;) {
    std::ifstream status(path);
    unsigned long long blocked = 0;
    char state = 'Z';
    for (std::string word; status >> word;) {
      if (word == "State:") status >> state;
      if (word == "SigBlk:") status >> std::hex >> blocked;
    }
    const auto has = [blocked](int number) { return ((blocked >> (number - 1)) & 1U) != 0; };
    if (state == 'Z' || (has(signal) && !has(SIGUSR1))) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

double patience() { return kSanitized ? 12 : 1; }

Folder::Folder() {
  std::string name = (std::filesystem::temp_directory_path() / "manyhop-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::set<std::string> Folder::names() const {
  std::set<std::string> all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path_))
    all.insert(entry.path().string());
  return all;
}

std::string text_of(const std::string& path) {
  const std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string example(const std::string& name) { return std::string(MANYHOP_EXAMPLES "/") + name; }

Said run_program(const std::vector<std::string>& arguments, const Setting& setting) {
  const Folder folder;
  write_text(folder / "in", setting.input);
  std::vector<std::string> words{MANYHOP_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> extra = setting.extra;
  std::vector<char*> env;
  for (auto& word : extra) env.push_back(word.data());
  for (char** word = environ; *word != nullptr; ++word) env.push_back(*word);
  env.push_back(nullptr);
  const std::string in = folder / "in";
  const std::string out = setting.out.empty() ? folder / "out" : setting.out;
  const std::string err = setting.err.empty() ? folder / "err" : setting.err;

  const auto start = Clock::now();
  const pid_t child = fork();
  if (child == 0) become(argv.data(), env.data(), in, out, err, setting);
  REQUIRE(child > 0);
  Clock::time_point signalled = start;
  if (setting.interrupt_after_ms >= 0) {
    wait_until_ready(child, setting.signal);
    std::this_thread::sleep_for(std::chrono::milliseconds(setting.interrupt_after_ms));
    signalled = Clock::now();
    kill(child, setting.signal);
  }
  int status = 0;
  waitpid(child, &status, 0);
  Said said;
  said.seconds = since(start);
  if (setting.after_signal != nullptr) *setting.after_signal = since(signalled);
  said.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (setting.out.empty()) said.out = text_of(out);
  if (setting.err.empty()) said.err = text_of(err);
  return said;
}

nlohmann::json run_json(std::vector<std::string> arguments, const Setting& setting, int code) {
  arguments.emplace_back("--json");
  const Said said = run_program(arguments, setting);
  INFO("stderr: " << said.err);
  INFO("stdout: " << said.out);
  REQUIRE(said.code == code);
  const auto json = nlohmann::json::parse(said.out, nullptr, false);
  REQUIRE(json.is_object());
  return json;
}

std::string refused(const std::vector<std::string>& arguments, const std::string& part,
                    const Setting& setting) {
  Setting small = setting;
  if (small.address_space == 0) small.address_space = std::size_t{2} << 30;
  const Said said = run_program(arguments, small);
  std::string call;
  for (const auto& word : arguments) call += word + " ";
  INFO("call: " << call);
  INFO("stderr: " << said.err);
  CHECK(said.code == 2);
  CHECK(said.out.empty());
  CHECK(said.err.starts_with("manyhop: "));
  CHECK(said.err.ends_with("\n"));
  CHECK(said.err.find('\n') == said.err.size() - 1);
  CHECK(said.err.find(part) != std::string::npos);
  CHECK(said.seconds < patience());
  return said.err;
}

}  // namespace manyhop::test
