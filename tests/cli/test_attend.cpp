#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "manyhop/graphs/io/io.hpp"
#include "program.hpp"

using namespace manyhop::test;
using manyhop::DType;
using manyhop::NamedTensors;
using manyhop::Offset;
using manyhop::Tensor;

namespace {

Tensor numbers(std::vector<Offset> shape, int salt, DType type = DType::f32) {
  Tensor tensor = Tensor::zeros(DType::f32, std::move(shape));
  float* value = tensor.as<float>();
  for (Offset i = 0; i < tensor.size(); ++i)
    value[i] = std::sin(0.7F * static_cast<float>(i) + static_cast<float>(salt));
  return tensor.to(type);
}

void write_qkv(const std::string& path, Tensor q, Tensor k, Tensor v) {
  NamedTensors file;
  file.tensors = {{"q", std::move(q)}, {"k", std::move(k)}, {"v", std::move(v)}};
  manyhop::save_safetensors(file, path);
}

void write_small(const std::string& path, DType type = DType::f32) {
  write_qkv(path, numbers({10, 2, 4}, 1, type), numbers({10, 2, 4}, 2, type), numbers({10, 2, 4}, 3, type));
}

// One row of plain softmax attention in double: [n, h, d] tensors, all columns from first to last.
double by_hand(const Tensor& q, const Tensor& k, const Tensor& v, Offset i, Offset h, Offset c, Offset first,
               Offset last) {
  const Offset heads = q.shape[1];
  const Offset kv_head = h * k.shape[1] / heads;
  double total = 0;
  double sum = 0;
  for (Offset j = first; j <= last; ++j) {
    double score = 0;
    for (Offset e = 0; e < q.shape[2]; ++e)
      score += static_cast<double>(q.as<float>()[(i * heads + h) * q.shape[2] + e]) *
               static_cast<double>(k.as<float>()[(j * k.shape[1] + kv_head) * k.shape[2] + e]);
    const double weight = std::exp(score / std::sqrt(static_cast<double>(q.shape[2])));
    total += weight;
    sum += weight * static_cast<double>(v.as<float>()[(j * v.shape[1] + kv_head) * v.shape[2] + c]);
  }
  return sum / total;
}

}  // namespace

TEST_CASE("attend: keys, file, and the numbers of one row by hand") {
  const Folder folder;
  write_small(folder / "in.safetensors");
  const auto json = run_json({"attend", "--qkv", folder / "in.safetensors", "--pattern", "window(1)", "-o",
                              folder / "out.safetensors", "--repeat", "3", "--compare", "full"});
  for (const char* key :
       {"n", "edges", "heads", "head_dim", "hops", "teleport", "dtype", "backend", "threads", "seconds",
        "plan_seconds", "gflops", "peak_bytes", "plan", "full", "error"})
    CHECK(json.contains(key));
  CHECK(json["n"] == 10);
  CHECK(json["edges"] == 28);
  CHECK(json["hops"] == 1);
  CHECK(json["teleport"] == 0.0);
  CHECK(json["plan"].is_array());
  CHECK(json["full"]["seconds"].is_number());
  CHECK(json["full"]["peak_bytes"].is_number());
  CHECK(json["error"]["rel_l2"].get<double>() > 0.01);
  const double coverage = json["error"]["coverage"].get<double>();
  CHECK(coverage > 0.1);
  CHECK(coverage < 0.6);
  const auto file = manyhop::load_safetensors(folder / "out.safetensors");
  const Tensor& out = file.tensors.at("out");
  CHECK(out.dtype == DType::f32);
  REQUIRE(out.shape == std::vector<Offset>{10, 2, 4});
  CHECK(file.metadata.at("pattern") == "window(1)");
  const Tensor q = numbers({10, 2, 4}, 1);
  const Tensor k = numbers({10, 2, 4}, 2);
  const Tensor v = numbers({10, 2, 4}, 3);
  for (const Offset h : {0, 1})
    CHECK(static_cast<double>(out.as<float>()[(5 * 2 + h) * 4 + 2]) ==
          doctest::Approx(by_hand(q, k, v, 5, h, 2, 4, 6)).epsilon(1e-5));
}

