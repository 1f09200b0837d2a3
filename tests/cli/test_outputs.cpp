// Where the program writes: links, capitals in suffixes, names that are the same file. What it holds: the
// memory limit. What it reads from standard input.
#include <doctest/doctest.h>
#include <unistd.h>

#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "program.hpp"

using namespace manyhop::test;
using manyhop::DType;
using manyhop::Tensor;

namespace fs = std::filesystem;

namespace {

void write_qkv(const std::string& path, manyhop::Offset n) {
  manyhop::NamedTensors file;
  for (const char* name : {"q", "k", "v"}) file.tensors.emplace(name, Tensor::zeros(DType::f32, {n, 2, 4}));
  manyhop::save_safetensors(file, path);
}

}  // namespace

TEST_CASE("capitals in a suffix name the same format") {
  const Folder folder;
  CHECK(run_program({"gen", "window(1)", "-n", "9", "-o", folder / "g.NPZ"}).code == 0);
  CHECK(text_of(folder / "g.NPZ").starts_with("PK"));
  CHECK(run_program({"convert", folder / "g.NPZ", folder / "g.Mtx"}).code == 0);
  CHECK(run_json({"info", folder / "g.Mtx"})["edges"] == 25);
  refused({"gen", "full", "-n", "2000", "-o", folder / "f.NPZ", "--memory-limit", "20M"},
          "writing 4000000 edges");
  write_qkv(folder / "in.SafeTensors", 4);
  CHECK(
      run_program({"attend", "--qkv", folder / "in.SafeTensors", "--pattern", "full", "-o", folder / "z.Npy"})
          .code == 0);
  CHECK(text_of(folder / "z.Npy").starts_with("\x93NUMPY"));
  refused({"attend", "--qkv", folder / "in.SafeTensors", "--pattern", "full", "--pattern", "self", "-o",
           folder / "z.NPY"},
          "2 patterns");
  CHECK(run_program({"convert", folder / "z.Npy", folder / "z.SAFETENSORS", "--name", "z"}).code == 0);
  CHECK(run_json({"convert", folder / "z.SAFETENSORS", folder / "y.npy"})["shape"] ==
        Tensor::zeros(DType::f32, {4, 2, 4}).shape);
  manyhop::save_npy(Tensor::zeros(DType::f64, {9}), folder / "x.NPY");
  CHECK(run_program({"diffuse", "window(1)", "--signal", folder / "x.NPY", "-o", folder / "w.NPY"}).code ==
        0);
  CHECK(run_program({"spectral", "window(1)", "-n", "9", "--cut", folder / "cut.NPY"}).code == 0);
  CHECK(manyhop::load_npy(folder / "cut.NPY").size() == 9);
}

TEST_CASE("an output that is a link stays one, and a folder that is missing is told before any work") {
  const Folder folder;
  fs::create_directory(folder / "sub");
  fs::create_symlink("sub/real.mtx", folder / "link.mtx");
  CHECK(run_program({"gen", "window(1)", "-n", "9", "-o", folder / "link.mtx"}).code == 0);
  CHECK(fs::is_symlink(folder / "link.mtx"));
  CHECK(run_json({"info", folder / "sub/real.mtx"})["edges"] == 25);
  fs::create_symlink("none/real.mtx", folder / "lost.mtx");
  refused({"gen", "random(64)", "-n", "1000000", "-o", folder / "lost.mtx"},
          "links to " + (folder / "none/real.mtx") + ", the folder " + (folder / "none") + " does not exist");
  fs::create_symlink("loop.mtx", folder / "loop.mtx");
  refused({"gen", "random(64)", "-n", "1000000", "-o", folder / "loop.mtx"}, "Too many levels");
  // A failed run removes what it made and leaves the user's link.
  fs::create_symlink("sub/new.graph", folder / "new.graph");
  const auto before = folder.names();
  refused({"gen", "causal", "-n", "4", "-o", folder / "new.graph"}, "METIS");
  CHECK(folder.names() == before);
  CHECK(fs::is_symlink(folder / "new.graph"));
  fs::create_symlink("/dev/null", folder / "null.mtx");
  CHECK(run_program({"gen", "full", "-n", "4", "-o", folder / "null.mtx"}).code == 0);
  CHECK(fs::is_symlink(folder / "null.mtx"));
  if (geteuid() != 0) {
    write_text(folder / "mine.mtx", "");
    fs::permissions(folder / "mine.mtx", fs::perms::owner_read);
    refused({"gen", "random(64)", "-n", "1000000", "-o", folder / "mine.mtx"}, "cannot be written");
  }
}

TEST_CASE("two names of one file are one file") {
  const Folder folder;
  fs::create_symlink("a.npy", folder / "b.npy");
  refused({"spectral", "window(1)", "-n", "9", "--vectors", folder / "a.npy", "--cut", folder / "./a.npy"},
          "name two files");
  refused({"spectral", "window(1)", "-n", "9", "--vectors", folder / "a.npy", "--cut", folder / "b.npy"},
          "name two files");
}

