#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numbers>
#include <string>

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
  refused({"spectral", "window(1)", "-n", "9", "--operator", "transition", "--vectors", folder / "w.npy"},
          "operator transition has none");
}

TEST_CASE("spectral: out of reach of the tolerance is exit code 3 with the result") {
  const auto json = run_json({"spectral", "regular(8)", "-n", "400", "--tol", "1e-300"}, {}, 3);
  CHECK(json["converged"] == false);
  CHECK(json["residual"].get<double>() > 0);
}

TEST_CASE("spectral: expansion of the hypercube, with cut and report") {
  const Folder folder;
  const auto json = run_json({"spectral", "hypercube", "-n", "16", "--cut", folder / "cut.txt", "--html",
                              folder / "report.html", "--eps", "0.5,0.01"});
  CHECK(json["diameter"]["lower"] == 4);
  CHECK(json["diameter"]["upper"] == 4);
  CHECK(json["capacity"].get<double>() == doctest::Approx(1));
  CHECK(json["cheeger"]["lower"].get<double>() == doctest::Approx(0.25));
  CHECK(json["cheeger"]["upper"].get<double>() == doctest::Approx(1));
  CHECK(json["ramanujan"]["ratio"].get<double>() == doctest::Approx(2 / (2 * std::sqrt(3.0))));
  CHECK(json["ramanujan"]["verdict"] == true);
  CHECK(json["hops_for"]["0.5"]["walk"].is_null());
  CHECK(json["hops_for"]["0.01"]["ppr"] == 51);
  CHECK(json["complete_distance"]["value"].get<double>() == doctest::Approx(0.6));
  CHECK(std::filesystem::file_size(folder / "cut.txt") > 0);
  std::ifstream file(folder / "report.html");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  CHECK(page.starts_with("<!DOCTYPE html>"));
  CHECK(page.find("<script") == std::string::npos);
  CHECK(page.find("Spectral density") != std::string::npos);
  refused({"spectral", "full", "-n", "4", "--eps", "2"}, "--eps");
  refused({"spectral", "full", "-n", "4", "--measure", "speed"}, "density");
  refused({"spectral", "full", "-n", "4", "--html", folder / "report.pdf"}, ".html");
}

TEST_CASE("spectral --qkv: the softmax matrix of every head, and of one") {
  const Folder folder;
  // Equal queries and keys of 0: every row of A is 1/n, so A is the mean and one hop leaves nothing.
  manyhop::NamedTensors file;
  for (const char* name : {"q", "k"})
    file.tensors.emplace(name, manyhop::Tensor::zeros(manyhop::DType::f32, {6, 2, 4}));
  const std::string path = folder / "qk.safetensors";
  manyhop::save_safetensors(file, path);
  const auto json = run_json(
      {"spectral", "--qkv", path, "--hops", "2", "--teleport", "0.5", "--stationary", folder / "pi.npy"});
  REQUIRE(json["matrices"].size() == 2);
  const auto& head = json["matrices"][1];
  CHECK(head["head"] == 1);
  CHECK(std::abs(head["transition"]["modulus"].get<double>()) < 1e-12);
  CHECK(head["sigma"]["first"].get<double>() == doctest::Approx(1));
  CHECK(head["stationary"]["effective_tokens"].get<double>() == doctest::Approx(6));
  CHECK(head["filter"]["gain"].get<double>() == doctest::Approx(0.5));  // teleport of 0: 1/2 0 + 1/2
  CHECK(json["triangular"] == false);
  CHECK(json["filter"].size() == 41);
  CHECK(manyhop::load_npy(folder / "pi.npy").shape == std::vector<manyhop::Offset>{2, 6});

  const auto causal = run_json({"spectral", "--qkv", path, "--pattern", "causal", "--head", "0"});
  CHECK(causal["matrices"].size() == 1);
  CHECK(causal["triangular"] == true);
  CHECK(causal["remark"].is_string());
  CHECK(causal["paths"][1]["max"] == 21);  // C(7, 2)
  CHECK(causal["matrices"][0]["chung"]["applies"] == false);
  // The diagonal of A is 1, 1/2, 1/3, ...
  CHECK(causal["matrices"][0]["transition"]["modulus"].get<double>() == doctest::Approx(0.5));

  refused({"spectral", "--qkv", path, "--head", "2"}, "0 .. 1");
  refused({"spectral", "--qkv", path, "--pattern", "full", "-n", "7"}, "6");
  refused({"spectral", "--qkv", path, "--html", folder / "a.html"}, "--html");
  refused({"spectral", "full", "-n", "6", "--qkv", path}, "--pattern");
  refused({"spectral", "full", "-n", "6", "--hops", "2"}, "--qkv");
  refused({"spectral"}, "GRAPH");
}

TEST_CASE("spectral: a causal pattern says that its eigenvalues mean nothing") {
  const auto json = run_json({"spectral", "causal & window(3)", "-n", "40"});
  CHECK(json["triangular"] == true);
  CHECK(json["paths"].size() == 5);
  CHECK(json["singular_gap"].is_number());
  CHECK(run_json({"spectral", "window(3)", "-n", "40"})["paths"].is_null());
}

TEST_CASE("design: the choice is written and reproduced by spectral and info") {
  const Folder folder;
  const auto json = run_json({"design", "-n", "512", "--edges-per-token", "32", "--align", "4", "-o",
                              folder / "best.txt", "--html", folder / "best.html"});
  const auto& best = json["chosen"];
  std::ifstream file(folder / "best.txt");
  std::string text;
  std::getline(file, text);
  CHECK(text == best["pattern"].get<std::string>());
  CHECK(std::filesystem::file_size(folder / "best.html") > 1000);
  const auto again = run_json({"spectral", text, "-n", "512"});
  CHECK(std::abs(again["gap"].get<double>() - best["gap"].get<double>()) < 1e-8);
  CHECK(run_json({"info", text, "-n", "512"})["edges"] == best["edges"]);
  REQUIRE(run_program({"gen", "window(1,ring=true)", "-n", "128", "-o", folder / "ring.el"}).code == 0);
  const auto kept = run_json({"design", "-n", "128", "--edges-per-token", "8", "--keep", folder / "ring.el"});
  CHECK(kept["chosen"]["pattern"].get<std::string>().starts_with("file(\""));
  refused({"design"}, "-n");
  refused({"design", "-n", "512"}, "--edges-per-token");
  refused({"design", "-n", "512", "--edges-per-token", "8", "--align", "64"}, "64");
}