TEST_CASE("attend: full covers everything and has no error") {
  const Folder folder;
  write_small(folder / "in.safetensors");
  const auto json =
      run_json({"attend", "--qkv", folder / "in.safetensors", "--pattern", "full", "--compare", "full"});
  CHECK(json["error"]["rel_l2"].get<double>() < 1e-6);
  CHECK(json["error"]["cosine"].get<double>() == doctest::Approx(1));
  CHECK(json["error"]["coverage"].get<double>() == doctest::Approx(1));
  const auto empty = run_json(
      {"attend", "--qkv", folder / "in.safetensors", "--pattern", "self - self", "--compare", "full"});
  CHECK(empty["error"]["coverage"] == 0.0);
  CHECK(empty["error"]["cosine"].is_null());
  CHECK(empty["error"]["rel_l2"] == 1.0);
}

TEST_CASE("attend: layouts, grouped heads, widths, rectangles and input types") {
  const Folder folder;
  const Tensor q = numbers({7, 4, 8}, 1);
  const Tensor k = numbers({5, 2, 8}, 2);
  const Tensor v = numbers({5, 2, 3}, 3);
  write_qkv(folder / "nhd.safetensors", q, k, v);
  run_json(
      {"attend", "--qkv", folder / "nhd.safetensors", "--pattern", "full", "-o", folder / "o.safetensors"});
  const Tensor out = manyhop::load_safetensors(folder / "o.safetensors").tensors.at("out");
  REQUIRE(out.shape == std::vector<Offset>{7, 4, 3});
  CHECK(static_cast<double>(out.as<float>()[(6 * 4 + 3) * 3 + 1]) ==
        doctest::Approx(by_hand(q, k, v, 6, 3, 1, 0, 4)).epsilon(1e-5));
  refused({"attend", "--qkv", folder / "nhd.safetensors", "--pattern", "full", "--hops", "2"}, "7");

  // The same values with heads first.
  const auto swapped = [](const Tensor& x) {
    Tensor y = Tensor::zeros(DType::f32, {1, x.shape[1], x.shape[0], x.shape[2]});
    for (Offset i = 0; i < x.shape[0]; ++i)
      for (Offset h = 0; h < x.shape[1]; ++h)
        for (Offset c = 0; c < x.shape[2]; ++c)
          y.as<float>()[(h * x.shape[0] + i) * x.shape[2] + c] =
              x.as<float>()[(i * x.shape[1] + h) * x.shape[2] + c];
    return y;
  };
  write_qkv(folder / "bhsd.safetensors", swapped(q), swapped(k), swapped(v));
  run_json({"attend", "--qkv", folder / "bhsd.safetensors", "--layout", "bhsd", "--pattern", "full", "-o",
            folder / "p.safetensors"});
  const Tensor other = manyhop::load_safetensors(folder / "p.safetensors").tensors.at("out");
  CHECK(other.shape == std::vector<Offset>{1, 4, 7, 3});
  CHECK(other.bytes == swapped(out).bytes);

  for (const DType type : {DType::f16, DType::bf16, DType::f64}) {
    write_small(folder / "t.safetensors", type);
    const auto json = run_json({"attend", "--qkv", folder / "t.safetensors", "--pattern", "window(2)", "-o",
                                folder / "t_out.safetensors"});
    CHECK(json["dtype"] == std::string(type == DType::f16 ? "f32" : name_of(type)));
    CHECK(manyhop::load_safetensors(folder / "t_out.safetensors").tensors.at("out").dtype == type);
  }
}

