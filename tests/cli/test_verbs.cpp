// gen, info, convert, spy and what all verbs share.
#include <doctest/doctest.h>
#include <unistd.h>

#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "program.hpp"

using namespace manyhop::test;

TEST_CASE("help of every verb shows examples and exits 0") {
  for (const std::string verb : {"gen", "info", "spectral", "attend", "diffuse", "convert", "spy"}) {
    const Said said = run_program({verb, "--help"});
    INFO(verb);
    CHECK(said.code == 0);
    CHECK(said.err.empty());
    CHECK(said.out.find("Examples:\n  manyhop " + verb + " ") != std::string::npos);
    CHECK(said.out.find("--memory-limit") != std::string::npos);
  }
  const Said all = run_program({"--help"});
  CHECK(all.code == 0);
  CHECK(all.out.find("attend") != std::string::npos);
  CHECK(all.out.find("bench") != std::string::npos);
  CHECK(run_program({"--version"}).out.starts_with("manyhop "));
}

TEST_CASE("usage errors are one line and exit 2") {
  refused({}, "no verb given");
  refused({"frobnicate"}, "'frobnicate' is no verb");
  refused({"bench", "4k/nothing"}, "4k/diffuser");
  refused({"gen"}, "GRAPH");
  refused({"gen", "full"}, "-n");
  refused({"gen", "full", "-n", "4", "--bogus"}, "gen: no option --bogus: expected one of --help --threads");
  refused({"gen", "full", "--n", "4"}, "gen: no option --n: expected one of");
  refused({"--bogus"}, "manyhop: no option --bogus: expected one of --help --version");
  refused({"gen", "full", "-n", "4", "extra"}, "gen: one argument too many: 'extra'");
  refused({"gen", "full", "-n", "4", "--threads", "0"}, "--threads");
  refused({"gen", "full", "-n", "4", "--threads", "two"}, "--threads");
  refused({"gen", "full", "-n", "4"}, "MANYHOP_THREADS", {.extra = {"MANYHOP_THREADS=many"}});
  refused({"gen", "full", "-n", "4"}, "MANYHOP_SIMD is 'mmx'", {.extra = {"MANYHOP_SIMD=mmx"}});
  refused({"gen", "full", "-n", "4", "--backend", "tpu"}, "reference, cpu");
  refused({"gen", "full", "-n", "4", "--dtype", "f8"}, "f32, bf16 or f64");
  refused({"gen", "full", "-n", "4", "--tol", "nan"}, "--tol");
  refused({"gen", "full", "-n", "4", "--tol", "1e-3x"}, "--tol");
  refused({"gen", "full", "-n", "4", "--tol", "0"}, "--tol");
  refused({"gen", "full", "-n", "4", "--memory-limit", "40Q"}, "--memory-limit");
  refused({"gen", "full", "-n", "4", "--memory-limit", "99999999T"}, "--memory-limit");
  refused({"gen", "full", "-n", "4", "--seed", "-1"}, "--seed");
  refused({"gen", "full", "-n", "-1"}, "-n");
  refused({"gen", "full", "-n", "4.5"}, "-n");
  refused({"gen", "full", "-n", "4x"}, "columns");
  refused({"gen", "full", "-n", "1099511627776"}, "2147483647");
}

TEST_CASE("bad patterns point at the place") {
  refused({"gen", "windw(4)", "-n", "10"}, "column 1");
  refused({"gen", "window(4)|", "-n", "10"}, "column");
  refused({"gen", "lps(4, 13)"}, "lps");
  refused({"gen", "random(9)", "-n", "4"}, "9");
  refused({"info", "", "-n", "4"}, "");
}

