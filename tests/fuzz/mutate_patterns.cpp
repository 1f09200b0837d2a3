// mutate_patterns FILE [--count N] [--seed S]: damages every line of FILE (valid pattern texts) N times and
// builds the graph on few tokens. Only ValueError, FileError and LimitError may come out.
#include <fmt/format.h>

#include <cstdlib>

#include <vector>

#include "guard.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "mutate.hpp"

namespace manyhop::fuzz {
namespace {

constexpr std::array<Offset, 8> kSizes{0, 1, 4, 5, 13, 16, 25, 37};

int run(const std::string& path, std::uint64_t count, std::uint64_t seed) {
  std::vector<std::string> texts;
  const std::string bytes = read_file(path);
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.size(), bytes.find('\n', begin));
    if (end > begin) texts.push_back(bytes.substr(begin, end - begin));
    begin = end + 1;
  }
  std::uint64_t built = 0;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    canonical_pattern(texts[t]);  // the list holds valid texts only
    for (std::uint64_t index = 0; index < count; ++index) {
      CounterRng rng(seed, static_cast<std::uint32_t>(t), index);
      const std::string& other = texts[static_cast<std::size_t>(rng.below(texts.size()))];
      const std::string mutant = index == 0 ? texts[t] : mutate(texts[t], other, rng);
      const Offset n = kSizes[static_cast<std::size_t>(rng.below(kSizes.size()))];
      try {
        try {
          const Graph graph = pattern(mutant, n);
          const auto indptr = graph.indptr();
          const auto indices = graph.indices();
          Graph::from_csr(graph.n_rows(), graph.n_cols(), {indptr.begin(), indptr.end()},
                          {indices.begin(), indices.end()});
          ++built;
        } catch (const FileError&) {
        } catch (const LimitError&) {
        } catch (const std::bad_alloc&) {
          // diffuser_ref permutes max_len^2 cells as NumPy does: the one text that may rightly ask for more.
          if (mutant.find("diffuser_ref") == std::string::npos) throw;
        } catch (const ValueError& error) {
          // A refused graph is the fault of the text; one that from_csr refuses is ours.
          if (std::string_view(error.what()).starts_with("indices[")) throw std::runtime_error(error.what());
        }
      } catch (const std::exception& error) {
        fmt::print(stderr, "'{}' on {} tokens (text {}, seed {}, index {}): {}\n", mutant, n, t, seed, index,
                   error.what());
        return 1;
      }
    }
  }
  fmt::print("{} texts, {} mutations each, {} still build\n", texts.size(), count, built);
  return texts.empty() ? 1 : 0;
}

}  // namespace
}  // namespace manyhop::fuzz

int main(int argc, char** argv) {
  std::string path;
  const char* wanted = std::getenv("MANYHOP_MUTATIONS");
  std::uint64_t count = wanted == nullptr ? 1000 : std::strtoull(wanted, nullptr, 10);
  std::uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if ((word == "--count" || word == "--seed") && i + 1 < argc) {
      (word == "--count" ? count : seed) = std::strtoull(argv[++i], nullptr, 10);
    } else {
      path = word;
    }
  }
  return manyhop::fuzz::run(path, count, seed);
}
