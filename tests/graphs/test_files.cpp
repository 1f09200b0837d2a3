// Files that appear whole or not at all, through links, pipes and devices.
#include "manyhop/graphs/io/files.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "tests/support/folder.hpp"

namespace manyhop {
namespace {

namespace fs = std::filesystem;
using test::Folder;

TEST_CASE("a file appears whole or not at all") {
  const Folder folder;
  write_atomically(folder / "old", "before");
  {
    AtomicFile output(folder / "old");
    output.write(std::string(3 << 20, 'x'));
    CHECK(folder.entries() == 2);
    CHECK(read_file(folder / "old") == "before");
  }
  CHECK(folder.entries() == 1);
  CHECK(read_file(folder / "old") == "before");
  const std::atomic<bool> stop{true};
  {
    const ThreadScope scope(1, &stop);
    CHECK_THROWS_AS(write_atomically(folder / "new", "after"), Interrupted);
  }
  CHECK(folder.entries() == 1);
  AtomicFile pending(folder / "third");
  pending.write("x");
  remove_pending_files();
  CHECK(folder.entries() == 1);
}

TEST_CASE("links are followed, modes kept, devices written in place") {
  const Folder folder;
  write_atomically(folder / "real", "1");
  fs::permissions(folder / "real", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("real", folder / "link");
  write_atomically(folder / "link", "2");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "real") == "2");
  CHECK(fs::status(folder / "real").permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  write_atomically("/dev/null", "x");
  CHECK(fs::is_character_file("/dev/null"));
  const std::string pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::string got;
  std::thread reader([&] { got = read_file(pipe); });
  write_atomically(pipe, "through a pipe");
  reader.join();
  CHECK(got == "through a pipe");
}

TEST_CASE("a link to nothing stays a link, and what it leads to is written") {
  const Folder folder;
  fs::create_directory(folder / "sub");
  fs::create_symlink("sub/real.npy", folder / "link");
  fs::create_symlink("link", folder / "outer");  // a chain
  write_atomically(folder / "outer", "1");
  CHECK(fs::is_symlink(folder / "outer"));
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(fs::is_regular_file(fs::symlink_status(folder / "sub/real.npy")));
  CHECK(read_file(folder / "link") == "1");
  fs::create_symlink("none/real.npy", folder / "lost");
  CHECK_THROWS_WITH_AS(
      write_atomically(folder / "lost", "1"),
      fmt::format("{0}: links to {1}/none/real.npy, and there is no folder {1}/none/; make it "
                  "or name another file",
                  folder / "lost", folder.path.string())
          .c_str(),
      FileError);
  CHECK(fs::is_symlink(folder / "lost"));
  fs::create_symlink("loop", folder / "loop");
  CHECK_THROWS_WITH_AS(write_atomically(folder / "loop", "1"), doctest::Contains("cannot write"), FileError);
}

TEST_CASE("the system's reason is told") {
  const Folder folder;
  CHECK_THROWS_WITH_AS(read_file(folder / "absent.el"),
                       ((folder / "absent.el") + ": cannot read: No such file or directory").c_str(),
                       FileError);
  fs::create_directory(folder / "folder.mtx");
  CHECK_THROWS_WITH_AS(load(folder / "folder.mtx"),
                       ((folder / "folder.mtx") + ": cannot read: Is a directory").c_str(), FileError);
  CHECK_THROWS_WITH_AS(write_atomically(folder / "no/such/x", ""),
                       ((folder / "no/such/x") + ": cannot write: No such file or directory").c_str(),
                       FileError);
  CHECK_THROWS_AS(write_atomically(folder / "folder.mtx", ""), FileError);
  CHECK_THROWS_AS(load(""), FileError);
}

}  // namespace
}  // namespace manyhop