TEST_CASE("bad output paths are refused before any work") {
  const Folder folder;
  refused({"gen", "full", "-n", "100000", "-o", folder / "x.foo"}, ".mtx, .npz, .graph");
  refused({"gen", "full", "-n", "100000", "-o", folder / "none/x.mtx"}, "does not exist");
  refused({"gen", "full", "-n", "100000", "-o", ""}, "-o");
  std::filesystem::create_directory(folder / "d.mtx");
  refused({"gen", "full", "-n", "100000", "-o", folder / "d.mtx"}, "folder");
  refused({"gen", "full", "-n", "4", "-o", "-", "--json"}, "standard output");
  refused({"gen", "causal", "-n", "4", "-o", folder / "directed.graph"}, "METIS");
  CHECK_FALSE(std::filesystem::exists(folder / "directed.graph"));
  if (geteuid() != 0) {
    std::filesystem::create_directory(folder / "locked");
    std::filesystem::permissions(folder / "locked",
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
    refused({"gen", "full", "-n", "4", "-o", folder / "locked/x.mtx"}, "cannot be written");
    std::filesystem::permissions(folder / "locked", std::filesystem::perms::owner_all);
  }
  CHECK(folder.names().count(folder / "x.foo") == 0);
}

TEST_CASE("gen writes every graph format and info reads it back") {
  const Folder folder;
  const auto made = manyhop::pattern("window(2)-self", 20);
  for (const std::string suffix : {".mtx", ".npz", ".graph", ".el", ".txt", ".tsv", ".edgelist"}) {
    INFO(suffix);
    const std::string file = folder / ("g" + suffix);
    const auto json = run_json({"gen", "window(2)-self", "-n", "20", "-o", file});
    CHECK(json["edges"] == made.nnz());
    CHECK(json["hash"] == made.hash_text());
    CHECK(json["file"] == file);
    for (const char* key : {"n_rows", "n_cols", "seconds", "bytes"}) CHECK(json[key].is_number());
    const auto info = run_json({"info", file, "-n", "20"});
    CHECK(info["hash"] == made.hash_text());
    const bool arcs = suffix != ".mtx" && suffix != ".npz" && suffix != ".graph";
    CHECK((info["direction"].get<std::string>().find("u sends to v") != std::string::npos) == arcs);
  }
  CHECK(folder.names().size() == 7);  // no temporary is left
}

TEST_CASE("info has the documented keys, also for rectangles and nothing at all") {
  for (const std::string size : {"0", "1", "12", "3x5", "5x3", "0x4"}) {
    INFO(size);
    const auto json = run_json({"info", "causal", "-n", size});
    for (const char* key : {"n_rows", "n_cols", "edges", "symmetric", "self_loops", "components", "isolated",
                            "direction", "bytes", "pattern", "hash"})
      CHECK(json.contains(key));
    for (const char* key : {"min", "mean", "max"}) CHECK(json["degree"].contains(key));
    for (const char* key : {"dense_edges", "irregular_edges", "padding"}) CHECK(json["tiles"].contains(key));
    CHECK(json["tiles"]["dense_edges"].get<std::int64_t>() +
              json["tiles"]["irregular_edges"].get<std::int64_t>() ==
          json["edges"].get<std::int64_t>());
    CHECK(json["hash"].get<std::string>().size() == 16);
  }
  CHECK(run_json({"info", "causal", "-n", "3x5"})["edges"] == 12);
}

TEST_CASE("info of a huge implicit graph does not write its edges") {
  const auto json = run_json({"info", "full", "-n", "200000"}, {.address_space = std::size_t{2} << 30});
  CHECK(json["edges"] == 40000000000);
}

TEST_CASE("a pattern past the memory limit is refused before it is made") {
  refused({"gen", "random(64)", "-n", "2147483647"}, "memory limit");
  refused({"gen", "random(64)", "-n", "1000000", "--memory-limit", "40M"}, "memory limit");
  refused({"gen", "full", "-n", "100000", "--memory-limit", "1G", "-o", "-"}, "memory limit");
  CHECK(run_program({"gen", "window(4)", "-n", "1000", "--memory-limit", "40M"}).code == 0);
}

TEST_CASE("seed decides random patterns and MANYHOP_THREADS does not") {
  const auto hash = [](const std::vector<std::string>& more, const Setting& setting = {}) {
    std::vector<std::string> call{"info", "random(5)", "-n", "300"};
    call.insert(call.end(), more.begin(), more.end());
    return run_json(call, setting)["hash"].get<std::string>();
  };
  CHECK(hash({}) == hash({"--seed", "0"}));
  CHECK(hash({}) != hash({"--seed", "1"}));
  CHECK(hash({"--threads", "1"}) == hash({"--threads", "4"}));
  CHECK(hash({}, {.extra = {"MANYHOP_THREADS=3"}}) == hash({}));
}

TEST_CASE("files and archives are held to the memory limit") {
  const Folder folder;
  REQUIRE(run_program({"gen", "random(64)", "-n", "4000", "-o", folder / "g.npz"}).code == 0);
  refused({"info", folder / "g.npz", "--memory-limit", "1M"}, "the memory limit is 1048576");
  refused({"convert", folder / "g.npz", folder / "g.mtx", "--memory-limit", "100k"},
          "the memory limit is 102400");
  CHECK(run_program({"info", folder / "g.npz", "--memory-limit", "40M"}).code == 0);
  refused({"gen", "full", "-n", "2000", "-o", folder / "f.npz", "--memory-limit", "20M"},
          "writing 4000000 edges");
}

TEST_CASE("options that belong to other inputs are refused") {
  const Folder folder;
  manyhop::save_npy(manyhop::Tensor::zeros(manyhop::DType::f64, {3}), folder / "x.npy");
  write_text(folder / "a.el", "0 1\n");
  refused({"convert", folder / "x.npy", folder / "y.npy", "--map", folder / "m.txt"}, "--map is of graphs");
  refused({"convert", folder / "x.npy", folder / "y.npy", "--compact"}, "--compact is of graphs");
  refused({"convert", folder / "x.npy", folder / "y.npy", "--name", "x"}, "--name is of .safetensors");
  refused({"convert", folder / "a.el", folder / "a.mtx", "--name", "x"}, "--name picks a tensor");
  refused({"gen", "window(1)", "-n", "5", "--undirected"}, "--undirected is an option of edge lists");
  refused({"info", "file(\"-\")"}, "column 1: file \"-\" is standard input");
  refused({"info", "self|file( \"-\" )", "-n", "3"}, "column 6: file \"-\" is standard input");
  refused({"spy", "window(1)", "-n", "5", "--pixels", "3"}, "-o");
  CHECK(run_json({"info", folder / "a.el", "-n", "5x5"})["n_cols"] == 5);
  CHECK(run_json({"info", "file(\"" + (folder / "a.el") + "\")|self", "--undirected"})["edges"] == 4);
  CHECK(run_json({"info", "file (\"" + (folder / "a.el") + "\")|self", "--undirected"})["edges"] == 4);
}

TEST_CASE("standard output carries the data and standard input takes it") {
  const Said written = run_program({"gen", "window(1)", "-n", "9", "-o", "-"});
  REQUIRE(written.code == 0);
  CHECK(written.out.starts_with("%%MatrixMarket"));
  CHECK(written.err.find("edges") != std::string::npos);
  const auto info = run_json({"info", "-"}, {.input = written.out});
  CHECK(info["edges"] == 25);
  CHECK(info["hash"] == manyhop::pattern("window(1)", 9).hash_text());
}

TEST_CASE("convert keeps the graph and the map of --compact") {
  const Folder folder;
  write_text(folder / "a.el", "# ids\n10 20 1\n20 30 2.5\n");
  auto json =
      run_json({"convert", folder / "a.el", folder / "b.mtx", "--compact", "--map", folder / "m.txt"});
  CHECK(json["n_rows"] == 3);
  CHECK(json["edges"] == 2);
  CHECK(text_of(folder / "m.txt") == "10\n20\n30\n");
  // 10 sends to 20: row 1 (of 20) has column 0 (of 10).
  const auto graph = manyhop::load(folder / "b.mtx");
  REQUIRE(graph.row(1).size() == 1);
  CHECK(graph.row(1)[0] == 0);
  json = run_json({"convert", folder / "b.mtx", folder / "c.el"});
  CHECK(text_of(folder / "c.el").find("0 1") != std::string::npos);
  json = run_json({"convert", folder / "a.el", folder / "u.npz", "--undirected", "--base", "1", "-n", "30"});
  CHECK(json["n_rows"] == 30);
  CHECK(json["edges"] == 4);
  refused({"convert", folder / "a.el", folder / "b.mtx", "--map", folder / "m.txt"}, "--compact");
  refused({"convert", folder / "a.el", folder / "b.mtx", "--base", "2"}, "--base");
  refused({"convert", folder / "a.el", folder / "b.npy"}, ".mtx");
}

TEST_CASE("convert rewrites tensors") {
  const Folder folder;
  auto x = manyhop::Tensor::zeros(manyhop::DType::f64, {3, 2});
  x.as<double>()[4] = 1.5;
  manyhop::save_npy(x, folder / "x.npy");
  auto json =
      run_json({"convert", folder / "x.npy", folder / "x.safetensors", "--name", "x", "--dtype", "f32"});
  CHECK(json["dtype"] == "f32");
  json = run_json({"convert", folder / "x.safetensors", folder / "y.npy"});
  CHECK(manyhop::load_npy(folder / "y.npy").as<float>()[4] == 1.5F);
  refused({"convert", folder / "x.safetensors", folder / "z.npy", "--name", "w"}, "x");
}

TEST_CASE("bad graph files are refused with their place") {
  const Folder folder;
  refused({"info", folder / "none.mtx"}, "none.mtx");
  write_text(folder / "big.mtx",
             "%%MatrixMarket matrix coordinate pattern general\n1099511627776 4 1\n1 1\n");
  refused({"info", folder / "big.mtx"}, "line 2");
  write_text(folder / "many.mtx",
             "%%MatrixMarket matrix coordinate pattern general\n4 4 1000000000000\n1 1\n");
  refused({"info", folder / "many.mtx"}, "many.mtx");
  write_text(folder / "col.mtx", "%%MatrixMarket matrix coordinate pattern general\n4 4 1\n1 5\n");
  refused({"info", folder / "col.mtx"}, "line 3");
  write_text(folder / "cut.mtx", "%%MatrixMarket matrix coordinate pattern general\n4 4 3\n1 1\n");
  refused({"info", folder / "cut.mtx"}, "cut.mtx");
  write_text(folder / "text.el", "0 1\n1 x\n");
  refused({"info", folder / "text.el"}, "line 2");
  write_text(folder / "zip.npz", "PK\x03\x04 nothing");
  refused({"info", folder / "zip.npz"}, "zip.npz");
  refused({"info", folder.path().string()}, "");
  refused({"info", folder / "x.npy"}, "tensor");
}

TEST_CASE("spy draws in the terminal and as SVG") {
  const Folder folder;
  const Said picture = run_program({"spy", "window(1)", "-n", "40"});
  CHECK(picture.code == 0);
  CHECK(picture.out.find("n = 40") != std::string::npos);
  const auto json = run_json({"spy", "window(1)", "-n", "40", "-o", folder / "w.svg"});
  CHECK(json["edges"] == 118);
  CHECK(text_of(folder / "w.svg").starts_with("<svg"));
  CHECK(run_program({"spy", "full", "-n", "0"}).code == 0);
  refused({"spy", "full", "-n", "4", "--pixels", "0"}, "--pixels");
  refused({"spy", "full", "-n", "4", "-o", folder / "x.png"}, ".svg");
}