TEST_CASE("a full disk is a failure without a partial file") {
  const Folder folder;
  fs::create_symlink("/dev/full", folder / "full.mtx");
  const Said said = run_program({"gen", "window(1)", "-n", "9", "-o", folder / "full.mtx"});
  CHECK(said.code == 1);
  CHECK(said.out.empty());
  CHECK(said.err.find("full.mtx: cannot write: No space left on device") != std::string::npos);
  const auto before = folder.names();
  const Said large = run_program({"gen", "full", "-n", "100", "-o", folder / "g.mtx"}, {.file_size = 4096});
  CHECK(large.code == 1);
  CHECK(large.err.find("g.mtx: cannot write: File too large") != std::string::npos);
  CHECK(folder.names() == before);
}

TEST_CASE("streams that are closed or full neither end a run nor get into its files") {
  const Folder folder;
  REQUIRE(run_program({"gen", "window(1)", "-n", "9", "-o", folder / "want.mtx"}).code == 0);
  const std::string want = text_of(folder / "want.mtx");
  for (const int closed : {0, 1, 2}) {
    const std::string name = folder / ("g" + std::to_string(closed) + ".mtx");
    const Said said = run_program({"gen", "window(1)", "-n", "9", "-o", name}, {.closed = closed});
    CHECK(said.code == (closed == 1 ? 1 : 0));
    CHECK(text_of(name) == want);  // and not the table after it
    if (closed == 1) CHECK(said.err.find("standard output could not be written") != std::string::npos);
  }
  CHECK(run_program({"info", "-"}, {.closed = 0}).err == "manyhop: -: cannot read: Bad file descriptor\n");
  // What went wrong is told by the exit code where it cannot be told otherwise.
  for (const Setting& setting : {Setting{.closed = 2}, Setting{.err = "/dev/full"}}) {
    CHECK(run_program({"gen", "windw(1)", "-n", "9"}, setting).code == 2);
    CHECK(run_program({"gen", "window(1)", "-n", "9", "-o", "-"}, setting).code == 0);
  }
  const Said full = run_program({"info", "window(1)", "-n", "9", "--json"}, {.out = "/dev/full"});
  CHECK(full.code == 1);
  CHECK(full.err == "manyhop: standard output could not be written: No space left on device\n");
}

TEST_CASE("a limit of one byte is refused by every verb") {
  const Folder folder;
  manyhop::save_npy(Tensor::zeros(DType::f64, {9}), folder / "x.npy");
  manyhop::save_npy(Tensor::zeros(DType::f64, {1}), folder / "x1.npy");
  manyhop::save_safetensors({.tensors = {{"x", Tensor::zeros(DType::f64, {9})}}, .metadata = {}},
                            folder / "x.safetensors");
  write_text(folder / "g.el", "0 1\n");
  write_text(folder / "labels.txt", "0\n");
  write_text(folder / "masks.txt", "t\n");
  write_qkv(folder / "in.safetensors", 1);
  write_qkv(folder / "none.safetensors", 0);
  const std::string g = folder / "g.el";
  const std::string in = folder / "in.safetensors";
  for (std::vector<std::string> call : std::vector<std::vector<std::string>>{
           {"gen", "self", "-n", "1"},
           {"info", g},
           {"info", "file(\"" + g + "\")"},
           {"spy", "self", "-n", "1"},
           {"spectral", "self", "-n", "1"},
           {"spectral", g},
           {"spectral", "--qkv", in},
           {"attend", "--qkv", in, "--pattern", "self"},
           {"attend", "--qkv", folder / "none.safetensors", "--pattern", "self"},
           {"diffuse", "self", "--signal", folder / "x.npy"},
           {"diffuse", "self", "--signal", folder / "x1.npy"},
           {"diffuse", "self", "--labels", folder / "labels.txt", "--masks", folder / "masks.txt"},
           {"convert", g, folder / "g.mtx"},
           {"convert", folder / "x.npy", folder / "y.npy"},
           {"convert", folder / "x.safetensors", folder / "y.npy"},
           {"design", "-n", "16", "--edges-per-token", "4"},
           {"bench", "tiny"}}) {
    call.insert(call.end(), {"--memory-limit", "1"});
    refused(call, "limit");
  }
  CHECK(folder.names().count(folder / "y.npy") == 0);
  // What has no size before it is read, and no end.
  fs::create_symlink("/dev/zero", folder / "zero.el");
  for (const char* verb : {"info", "spy", "spectral"})
    refused({verb, folder / "zero.el", "--memory-limit", "20M"},
            "more than 20971520 bytes, the memory limit");
  refused({"info", "-", "--memory-limit", "1"}, "4 bytes, the memory limit is 1", {.input = "0 1\n"});
  refused({"convert", "-", folder / "y.npy", "--memory-limit", "1"}, "4 bytes, the memory limit is 1",
          {.input = "0 1\n"});
}

