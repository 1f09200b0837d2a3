// Files written by SciPy, NumPy and safetensors read here, and graphs and tensors come back from every
// format.
#include "manyhop/graphs/io/io.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/io/files.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "tests/support/folder.hpp"

namespace manyhop {
namespace {

using test::Folder;

std::string file(const std::string& name) { return MANYHOP_TEST_DATA "/files/" + name; }

std::vector<std::vector<double>> dense(const Graph& g) {
  std::vector<std::vector<double>> a(static_cast<std::size_t>(g.n_rows()),
                                     std::vector<double>(static_cast<std::size_t>(g.n_cols())));
  std::size_t e = 0;
  for (Offset i = 0; i < g.n_rows(); ++i) {
    for (const Index c : g.row(i)) {
      a[static_cast<std::size_t>(i)][static_cast<std::size_t>(c)] = g.weighted() ? g.weights()[e] : 1;
      ++e;
    }
  }
  return a;
}

using Dense = std::vector<std::vector<double>>;

bool same(const Graph& a, const Graph& b) {
  const auto bits = [](double weight) { return std::bit_cast<std::uint64_t>(weight); };
  return a.same_edges(b) && std::ranges::equal(a.weights(), b.weights(), {}, bits, bits);
}

const Dense kMatrix{
    {0, .5, 0, 0, -1.25}, {3, 0, 0, 0, 0}, {0, 0, 1e-3, 0, 0}, {0, 0, 0, 0, 0}, {1. / 3, 0, 0, 7, 0}};

TEST_CASE("SciPy's archives are read: csr, csc, coo, both index widths, compressed or stored") {
  CHECK(dense(load(file("csr_f64_compressed.npz"))) == kMatrix);
  CHECK(dense(load(file("csr_int64_ids.npz"))) == kMatrix);
  Dense rounded = kMatrix;
  for (auto& row : rounded) {
    for (double& w : row) w = static_cast<double>(static_cast<float>(w));
  }
  CHECK(dense(load(file("csr_f32_stored.npz"))) == rounded);
  const Graph structure = load(file("csr_bool.npz"));
  CHECK_FALSE(structure.weighted());
  CHECK(structure.nnz() == 6);
  CHECK(dense(load(file("csc_int8.npz"))) == Dense{{1, 0, 0, 0}, {0, 0, 3, 0}, {2, 0, 0, 0}});
  CHECK(dense(load(file("coo_int64.npz"))) == Dense{{0, 3, 0}, {0, 0, 3}});  // duplicates add
}

TEST_CASE("SciPy's Matrix Market files are read: every symmetry") {
  CHECK(dense(load(file("general_real.mtx"))) == kMatrix);
  CHECK(dense(load(file("symmetric_integer.mtx"))) == Dense{{2, 1, 0}, {1, 0, 5}, {0, 5, 0}});
  CHECK(dense(load(file("skew_real.mtx"))) == Dense{{0, 1.5}, {-1.5, 0}});
  const Graph rectangle = load(file("rectangle_pattern.mtx"));
  CHECK_FALSE(rectangle.weighted());
  CHECK(dense(rectangle) == Dense{{1, 0, 1}, {0, 1, 0}});
  CHECK(rectangle.source() == Source::matrix);
}

TEST_CASE("METIS: comments, weights that are skipped, isolated vertices, an absent last line end") {
  CHECK(dense(load(file("karate_like.graph"))) ==
        Dense{{0, 1, 1, 0, 0}, {1, 0, 1, 0, 0}, {1, 1, 0, 0, 1}, {0, 0, 0, 0, 0}, {0, 0, 1, 0, 0}});
  CHECK(dense(load(file("weights.graph"))) == Dense{{0, 4, 0}, {4, 0, 9}, {0, 9, 0}});
  const Graph last = load(file("isolated_last.graph"));
  CHECK(last.n_rows() == 4);
  CHECK(last.nnz() == 2);
  CHECK(parse_metis("3 1\n2\n1\n\n", "text").n_rows() == 3);
  CHECK(parse_metis("0 0\n", "text").n_rows() == 0);
}

TEST_CASE("edge lists: u sends to v, so row v holds column u; duplicates merge and weights add") {
  const Graph arcs = load(file("arcs.el"));
  CHECK(dense(arcs) ==
        Dense{{0, 0, 1, 0, 0}, {1, 0, 0, 0, 0}, {0, 1, 0, 0, 1}, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}});
  CHECK(arcs.source() == Source::arcs);
  std::vector<Offset> map;
  LoadOptions compact;
  compact.compact = true;
  compact.map = &map;
  CHECK(dense(load(file("weighted.tsv"), compact)) == Dense{{0, 0, 0}, {1.5, 0, 0}, {0, -1e-3, 0}});
  CHECK(map == std::vector<Offset>{10, 20, 30});
  LoadOptions from_one;
  from_one.base = 1;
  from_one.undirected = true;
  CHECK(dense(load(file("konect.txt"), from_one)) == Dense{{0, 1.25, 0}, {1.25, 0, .5}, {0, .5, 4}});
  CHECK(parse_edge_list("# nothing\n", "text").n_rows() == 0);
  CHECK(parse_edge_list("0 1 {}\n1 2 {}\n", "text").nnz() == 2);  // networkx.write_edgelist
}

TEST_CASE("n keeps isolated last vertices and admits ids above the bound") {
  LoadOptions options;
  options.n = 7;
  CHECK(parse_edge_list("0 1\n", "text", options).n_rows() == 7);
  options.n = 1;
  CHECK_THROWS_WITH_AS(parse_edge_list("0 1\n", "text", options),
                       "text: line 1: id 1 is past n = 1 vertices from id 0 on", FileError);
  CHECK(parse_edge_list("0 1048575\n", "text").n_rows() == 1048576);
  CHECK(parse_edge_list("0 1048576\n", "text").n_rows() == 1048577);
  CHECK_THROWS_AS(parse_edge_list("0 1048577\n", "text"), FileError);
  options.n = 1048577;
  CHECK(parse_edge_list("0 1048576\n", "text", options).n_rows() == 1048577);
  LoadOptions compact;
  compact.compact = true;
  CHECK(parse_edge_list("0 9223372036854775807\n", "text", compact).n_rows() == 2);
}

TEST_CASE(
    "the first line of a written edge list keeps isolated last vertices, as long as its arcs are there") {
  const Graph graph = Graph::from_edges(9, 9, std::vector<Index>{1, 4}, std::vector<Index>{0, 2});
  std::string text;
  format_edge_list(graph, [&](std::string_view part) { text += part; });
  CHECK(dense(parse_edge_list(text, "text")) == dense(graph));
  CHECK(parse_edge_list(text + "0 5\n", "text").n_rows() == 6);
  CHECK(parse_edge_list("# 9 vertices, 1 arcs, of a friend\n0 1\n", "text").n_rows() == 2);
  CHECK(parse_edge_list("# 9x vertices, 1 arcs;\n0 1\n", "text").n_rows() == 2);
  CHECK(parse_edge_list("# 99999999999999999999 vertices, 1 arcs;\n0 1\n", "text").n_rows() == 2);
  CHECK(parse_edge_list("# 1 vertices, 1 arcs;\n0 1\n", "text").n_rows() == 2);
  CHECK_THROWS_WITH_AS(
      parse_edge_list("# 2000000 vertices, 1 arcs;\n0 1\n", "text"),
      "text: line 1: 2000000 vertices for 1 arcs are past 1048576 = max(2^20, 64 x arcs); n = "
      "2000000 would allow it",
      FileError);
  LoadOptions options;
  options.n = 3;
  CHECK(parse_edge_list("# 9 vertices, 1 arcs;\n0 1\n", "text", options).n_rows() == 3);
}

TEST_CASE("options that do not fit are the caller's mistake") {
  LoadOptions options;
  options.base = 2;
  CHECK_THROWS_WITH_AS(load(file("arcs.el"), options), "base: 2, the first id of an edge list is 0 or 1",
                       ValueError);
  options.base = 0;
  options.undirected = true;
  CHECK_THROWS_AS(load(file("general_real.mtx"), options), ValueError);
  LoadOptions negative;
  negative.n = -1;
  CHECK_THROWS_AS(load(file("arcs.el"), negative), ValueError);
}

TEST_CASE("paths and pattern texts are told apart outside of quotes") {
  for (const char* path : {"a/b", "x.mtx", "X.NPZ", "g.graph", "a.el", "a.txt", "a.tsv", "a.edgelist",
                           "q.npy", "q.safetensors", "-", "./window(3)"}) {
    CAPTURE(path);
    CHECK(is_graph_path(path));
  }
  for (const char* text :
       {"window(3)", "file(\"a/b.el\")|self", "file(\"a.mtx\")", "", "el", "x.csv", "self - causal"}) {
    CAPTURE(text);
    CHECK_FALSE(is_graph_path(text));
  }
}

Graph drawn_graph(CounterRng& rng, bool square, bool weighted, bool symmetric) {
  const auto n = static_cast<Offset>(rng.below(40));
  const Offset cols = square ? n : static_cast<Offset>(rng.below(40));
  std::vector<Index> r;
  std::vector<Index> c;
  std::vector<double> w;
  for (std::uint64_t k = n == 0 || cols == 0 ? 0 : rng.below(200); k > 0; --k) {
    const auto i = static_cast<Index>(rng.below(static_cast<std::uint64_t>(n)));
    const auto j = static_cast<Index>(rng.below(static_cast<std::uint64_t>(cols)));
    if (symmetric && i == j) continue;
    double weight = symmetric ? static_cast<double>(1 + rng.below(9)) : std::bit_cast<double>(rng.next64());
    if (!std::isfinite(weight) || std::fabs(weight) > 1e300) weight = -0.0;
    for (int side = 0; side < (symmetric ? 2 : 1); ++side) {
      r.push_back(side == 0 ? i : j);
      c.push_back(side == 0 ? j : i);
      if (weighted) w.push_back(weight);
    }
  }
  return Graph::from_edges(n, cols, r, c, w);
}

TEST_CASE("a saved graph loads as the same graph, weights to the last bit") {
  const Folder folder;
  for (std::uint64_t draw = 0; draw < 60; ++draw) {
    CounterRng rng(7, 1, draw);
    const bool weighted = draw % 2 == 0;
    const Graph any = drawn_graph(rng, false, weighted, false);
    for (const char* name : {"g.mtx", "g.npz"}) {
      save(any, folder / name);
      CHECK(same(load(folder / name), any));
    }
    const Graph square = drawn_graph(rng, true, weighted, false);
    LoadOptions sized;
    sized.n = square.n_rows();
    save(square, folder / "g.tsv");
    CHECK(same(load(folder / "g.tsv", sized), square));
    const Graph both_ways = drawn_graph(rng, true, weighted, true);
    save(both_ways, folder / "g.graph");
    CHECK(same(load(folder / "g.graph"), both_ways));
  }
}

TEST_CASE("implicit graphs are written from their runs") {
  const Graph full = Graph::from_runs(
      300, 300,
      [] {
        std::vector<Offset> p;
        for (Offset i = 0; i <= 300; ++i) p.push_back(i);
        return p;
      }(),
      std::vector<Run>(300, Run{0, 300}));
  const Folder folder;
  for (const char* name : {"g.mtx", "g.npz", "g.el"}) {
    save(full, folder / name);
    CHECK(load(folder / name).same_edges(full));
  }
}

TEST_CASE("what a format cannot hold is refused and nothing is written") {
  const Folder folder;
  const Graph rectangle = load(file("rectangle_pattern.mtx"));
  CHECK_THROWS_AS(save(rectangle, folder / "g.el"), ValueError);
  CHECK_THROWS_AS(save(rectangle, folder / "g.graph"), ValueError);
  CHECK_THROWS_AS(save(load(file("general_real.mtx")), folder / "g.graph"), ValueError);
  CHECK_THROWS_AS(save(rectangle, folder / "g.csv"), FileError);
  CHECK(folder.entries() == 0);
}

TEST_CASE("NumPy's arrays are read: versions, orders, byte orders, types") {
  const Tensor x = load_npy(file("f8.npy"));
  CHECK(x.dtype == DType::f64);
  CHECK(x.shape == std::vector<Offset>{3, 4});
  for (int i = 0; i < 12; ++i) CHECK(x.as<double>()[i] == i / 7.0);
  CHECK(load_npy(file("f8_fortran.npy")).bytes == x.bytes);
  CHECK(load_npy(file("f4_big_endian.npy")).bytes == x.to(DType::f32).bytes);
  CHECK(load_npy(file("f4_v2.npy")).bytes == x.to(DType::f32).bytes);
  CHECK(load_npy(file("f4_v3.npy")).bytes == x.to(DType::f32).bytes);
  const Tensor half = load_npy(file("f2_3d.npy"));
  CHECK(half.dtype == DType::f16);
  CHECK(half.shape == std::vector<Offset>{2, 3, 2});
  const Tensor whole = load_npy(file("i8.npy"));
  CHECK(whole.dtype == DType::f64);
  CHECK(whole.as<double>()[0] == -3);
  CHECK(whole.as<double>()[2] == 0x1p53);
  CHECK(load_npy(file("bool.npy")).as<double>()[0] == 1);
  CHECK(load_npy(file("scalar.npy")).shape.empty());
}

TEST_CASE("safetensors: types, metadata, and other types only when asked for") {
  const NamedTensors plain = load_safetensors(file("plain.safetensors"));
  CHECK(plain.tensors.at("q").shape == std::vector<Offset>{3, 4});
  CHECK(plain.tensors.at("none").shape == std::vector<Offset>{0, 4});
  CHECK_THROWS_AS(load_safetensors(file("mixed.safetensors")), FileError);
  const std::vector<std::string> names{"q", "k", "v", "absent"};
  const NamedTensors some = load_safetensors(file("mixed.safetensors"), names);
  CHECK(some.tensors.size() == 3);
  CHECK(some.metadata.at("layer") == "0");
  CHECK(some.tensors.at("v").to(DType::f32).bytes == some.tensors.at("q").bytes);
}

TEST_CASE("saved tensors load as the same bytes") {
  const Folder folder;
  NamedTensors named;
  named.metadata["who"] = "\"quoted\" and \xC3\xA9";
  for (const DType type : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    for (const std::vector<Offset>& shape : {std::vector<Offset>{}, {0}, {3, 0, 2}, {5}, {2, 3, 4, 5}}) {
      Tensor tensor = Tensor::zeros(type, shape);
      for (std::size_t i = 0; i < tensor.bytes.size(); ++i)
        tensor.bytes[i] = static_cast<std::byte>(i * 37 % 120);
      named.tensors[fmt::format("{} {}", name_of(type), shape.size())] = tensor;
      save_npy(tensor, folder / "t.npy");
      const Tensor back = load_npy(folder / "t.npy");
      const Tensor& wanted = type == DType::bf16 ? tensor.to(DType::f32) : tensor;
      CHECK(back.dtype == wanted.dtype);
      CHECK(back.shape == wanted.shape);
      CHECK(back.bytes == wanted.bytes);
    }
  }
  save_safetensors(named, folder / "t.safetensors");
  const NamedTensors back = load_safetensors(folder / "t.safetensors");
  CHECK(back.metadata == named.metadata);
  REQUIRE(back.tensors.size() == named.tensors.size());
  for (const auto& [name, tensor] : named.tensors) {
    CHECK(back.tensors.at(name).dtype == tensor.dtype);
    CHECK(back.tensors.at(name).shape == tensor.shape);
    CHECK(back.tensors.at(name).bytes == tensor.bytes);
  }
}

TEST_CASE("capitals in a suffix name the same format") {
  const Folder folder;
  const Graph graph = Graph::from_csr(2, 2, {0, 1, 2}, {1, 0});
  for (const char* name : {"a.NPZ", "a.Mtx", "a.GRAPH", "a.EL"}) {
    save(graph, folder / name);
    CHECK(load(folder / name).same_edges(graph));
  }
  CHECK(read_file(folder / "a.NPZ").starts_with("PK"));
  CHECK_FALSE(has_suffix("npz", ".npz"));
}

TEST_CASE("what a text takes while it is read is held to the limit") {
  const Folder folder;
  std::string arcs;
  for (int i = 0; i < 1000; ++i) arcs += fmt::format("{} {}\n", i, i / 2);
  write_atomically(folder / "a.el", arcs);
  const std::size_t held = arcs.size() + 24 * 1000;
  LoadOptions options;
  options.memory_limit = held;
  CHECK(load(folder / "a.el", options).nnz() == 1000);
  options.undirected = true;
  CHECK_THROWS_AS(load(folder / "a.el", options), LimitError);
  options.undirected = false;
  options.memory_limit = held - 1;
  CHECK_THROWS_WITH_AS(
      load(folder / "a.el", options),
      doctest::Contains(
          fmt::format("about 1000 entries takes {} bytes, the memory limit is {}", held, held - 1).c_str()),
      LimitError);
}

TEST_CASE("a format that is named goes before the suffix") {
  const Folder folder;
  write_atomically(folder / "path.txt", "3 2\n2\n1 3\n2\n");  // METIS: 0 - 1 - 2
  LoadOptions options;
  for (const char* name : {"metis", "graph"}) {
    options.format = name;
    CHECK(load(folder / "path.txt", options).nnz() == 4);
  }
  CHECK_THROWS_AS(load(folder / "path.txt"), FileError);  // an edge list by its suffix
  options.format = "dot";
  CHECK_THROWS_WITH_AS(load("-", options), doctest::Contains("'dot' is none of mtx, npz, graph"), ValueError);
}

TEST_CASE("an archive that is interrupted while it is packed gives up") {
  // About a second of packing.
  const Offset n = 200000;
  std::vector<Offset> indptr{0};
  std::vector<Index> indices;
  for (Offset i = 0; i < n; ++i) {
    CounterRng rng(1, 2, static_cast<std::uint64_t>(i));
    for (Index e = 0; e < 100; ++e) indices.push_back(e * 2000 + static_cast<Index>(rng.below(2000)));
    indptr.push_back(static_cast<Offset>(indices.size()));
  }
  const Graph graph = Graph::from_csr(n, n, std::move(indptr), std::move(indices));
  std::atomic<bool> stop{false};
  const ThreadScope scope(1, &stop);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    stop = true;
  });
  // A sink that asks nobody: what stops here is the packing.
  std::size_t written = 0;
  CHECK_THROWS_AS(format_npz(graph, [&](std::string_view bytes) { written += bytes.size(); }), Interrupted);
  CHECK(written == 0);
  later.join();
}

}  // namespace
}  // namespace manyhop