TEST_CASE("attend: several patterns make one table, named tensors and pictures") {
  const Folder folder;
  write_small(folder / "in.safetensors");
  const std::vector<std::string> call{"attend",     "--qkv",  folder / "in.safetensors",
                                      "--pattern",  "full",   "--pattern",
                                      "window(1)",  "--hops", "3",
                                      "--teleport", "0.1",    "--compare",
                                      "full"};
  auto with = call;
  with.insert(with.end(), {"-o", folder / "out.safetensors", "--svg", folder / "pictures"});
  const auto json = run_json(with);
  REQUIRE(json["runs"].size() == 2);
  CHECK(json["runs"][1]["pattern"] == "window(1)");
  CHECK(json["runs"][0]["lambda2"].get<double>() == doctest::Approx(0).epsilon(1e-6));
  CHECK(json["runs"][1]["gap"].get<double>() > 0);
  CHECK(json["runs"][1]["reach"].size() == 3);
  const auto file = manyhop::load_safetensors(folder / "out.safetensors");
  CHECK(file.tensors.size() == 2);
  CHECK(file.metadata.at("out_2") == "window(1)");
  CHECK(std::filesystem::exists(folder / "pictures/full.svg"));
  CHECK(std::filesystem::exists(folder / "pictures/window_1.svg"));
  const Said table = run_program(call);
  CHECK(table.code == 0);
  for (const char* word : {"edges/token", "lambda2", "gap", "reach(3)", "peak memory", "cosine", "coverage"})
    CHECK(table.out.find(word) != std::string::npos);
}

TEST_CASE("attend: the same bits for any threads and memory limit") {
  const Folder folder;
  write_qkv(folder / "in.safetensors", numbers({200, 6, 16}, 1), numbers({200, 6, 16}, 2),
            numbers({200, 6, 16}, 3));
  std::string first;
  const std::vector<std::vector<std::string>> settings{
      {"--threads", "1"}, {"--threads", "2"}, {"--threads", "4"}, {"--memory-limit", "2M"}};
  for (const auto& setting : settings) {
    std::vector<std::string> call{"attend",
                                  "--qkv",
                                  folder / "in.safetensors",
                                  "--pattern",
                                  "diffuser(16, 8, 4)",
                                  "--hops",
                                  "5",
                                  "--teleport",
                                  "0.1",
                                  "-o",
                                  folder / "o.safetensors"};
    call.insert(call.end(), setting.begin(), setting.end());
    run_json(call);
    const std::string bytes = text_of(folder / "o.safetensors");
    if (first.empty()) first = bytes;
    CHECK(bytes == first);
  }
}

