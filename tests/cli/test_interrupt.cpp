// Ctrl-C at any moment: exit code 130 within a second and no new file, or finished.
#include <doctest/doctest.h>
#include <signal.h>

#include <cstdlib>
#include <random>

#include "manyhop/graphs/io/io.hpp"
#include "program.hpp"

using namespace manyhop::test;
using manyhop::DType;
using manyhop::Tensor;

namespace {

int moments() {
  const char* text = std::getenv("MANYHOP_TEST_SIGNALS");
  return text != nullptr ? std::atoi(text) : 4;
}

void interrupt_at_random(const Folder& folder, const std::vector<std::string>& call, int signal = SIGINT) {
  const auto before = folder.names();
  std::mt19937 random(static_cast<unsigned>(7 + call[0].size()));
  int stopped = 0;
  for (int i = 0; i < moments(); ++i) {
    double after = 0;
    Setting setting;
    setting.interrupt_after_ms = static_cast<int>(random() % 400);
    setting.after_signal = &after;
    setting.signal = signal;
    const Said said = run_program(call, setting);
    INFO(call[0] << " after " << setting.interrupt_after_ms << " ms, stderr: " << said.err);
    CHECK((said.code == 130 || said.code == 0));
    CHECK(after < 1.0 + 0.5 * patience());
    if (said.code == 130) {
      ++stopped;
      CHECK(said.out.empty());
      CHECK(said.err == "manyhop: interrupted\n");
      CHECK(folder.names() == before);
    } else {
      for (const auto& name : folder.names())
        if (before.count(name) == 0) std::filesystem::remove_all(name);
    }
  }
  CHECK(stopped > 0);
}

}  // namespace

TEST_CASE("interrupt: gen, info, spy, convert") {
  const Folder folder;
  interrupt_at_random(folder, {"gen", "random(64)", "-n", "1000000", "-o", folder / "g.el"});
  interrupt_at_random(folder, {"gen", "random(64)", "-n", "1000000", "-o", folder / "g.npz"}, SIGTERM);
  interrupt_at_random(folder, {"info", "random(64)", "-n", "1000000"});
  interrupt_at_random(folder, {"spy", "random(64)", "-n", "1000000", "-o", folder / "g.svg"});
  REQUIRE(run_program({"gen", "random(16)", "-n", "100000", "-o", folder / "in.mtx"}).code == 0);
  interrupt_at_random(folder, {"convert", folder / "in.mtx", folder / "out.el"});
}

TEST_CASE("interrupt: attend") {
  const Folder folder;
  manyhop::NamedTensors file;
  for (const char* name : {"q", "k", "v"})
    file.tensors.emplace(name, Tensor::zeros(DType::f32, {4096, 8, 64}));
  manyhop::save_safetensors(file, folder / "in.safetensors");
  interrupt_at_random(folder, {"attend", "--qkv", folder / "in.safetensors", "--pattern", "full", "--repeat",
                               "50", "-o", folder / "out.safetensors", "--svg", folder / "pictures"});
}

TEST_CASE("interrupt: diffuse") {
  const Folder folder;
  manyhop::save_npy(Tensor::zeros(DType::f32, {200000, 4}), folder / "x.npy");
  interrupt_at_random(folder, {"diffuse", "random(32)", "--signal", folder / "x.npy", "--hops", "100000",
                               "-o", folder / "z.npy"});
}

TEST_CASE("interrupt: spectral") {
  const Folder folder;
  interrupt_at_random(folder, {"spectral", "window(8)|random(8)", "-n", "300000", "--tol", "1e-14",
                               "--vectors", folder / "v.npy"});
}

TEST_CASE("interrupt: a pipe that nobody feeds") {
  const Folder folder;
  const std::string fifo = folder / "never.el";
  REQUIRE(std::system(("mkfifo " + fifo).c_str()) == 0);
  interrupt_at_random(folder, {"info", fifo});
}
