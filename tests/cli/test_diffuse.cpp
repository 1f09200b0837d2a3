#include <doctest/doctest.h>

#include <cmath>

#include "manyhop/graphs/io/io.hpp"
#include "program.hpp"

using namespace manyhop::test;
using manyhop::DType;
using manyhop::Offset;
using manyhop::Tensor;

namespace {

void write_signal(const std::string& path, std::vector<double> values, std::vector<Offset> shape,
                  DType type = DType::f64) {
  Tensor x = Tensor::zeros(DType::f64, std::move(shape));
  std::copy(values.begin(), values.end(), x.as<double>());
  manyhop::save_npy(x.to(type), path);
}

}  // namespace

TEST_CASE("diffuse: two vertices by hand") {
  // 0 -- 1: A swaps the two entries. One ppr hop with teleport 0.25: 0.75 (x1, x0) + 0.25 (x0, x1).
  const Folder folder;
  write_text(folder / "g.el", "0 1\n");
  for (const DType type : {DType::f32, DType::f64}) {
    write_signal(folder / "x.npy", {1, 3}, {2}, type);
    const auto json = run_json({"diffuse", folder / "g.el", "--undirected", "--signal", folder / "x.npy",
                                "--teleport", "0.25", "--hops", "1", "-o", folder / "z.npy"});
    for (const char* key : {"n", "edges", "kernel", "hops", "residual", "bound", "converged", "seconds"})
      CHECK(json.contains(key));
    CHECK(json["hops"] == 1);
    CHECK(json["converged"] == true);
    const Tensor z = manyhop::load_npy(folder / "z.npy");
    CHECK(z.dtype == type);
    CHECK(z.shape == std::vector<Offset>{2});
    const Tensor wide = z.to(DType::f64);
    CHECK(wide.as<double>()[0] == doctest::Approx(2.5));
    CHECK(wide.as<double>()[1] == doctest::Approx(1.5));
  }
}

TEST_CASE("diffuse: coefficients and heat") {
  const Folder folder;
  write_text(folder / "g.el", "0 1\n");
  write_signal(folder / "x.npy", {1, 3, 0, 2}, {2, 2});
  run_json({"diffuse", folder / "g.el", "--undirected", "--signal", folder / "x.npy", "--kernel",
            "coefficients", "--coefficients", "2,-1", "-o", folder / "z.npy"});
  Tensor z = manyhop::load_npy(folder / "z.npy");
  CHECK(z.as<double>()[0] == doctest::Approx(2));
  CHECK(z.as<double>()[1] == doctest::Approx(4));
  // exp(-t (I - A)) on (1, 0): (1 + exp(-2t)) / 2 and (1 - exp(-2t)) / 2.
  const auto json = run_json({"diffuse", folder / "g.el", "--undirected", "--signal", folder / "x.npy",
                              "--kernel", "heat", "--t", "0.5", "--tol", "1e-10", "-o", folder / "z.npy"});
  CHECK(json["bound"].get<double>() <= 1e-10);
  z = manyhop::load_npy(folder / "z.npy");
  CHECK(z.as<double>()[0] == doctest::Approx((1 + std::exp(-1.0)) / 2));
}

TEST_CASE("diffuse: contradicting options are usage errors") {
  const Folder folder;
  write_text(folder / "g.el", "0 1\n1 2\n");
  write_signal(folder / "x.npy", {1, 2, 3}, {3});
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> call{"diffuse", folder / "g.el", "--signal", folder / "x.npy",
                                  "-o",      folder / "z.npy"};
    call.insert(call.end(), more.begin(), more.end());
    return call;
  };
  refused(with({"--t", "1"}), "--t belongs to --kernel heat");
  refused(with({"--kernel", "heat", "--teleport", "0.5"}), "--teleport belongs");
  refused(with({"--kernel", "heat", "--coefficients", "1,2"}), "--coefficients belongs");
  refused(with({"--kernel", "coefficients"}), "c0,c1");
  refused(with({"--kernel", "coefficients", "--coefficients", "1,,2"}), "--coefficients");
  refused(with({"--kernel", "coefficients", "--coefficients", "1,nan"}), "--coefficients");
  refused(with({"--kernel", "coefficients", "--coefficients", "1", "--hops", "3"}), "--hops");
  refused(with({"--hops", "3", "--tol", "1e-3"}), "contradict");
  refused(with({"--teleport", "0", "--tol", "1e-3"}), "");
  refused(with({"--teleport", "nan"}), "--teleport");
  refused(with({"--dangling", "self"}), "zero");
  refused(with({"--normalization", "row", "--dangling", "restart"}), "col");
  refused(with({"--normalization", "rows"}), "sym, row, col, none");
  refused(with({"--kernel", "heat", "--t", "-1"}), "--t");
  refused(with({"--dtype", "bf16"}), "bf16");
  refused(with({"--labels", folder / "x.npy"}), "contradict");
  refused({"diffuse", folder / "g.el"}, "--signal");
  write_signal(folder / "x.npy", {1, 2, 3, 4}, {4});
  refused(with({}), "4 rows");
  write_signal(folder / "x.npy", {1, 2, 3}, {1, 3, 1});
  refused(with({}), "[1, 3, 1]");
  write_signal(folder / "x.npy", {1, 2, 3}, {3}, DType::f16);
  refused(with({}), "f16");
  CHECK_FALSE(std::filesystem::exists(folder / "z.npy"));
}

TEST_CASE("diffuse: labels of Cora") {
  const auto json = run_json({"diffuse", "file(\"" + example("cora/edges.txt") + "\")|self", "--undirected",
                              "--hops", "100", "--teleport", "0.1", "--labels", example("cora/labels.txt"),
                              "--masks", example("cora/masks.txt")});
  CHECK(json["n"] == 2708);
  CHECK(json["edges"] == 13264);
  CHECK(json["accuracy"]["test"] == 0.71);  // computed independently with SciPy
  CHECK(json["counts"]["test"]["correct"] == 710);
  CHECK(json["counts"]["train"]["total"] == 140);
}

TEST_CASE("diffuse: bad label files") {
  const Folder folder;
  write_text(folder / "g.el", "0 1\n");
  const auto call = [&] {
    return std::vector<std::string>{"diffuse",        folder / "g.el", "--labels",
                                    folder / "l.txt", "--masks",       folder / "m.txt"};
  };
  write_text(folder / "l.txt", "0\none\n");
  write_text(folder / "m.txt", "t\ns\n");
  refused(call(), "line 2");
  write_text(folder / "l.txt", "0\n1\n0\n");
  refused(call(), "3 lines");
  write_text(folder / "l.txt", "0\n1\n");
  write_text(folder / "m.txt", "t\nx\n");
  refused(call(), "line 2");
}

TEST_CASE("diffuse: the same bits for any number of threads") {
  const Folder folder;
  std::vector<double> values(3000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
  write_signal(folder / "x.npy", values, {1000, 3});
  std::string first;
  for (const std::string threads : {"1", "2", "4"}) {
    run_json({"diffuse", "random(7)|global(1)", "--signal", folder / "x.npy", "-o", folder / "z.npy",
              "--threads", threads});
    if (first.empty()) first = text_of(folder / "z.npy");
    CHECK(text_of(folder / "z.npy") == first);
  }
}
