#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "manyhop/graphs/io/io.hpp"
#include "program.hpp"

using namespace manyhop::test;

TEST_CASE("spectral: the cycle has its closed form and all keys") {
  const auto json = run_json({"spectral", "window(1, ring=true)-self", "-n", "50"});
  for (const char* key :
       {"n",           "edges",      "operator",  "method",     "lambda2",   "lambda_n",
        "gap",         "residual",   "converged", "iterations", "seconds",   "generate_seconds",
        "symmetrised", "components", "isolated",  "cheeger",    "ramanujan", "mixing_time",
        "hops_for",    "reach",      "diameter",  "capacity"})
    CHECK(json.contains(key));
  CHECK(json["operator"] == "normalized");
  CHECK(json["lambda2"].get<double>() == doctest::Approx(std::cos(2 * std::numbers::pi / 50)));
  CHECK(json["lambda_n"].get<double>() == doctest::Approx(-1));
  REQUIRE(json["reach"].size() == 5);
  CHECK(json["reach"].back()["mean"].get<double>() == doctest::Approx(11.0 / 50));
}

TEST_CASE("spectral: undefined numbers are null, complex ones have re and im") {
  CHECK(run_json({"spectral", "full", "-n", "1"})["lambda2"].is_null());
  CHECK(run_json({"spectral", "full", "-n", "0"})["gap"].is_null());
  const auto directed = run_json({"spectral", "debruijn(2)", "-n", "8", "--operator", "transition"});
  CHECK(directed["lambda2"].contains("re"));
  CHECK(directed["lambda2"].contains("im"));
}

TEST_CASE("spectral: vectors are written, bad calls refused") {
  const Folder folder;
  run_json({"spectral", "paley", "-n", "13", "--vectors", folder / "v.npy"});
  CHECK(manyhop::load_npy(folder / "v.npy").shape == std::vector<manyhop::Offset>{13, 2});
  refused({"spectral", "full", "-n", "3x4"}, "3");
  refused({"spectral", "full", "-n", "4", "--operator", "signless"}, "chung");
  refused({"spectral", "full", "-n", "4", "--tol", "-1"}, "--tol");
  refused({"spectral", "full", "-n", "4", "--vectors", folder / "v.mtx"}, ".npy");
}

TEST_CASE("spectral: out of reach of the tolerance is exit code 3 with the result") {
  const auto json = run_json({"spectral", "regular(8)", "-n", "400", "--tol", "1e-300"}, {}, 3);
  CHECK(json["converged"] == false);
  CHECK(json["residual"].get<double>() > 0);
}