TEST_CASE("the format of standard input can be named") {
  const std::string path = "3 2\n2\n1 3\n2\n";  // METIS: 0 - 1 - 2
  CHECK(run_json({"info", "-", "--format", "metis"}, {.input = path})["edges"] == 4);
  CHECK(run_json({"spectral", "-", "--format", "metis"}, {.input = path})["components"] == 1);
  refused({"info", "-"}, "line 2", {.input = path});
  CHECK(refused({"info", "-"}, "read as an edge list", {.input = path}).find("metis") != std::string::npos);
  CHECK(refused({"info", "-", "--base", "1"}, "line 1", {.input = "0 1\n"}).find("metis") ==
        std::string::npos);
  refused({"info", "-", "--format", "dot"}, "mtx, npz, metis, el", {.input = path});
  refused({"info", "-", "--format", "metis", "--undirected"}, "option of edge lists", {.input = path});
  refused({"info", "self", "-n", "3", "--format", "el"}, "--format is an option of files");
  const Folder folder;
  write_text(folder / "path.txt", path);
  CHECK(run_json({"info", folder / "path.txt", "--format", "metis"})["edges"] == 4);
  CHECK(run_json({"info", "file(\"" + (folder / "path.txt") + "\")|self", "--format", "metis"})["edges"] ==
        7);
  manyhop::save_npy(Tensor::zeros(DType::f64, {3}), folder / "x.npy");
  refused({"convert", folder / "x.npy", folder / "y.npy", "--format", "el"}, "--format is of graphs");
}

TEST_CASE("tensors come from standard input by their first bytes, and say the type that is written") {
  const Folder folder;
  manyhop::save_safetensors({.tensors = {{"x", Tensor::zeros(DType::f64, {3})}}, .metadata = {}},
                            folder / "x.safetensors");
  const Setting tensors{.input = text_of(folder / "x.safetensors")};
  CHECK(run_json({"convert", "-", folder / "x.npy"}, tensors)["shape"][0] == 3);
  CHECK(run_json({"convert", "-", folder / "y.npy", "--name", "x"}, tensors)["dtype"] == "f64");
  refused({"convert", "-", folder / "z.npy", "--name", "y"}, "1 tensors: x", tensors);
  const Setting array{.input = text_of(folder / "x.npy")};
  refused({"info", "-"}, "-: holds an array of NumPy, a graph is wanted", array);
  CHECK(run_json({"convert", "-", folder / "b.safetensors", "--dtype", "bf16"}, array)["dtype"] == "bf16");
  CHECK(run_json({"convert", "-", folder / "b.npy", "--dtype", "bf16"}, array)["dtype"] == "f32");
  CHECK(manyhop::load_npy(folder / "b.npy").dtype == DType::f32);
}

TEST_CASE("options that would do nothing are refused before any work") {
  const Folder folder;
  write_text(folder / "a.el", "10 20\n");
  refused({"convert", "file(\"" + (folder / "a.el") + "\")", folder / "b.mtx", "--compact", "--map",
           folder / "m.txt"},
          "--map is of one edge list");
  refused(
      {"spectral", "random(64)", "-n", "1000000", "--operator", "singular", "--vectors", folder / "v.npy"},
      "operator singular has none");
  refused({"bench", "tiny", "--dtype", "f64"}, "a case has its own type");
}

TEST_CASE("a graph file whose name is no text") {
  const Folder folder;
  const std::string name = folder / "g\xff.mtx";
  REQUIRE(run_program({"gen", "self", "-n", "4", "-o", name}).code == 0);
  write_qkv(folder / "in.safetensors", 4);
  const std::string out = folder / "out.safetensors";
  CHECK(run_json({"attend", "--qkv", folder / "in.safetensors", "--pattern", name, "-o", out})["edges"] == 4);
  CHECK(manyhop::load_safetensors(out).metadata.at("pattern") == folder / "g\xEF\xBF\xBD.mtx");
}

TEST_CASE("what a file of labels holds does not reach the terminal as it is") {
  const Folder folder;
  manyhop::save_npy(Tensor::zeros(DType::f64, {1}), folder / "x.npy");
  write_text(folder / "l", "\x1b[31m\n");
  write_text(folder / "m", "\x1b\n");
  write_text(folder / "good", "0\n");
  refused({"diffuse", "self", "--labels", folder / "l", "--masks", folder / "m"},
          "line 1: '?[31m' found where");
  refused({"diffuse", "self", "--labels", folder / "good", "--masks", folder / "m"},
          "line 1: '?' found where");
}

TEST_CASE("nothing to attend to has no share of a token") {
  const Folder folder;
  write_qkv(folder / "none.safetensors", 0);
  const std::vector<std::string> call{"attend", "--qkv", folder / "none.safetensors", "--pattern", "self"};
  const Said one = run_program(call);
  CHECK(one.code == 0);
  CHECK(one.out.find("edges        0\n") != std::string::npos);
  CHECK(one.out.find("nan") == std::string::npos);
  std::vector<std::string> two = call;
  two.insert(two.end(), {"--pattern", "full", "--compare", "full"});
  CHECK(run_program(two).out.find("nan") == std::string::npos);
  const auto json = run_json(two);
  CHECK(json["runs"][0]["edges_per_token"].is_null());
  CHECK(json["runs"][1]["error"]["coverage"].is_null());
}
