// Matrix Market, coordinate form: "%%MatrixMarket matrix coordinate FIELD SYMMETRY", comments, "rows columns
// entries", then one entry a line, ids from 1.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop {

namespace {

std::string lower(std::string_view token) {
  std::string text(token.substr(0, 32));
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

struct Banner {
  bool pattern = false;
  bool integer = false;
  bool symmetric = false;
  bool skew = false;
};

void want_word(const LineReader& in, const std::string& word, std::string_view wanted,
               std::string_view what) {
  if (word != wanted) in.fail(fmt::format("{} {} is not read, {} wanted", what, shown(word), wanted));
}

Banner read_banner(LineReader& in) {
  if (!in.next_line() || lower(in.next_token()) != "%%matrixmarket") {
    in.fail_at(1, "%%MatrixMarket is wanted at the start of a Matrix Market file");
  }
  want_word(in, lower(in.want_token("matrix")), "matrix", "object");
  want_word(in, lower(in.want_token("coordinate")), "coordinate", "format");
  Banner banner;
  const std::string field = lower(in.want_token("the field"));
  banner.pattern = field == "pattern";
  banner.integer = field == "integer";
  if (!banner.pattern && !banner.integer && field != "real" && field != "double") {
    in.fail(fmt::format("field {} is not read, real, integer or pattern wanted", shown(field)));
  }
  const std::string symmetry = lower(in.want_token("the symmetry"));
  banner.symmetric = symmetry == "symmetric";
  banner.skew = symmetry == "skew-symmetric";
  if (!banner.symmetric && !banner.skew && symmetry != "general") {
    in.fail(
        fmt::format("symmetry {} is not read, general, symmetric or skew-symmetric wanted", shown(symmetry)));
  }
  if (banner.skew && banner.pattern) in.fail("a pattern cannot be skew-symmetric, it has no signs");
  in.want_end("the symmetry");
  return banner;
}

}  // namespace

Graph parse_mtx(std::string_view bytes, const std::string& name, const LoadOptions& options) {
  LineReader in(bytes, name);
  const Banner banner = read_banner(in);
  if (!in.next_content("%")) in.fail("the file ends where the size line (rows columns entries) is wanted");
  const Offset size_line = in.line();
  const Offset n_rows = in.integer(in.want_token("the rows"), "rows", 0, kMaxVertices);
  const Offset n_cols = in.integer(in.want_token("the columns"), "columns", 0, kMaxVertices);
  const Offset entries = in.integer(in.want_token("the entries"), "entries", 0, INT64_MAX);
  in.want_end("the entries");
  if ((banner.symmetric || banner.skew) && n_rows != n_cols) {
    in.fail(fmt::format("a symmetric matrix of {} x {} is not square", n_rows, n_cols));
  }
  // "1 1" and a line end are the shortest entry.
  const auto shortest = banner.pattern ? std::size_t{4} : std::size_t{6};
  if (static_cast<std::uint64_t>(entries) > (in.bytes_left() + 1) / shortest) {
    in.fail(fmt::format("{} entries are promised but only {} bytes follow", entries, in.bytes_left()));
  }
  const Offset believed = believed_size(entries, options);
  if (std::max(n_rows, n_cols) > believed) {
    in.fail(fmt::format("{} x {} for {} entries is past {} = max(2^20, 64 x entries), n = {} would allow it",
                        n_rows, n_cols, entries, believed, std::max(n_rows, n_cols)));
  }

  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  const std::size_t room = static_cast<std::size_t>(entries) * (banner.symmetric || banner.skew ? 2U : 1U);
  rows.reserve(room);
  cols.reserve(room);
  if (!banner.pattern) weights.reserve(room);
  for (Offset e = 0; e < entries; ++e) {
    if (!in.next_content("%")) {
      in.fail(fmt::format("the file ends after {} of the {} entries that line {} promises", e, entries,
                          size_line));
    }
    const auto row = static_cast<Index>(in.integer(in.want_token("a row"), "row", 1, n_rows) - 1);
    const auto col = static_cast<Index>(in.integer(in.want_token("a column"), "column", 1, n_cols) - 1);
    double weight = 1;
    if (!banner.pattern) {
      const std::string_view token = in.want_token("a value");
      weight = banner.integer ? in.whole(token, "value") : in.number(token, "value");
    }
    in.want_end(banner.pattern ? "the column" : "the value");
    if (banner.skew && row == col) {
      in.fail(fmt::format("entry ({}, {}) is on the diagonal, where a skew-symmetric matrix is zero", row + 1,
                          col + 1));
    }
    rows.push_back(row);
    cols.push_back(col);
    if (!banner.pattern) weights.push_back(weight);
    if ((banner.symmetric || banner.skew) && row != col) {
      rows.push_back(col);
      cols.push_back(row);
      if (!banner.pattern) weights.push_back(banner.skew ? -weight : weight);
    }
  }
  if (in.next_content("%")) {
    in.fail(fmt::format("more than the {} entries that line {} promises", entries, size_line));
  }
  try {
    return Graph::from_edges(n_rows, n_cols, rows, cols, weights).labelled({}, Source::matrix);
  } catch (const ValueError& error) {  // sums of duplicates that overflow
    in.fail(error.what());
  }
}

void format_mtx(const Graph& graph, const Sink& sink) {
  sink(fmt::format("%%MatrixMarket matrix coordinate {} general\n{} {} {}\n",
                   graph.weighted() ? "real" : "pattern", graph.n_rows(), graph.n_cols(), graph.nnz()));
  std::string line;
  const auto weights = graph.weights();
  std::size_t e = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    graph.for_each_run(i, [&](Run run) {
      for (Index c = run.begin; c < run.end; ++c, ++e) {
        line.clear();
        append_number(line, i + 1);
        line += ' ';
        append_number(line, Offset{c} + 1);
        if (!weights.empty()) {
          line += ' ';
          append_number(line, weights[e]);
        }
        line += '\n';
        sink(line);
      }
    });
  }
}

}  // namespace manyhop
