// mutate_files FOLDER [--count N] [--seed S]: damages every file of FOLDER N times and parses the result.
// Only FileError, ValueError and LimitError may come out, and what parses must be a valid graph. The first
// failure prints file, seed and index, and ends the program with 1.
#include <fmt/format.h>

#include <cstdlib>

#include <filesystem>
#include <map>

#include "guard.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "mutate.hpp"

namespace manyhop::fuzz {
namespace {

// Building a graph again from its own arrays runs all checks of from_csr.
void validate(const Graph& graph) {
  const auto indptr = graph.indptr();
  const auto indices = graph.indices();
  const auto weights = graph.weights();
  Graph::from_csr(graph.n_rows(), graph.n_cols(), {indptr.begin(), indptr.end()},
                  {indices.begin(), indices.end()}, {weights.begin(), weights.end()});
}

void parse(const std::string& suffix, std::string_view bytes, CounterRng& rng) {
  LoadOptions options;
  if (suffix == ".mtx") return validate(parse_mtx(bytes, "mutant", options));
  if (suffix == ".npz") return validate(parse_npz(bytes, "mutant", options));
  if (suffix == ".graph") return validate(parse_metis(bytes, "mutant", options));
  if (suffix == ".npy") return static_cast<void>(parse_npy(bytes, "mutant").to(DType::f32));
  if (suffix == ".safetensors") return static_cast<void>(parse_safetensors(bytes, "mutant"));
  options.undirected = rng.below(2) == 0;
  options.compact = rng.below(2) == 0;
  options.base = static_cast<int>(rng.below(2));
  validate(parse_edge_list(bytes, "mutant", options));
}

int run(const std::string& folder, std::uint64_t count, std::uint64_t seed) {
  std::map<std::string, std::string> files;  // in order of names
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files[entry.path().string()] = read_file(entry.path().string());
  }
  if (files.empty()) {
    fmt::print(stderr, "{}: no files\n", folder);
    return 1;
  }
  std::uint64_t parsed = 0;
  std::uint32_t stage = 0;
  for (const auto& [path, bytes] : files) {
    ++stage;
    const std::string suffix = std::filesystem::path(path).extension().string();
    for (std::uint64_t index = 0; index < count; ++index) {
      CounterRng rng(seed, stage, index);
      auto other = files.begin();
      std::advance(other, static_cast<std::ptrdiff_t>(rng.below(files.size())));
      const std::string mutant = index == 0 ? bytes : mutate(bytes, other->second, rng);
      try {
        try {
          parse(suffix, mutant, rng);
          ++parsed;
        } catch (const FileError&) {
        } catch (const LimitError&) {
        } catch (const ValueError&) {
        }
      } catch (const std::exception& error) {
        fmt::print(stderr, "{}: seed {} index {}: {}\n", path, seed, index, error.what());
        return 1;
      }
    }
  }
  fmt::print("{} files, {} mutations each, {} still parse\n", files.size(), count, parsed);
  return 0;
}

}  // namespace
}  // namespace manyhop::fuzz

int main(int argc, char** argv) {
  std::string folder;
  const char* wanted = std::getenv("MANYHOP_MUTATIONS");
  std::uint64_t count = wanted == nullptr ? 1000 : std::strtoull(wanted, nullptr, 10);
  std::uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if ((word == "--count" || word == "--seed") && i + 1 < argc) {
      (word == "--count" ? count : seed) = std::strtoull(argv[++i], nullptr, 10);
    } else {
      folder = word;
    }
  }
  return manyhop::fuzz::run(folder, count, seed);
}