TEST_CASE("attend: bad input is refused and nothing is written") {
  const Folder folder;
  write_small(folder / "in.safetensors");
  const auto call = [&](const std::string& file, std::vector<std::string> more) {
    std::vector<std::string> words{"attend", "--qkv", folder / file, "-o", folder / "out.safetensors"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  refused(call("none.safetensors", {"--pattern", "full"}), "none.safetensors");
  refused(call("in.safetensors", {}), "--pattern");
  refused(call("in.safetensors", {"--pattern", "full", "--teleport", "nan"}), "from 0 to 1");
  refused(call("in.safetensors", {"--pattern", "full", "--teleport", "1.5"}), "from 0 to 1");
  refused(call("in.safetensors", {"--pattern", "full", "--scale", "inf"}), "--scale");
  refused(call("in.safetensors", {"--pattern", "full", "--hops", "-1"}), "--hops");
  refused(call("in.safetensors", {"--pattern", "full", "--hops", "1e3"}), "--hops");
  refused(call("in.safetensors", {"--pattern", "full", "--repeat", "0"}), "--repeat");
  refused(call("in.safetensors", {"--pattern", "full", "--layout", "bhsd"}), "[10, 2, 4]");
  refused(call("in.safetensors", {"--pattern", "full", "--memory-limit", "100"}), "");
  refused(call("in.safetensors", {"--pattern", "full", "--tf32"}), "'cuda'");
  refused(call("in.safetensors", {"--pattern", "full", "--tf32", "--dtype", "bf16"}), "f32 is wanted");
  refused(call("in.safetensors", {"--pattern", "unknown(3)"}), "unknown");
  write_text(folder / "g.el", "0 1\n1 2\n");
  refused(call("in.safetensors", {"--pattern", folder / "g.el"}), "3 x 3");
  NamedTensors file;
  file.tensors = {{"q", numbers({4, 1, 2}, 1)}, {"k", numbers({4, 1, 2}, 1)}};
  manyhop::save_safetensors(file, folder / "no_v.safetensors");
  refused(call("no_v.safetensors", {"--pattern", "full"}), "'v'");
  write_qkv(folder / "heads.safetensors", numbers({4, 3, 2}, 1), numbers({4, 2, 2}, 1),
            numbers({4, 2, 2}, 1));
  refused(call("heads.safetensors", {"--pattern", "full"}), "3 heads");
  write_qkv(folder / "width.safetensors", numbers({4, 2, 3}, 1), numbers({4, 2, 2}, 1),
            numbers({4, 2, 2}, 1));
  refused(call("width.safetensors", {"--pattern", "full"}), "width");
  write_qkv(folder / "mixed.safetensors", numbers({4, 2, 2}, 1), numbers({4, 2, 2}, 1, DType::f16),
            numbers({4, 2, 2}, 1));
  refused(call("mixed.safetensors", {"--pattern", "full"}), "one type");
  const std::string whole = text_of(folder / "in.safetensors");
  write_text(folder / "cut.safetensors", whole.substr(0, whole.size() - 7));
  refused(call("cut.safetensors", {"--pattern", "full"}), "cut.safetensors");
  std::string header(8, '\0');
  const std::uint64_t huge = std::uint64_t{1} << 40;
  std::memcpy(header.data(), &huge, 8);
  write_text(folder / "huge.safetensors", header + "{}");
  refused(call("huge.safetensors", {"--pattern", "full"}), "huge.safetensors");
  CHECK_FALSE(std::filesystem::exists(folder / "out.safetensors"));
}

TEST_CASE(
    "attend: an edge list without its last tokens, a rectangle in any order, one pattern for each "
    "--pattern") {
  const Folder folder;
  write_small(folder / "in.safetensors");
  write_text(folder / "a.el", "0 1\n1 2\n");  // of ten tokens
  CHECK(run_json({"attend", "--qkv", folder / "in.safetensors", "--pattern", folder / "a.el", "-n",
                  "10"})["edges"] == 2);
  refused({"attend", "--qkv", folder / "in.safetensors", "--pattern", folder / "a.el"}, "3 x 3");
  write_qkv(folder / "r.safetensors", numbers({3, 2, 4}, 1), numbers({5, 2, 4}, 2), numbers({5, 2, 4}, 3));
  CHECK(run_json({"attend", "--qkv", folder / "r.safetensors", "--pattern", "full", "--reorder",
                  "auto"})["edges"] == 15);
  refused({"attend", "--qkv", folder / "in.safetensors", "--pattern", "full", "causal"}, "causal");
}

TEST_CASE("attend: no tokens") {
  const Folder folder;
  write_qkv(folder / "in.safetensors", numbers({0, 2, 4}, 1), numbers({0, 2, 4}, 1), numbers({0, 2, 4}, 1));
  const auto json = run_json({"attend", "--qkv", folder / "in.safetensors", "--pattern", "full", "--compare",
                              "full", "-o", folder / "o.safetensors"});
  CHECK(json["edges"] == 0);
  CHECK(json["error"]["coverage"].is_null());
}

// A build without CUDA, one without a device, and one with a device are all right: nothing but a crash or a
// wrong number is not.
TEST_CASE("attend: cuda runs where there is a device, else says what is missing") {
  const Folder folder;
  write_small(folder / "in.safetensors");
  const auto arguments = [&](const std::string& backend) {
    return std::vector<std::string>{"attend",
                                    "--qkv",
                                    folder / "in.safetensors",
                                    "--pattern",
                                    "window(1)",
                                    "--hops",
                                    "3",
                                    "--teleport",
                                    "0.1",
                                    "--backend",
                                    backend,
                                    "-o",
                                    folder / (backend + ".safetensors")};
  };
  if (run_program(arguments("cuda")).code != 0) {
    CHECK(refused(arguments("cuda"), "'cuda' ").find("reference, cpu") != std::string::npos);
    return;
  }
  run_program(arguments("cpu"));
  Tensor got = manyhop::load_safetensors(folder / "cuda.safetensors").tensors.at("out");
  Tensor want = manyhop::load_safetensors(folder / "cpu.safetensors").tensors.at("out");
  for (Offset i = 0; i < want.size(); ++i) {
    CHECK(got.as<float>()[i] == doctest::Approx(want.as<float>()[i]).epsilon(1e-5));
  }
}
