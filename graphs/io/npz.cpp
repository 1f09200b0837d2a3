// SciPy's save_npz: a zip archive of .npy members. format csr or csc: indptr, indices, data, shape; format
// coo: row, col, data, shape. Boolean data that is all true is structure alone, and that is how it is
// written.
#include <fmt/format.h>
#include <zip.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "manyhop/graphs/io/npy.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop {

namespace {

constexpr std::uint64_t kDeflateRatio = 1040;  // deflate cannot shrink more than about 1032 to 1
constexpr zip_int64_t kMaxMembers = 64;

struct Discard {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseMember {
  void operator()(zip_file_t* member) const { zip_fclose(member); }
};

struct Member {
  std::string bytes;
  NpyArray array;
};

class Archive {
 public:
  Archive(std::string_view bytes, const std::string& name, std::size_t limit)
      : bytes_(bytes), name_(name), limit_(limit) {
    if (bytes.empty()) fail(0, "the file is empty");
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
    if (source != nullptr) {
      archive_.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
      if (archive_ == nullptr) zip_source_free(source);
    }
    const std::string reason = archive_ == nullptr ? zip_error_strerror(&error) : "";
    zip_error_fini(&error);
    if (archive_ == nullptr) fail(0, fmt::format("not a zip archive: {}", reason));
    const zip_int64_t count = zip_get_num_entries(archive_.get(), 0);
    if (count > kMaxMembers) fail(0, fmt::format("{} members, at most {} wanted", count, kMaxMembers));
    for (zip_int64_t i = 0; i < count; ++i) {
      const char* member = zip_get_name(archive_.get(), static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
      names_.emplace_back(member == nullptr ? "" : member);
    }
  }

  std::unique_ptr<Member> read(const std::string& what) const {
    const std::string file = what + ".npy";
    const auto found = std::ranges::find(names_, file);
    if (found == names_.end()) fail(0, fmt::format("member {} is missing", file));
    if (std::find(found + 1, names_.end(), file) != names_.end())
      fail(0, fmt::format("member {} comes twice", file));
    const auto index = static_cast<zip_uint64_t>(found - names_.begin());
    zip_stat_t status;
    zip_stat_init(&status);
    constexpr zip_uint64_t wanted = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE;
    if (zip_stat_index(archive_.get(), index, 0, &status) != 0 || (status.valid & wanted) != wanted) {
      fail(0, fmt::format("member {}: no sizes", file));
    }
    if (status.comp_size > bytes_.size() || status.size > kDeflateRatio * (status.comp_size + 1)) {
      fail(0, fmt::format("member {}: {} bytes out of {} are promised, the archive has {}", file, status.size,
                          status.comp_size, bytes_.size()));
    }
    if (limit_ > 0 && status.size > limit_) {
      throw LimitError(fmt::format("{}: member {} unpacks to {} bytes, the memory limit is {}", name_, file,
                                   status.size, limit_));
    }
    const std::unique_ptr<zip_file_t, CloseMember> member(zip_fopen_index(archive_.get(), index, 0));
    if (member == nullptr) fail(0, fmt::format("member {}: {}", file, zip_strerror(archive_.get())));
    auto result = std::make_unique<Member>();
    // Grows with the bytes that really come, so that a size in the directory is never believed.
    constexpr std::size_t block = std::size_t{1} << 20;
    std::size_t used = 0;
    for (;;) {
      check_stop();
      if (used == result->bytes.size())
        result->bytes.resize(std::min<std::size_t>(status.size + 1, 2 * used + block));
      if (used == result->bytes.size())
        fail(0, fmt::format("member {}: more than {} bytes", file, status.size));
      const zip_int64_t got =
          zip_fread(member.get(), result->bytes.data() + used, std::min(result->bytes.size() - used, block));
      if (got < 0) fail(used, fmt::format("member {}: {}", file, zip_file_strerror(member.get())));
      if (got == 0) break;
      used += static_cast<std::size_t>(got);
    }
    if (used != status.size)
      fail(used, fmt::format("member {}: {} bytes where {} are promised", file, used, status.size));
    result->bytes.resize(used);
    result->array = parse_npy_array(result->bytes, fmt::format("{}: member {}", name_, file));
    return result;
  }

  [[noreturn]] void fail(std::size_t byte, const std::string& message) const {
    throw FileError(fmt::format("{}: byte {}: {}", name_, byte, message));
  }

 private:
  std::string_view bytes_;
  const std::string& name_;
  std::size_t limit_;
  std::unique_ptr<zip_t, Discard> archive_;
  std::vector<std::string> names_;
};

std::vector<Index> read_ids(const NpyArray& array, Offset bound, std::string_view what) {
  if (array.shape.size() != 1) array.fail(0, fmt::format("{} axes where one is wanted", array.shape.size()));
  std::vector<Index> ids(static_cast<std::size_t>(array.count));
  for (Offset e = 0; e < array.count; ++e) {
    const Offset id = array.integer(e);
    if (id < 0 || id >= bound) {
      array.fail(array.byte_of(e), fmt::format("entry {}: {} {} is outside 0 .. {}", e, what, id, bound - 1));
    }
    ids[static_cast<std::size_t>(e)] = static_cast<Index>(id);
  }
  return ids;
}

std::vector<Offset> read_indptr(const NpyArray& array, Offset rows, Offset edges) {
  if (array.shape.size() != 1 || array.count != rows + 1) {
    array.fail(0, fmt::format("{} offsets for {} rows, {} wanted", array.count, rows, rows + 1));
  }
  std::vector<Offset> indptr(static_cast<std::size_t>(rows) + 1);
  Offset last = 0;
  for (Offset i = 0; i <= rows; ++i) {
    const Offset next = array.integer(i);
    if (next < last || next > edges || (i == 0 && next != 0)) {
      array.fail(array.byte_of(i),
                 fmt::format("offset {}: {} is outside {} .. {}", i, next, last, i == 0 ? 0 : edges));
    }
    last = indptr[static_cast<std::size_t>(i)] = next;
  }
  if (last != edges)
    array.fail(array.byte_of(rows), fmt::format("the last offset is {}, {} indices are there", last, edges));
  return indptr;
}

// Empty when the data is boolean and all true: structure alone.
std::vector<double> read_weights(const NpyArray& array, Offset edges) {
  if (array.shape.size() != 1 || array.count != edges) {
    array.fail(0, fmt::format("{} values for {} edges", array.count, edges));
  }
  if (array.kind == 'b' && array.items.find('\0') == std::string_view::npos) return {};
  if (array.kind == 'S' || array.kind == 'U') array.fail(0, "texts where numbers are wanted");
  std::vector<double> weights(static_cast<std::size_t>(edges));
  for (Offset e = 0; e < edges; ++e) {
    const double weight = array.number(e);
    if (!std::isfinite(weight))
      array.fail(array.byte_of(e), fmt::format("value {}: {} is not finite", e, weight));
    weights[static_cast<std::size_t>(e)] = weight;
  }
  return weights;
}

bool increasing(const std::vector<Offset>& indptr, const std::vector<Index>& indices) {
  for (std::size_t i = 0; i + 1 < indptr.size(); ++i) {
    for (Offset e = indptr[i] + 1; e < indptr[i + 1]; ++e) {
      if (indices[static_cast<std::size_t>(e)] <= indices[static_cast<std::size_t>(e) - 1]) return false;
    }
  }
  return true;
}

template <class T>
std::string_view raw(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

}  // namespace

Graph parse_npz(std::string_view bytes, const std::string& name, const LoadOptions& options) {
  const Archive archive(bytes, name, options.memory_limit);
  const auto format_member = archive.read("format");
  const std::string format = format_member->array.text();
  if (format != "csr" && format != "csc" && format != "coo") {
    format_member->array.fail(format_member->array.data_at,
                              fmt::format("format {} is not read, csr, csc or coo wanted", shown(format)));
  }
  const auto shape = archive.read("shape");
  if (shape->array.shape.size() != 1 || shape->array.count != 2) {
    shape->array.fail(0, fmt::format("{} extents where two are wanted", shape->array.count));
  }
  const Offset n_rows = shape->array.integer(0);
  const Offset n_cols = shape->array.integer(1);
  if (n_rows < 0 || n_cols < 0 || n_rows > kMaxVertices || n_cols > kMaxVertices) {
    shape->array.fail(shape->array.data_at,
                      fmt::format("{} x {} is outside 0 .. {} on an axis", n_rows, n_cols, kMaxVertices));
  }
  // An axis is believed as far as the other one that indptr has an entry for.
  Offset counted = 0;
  const auto believe = [&](Offset n, Offset entries) {
    const Offset believed = std::max(believed_size(entries, options), counted);
    if (n <= believed) return;
    shape->array.fail(shape->array.data_at,
                      fmt::format("{} x {} for {} entries is past {} = max(2^20, 64 x entries), n "
                                  "= {} would allow it",
                                  n_rows, n_cols, entries, believed, n));
  };
  const bool by_row = format == "csr";
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<Offset> indptr;
  Offset edges = 0;
  if (format == "coo") {
    rows = read_ids(archive.read("row")->array, n_rows, "row");
    const auto member = archive.read("col");
    cols = read_ids(member->array, n_cols, "column");
    edges = static_cast<Offset>(rows.size());
    if (cols.size() != rows.size())
      member->array.fail(0, fmt::format("{} columns for {} rows", cols.size(), rows.size()));
    believe(n_rows, edges);
  } else {
    auto& minor = by_row ? cols : rows;
    minor = read_ids(archive.read("indices")->array, by_row ? n_cols : n_rows, by_row ? "column" : "row");
    edges = static_cast<Offset>(minor.size());
    indptr = read_indptr(archive.read("indptr")->array, by_row ? n_rows : n_cols, edges);
    counted = static_cast<Offset>(indptr.size()) - 1;
  }
  believe(by_row ? n_cols : n_rows, edges);
  if (format == "coo") believe(n_cols, edges);
  std::vector<double> weights = read_weights(archive.read("data")->array, edges);
  try {
    if (by_row && increasing(indptr, cols)) {
      return Graph::from_csr(n_rows, n_cols, std::move(indptr), std::move(cols), std::move(weights))
          .labelled({}, Source::matrix);
    }
    auto& major = by_row ? rows : cols;
    if (format != "coo") {
      major.resize(static_cast<std::size_t>(edges));
      for (std::size_t i = 0; i + 1 < indptr.size(); ++i) {
        std::fill(major.begin() + indptr[i], major.begin() + indptr[i + 1], static_cast<Index>(i));
      }
    }
    return Graph::from_edges(n_rows, n_cols, rows, cols, weights).labelled({}, Source::matrix);
  } catch (const ValueError& error) {  // sums of duplicates that overflow
    archive.fail(0, error.what());
  }
}

void format_npz(const Graph& graph, const Sink& sink) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* target = zip_source_buffer_create(nullptr, 0, 0, &error);
  std::unique_ptr<zip_t, Discard> archive(
      target == nullptr ? nullptr : zip_open_from_source(target, ZIP_CREATE | ZIP_TRUNCATE, &error));
  const std::string reason = archive == nullptr ? zip_error_strerror(&error) : "";
  zip_error_fini(&error);
  if (archive == nullptr) {
    zip_source_free(target);
    throw FileError(fmt::format("npz: cannot begin an archive: {}", reason));
  }
  zip_source_keep(target);
  const std::unique_ptr<zip_source_t, void (*)(zip_source_t*)> kept(target, zip_source_free);
  // A member is a header and `times` times its items, where they lie until zip_close has compressed them.
  std::vector<std::unique_ptr<std::string>> headers;
  const auto add = [&](const char* file, std::string_view descr, const std::vector<Offset>& shape,
                       std::string_view items, std::size_t times = 1, std::string_view rest = {}) {
    check_stop();
    headers.push_back(std::make_unique<std::string>(npy_header(descr, shape)));
    std::vector<zip_buffer_fragment_t> parts;
    const auto part = [&](std::string_view bytes) {
      // The library reads from what it is given as if it could write to it.
      auto* data = reinterpret_cast<zip_uint8_t*>(const_cast<char*>(bytes.data()));
      if (!bytes.empty()) parts.push_back({data, bytes.size()});
    };
    part(*headers.back());
    for (std::size_t t = 0; t < times; ++t) part(items);
    part(rest);
    zip_source_t* source = zip_source_buffer_fragment(archive.get(), parts.data(), parts.size(), 0);
    const zip_int64_t index = source == nullptr ? -1 : zip_file_add(archive.get(), file, source, 0);
    if (index < 0) {
      zip_source_free(source);
      throw FileError(fmt::format("npz: cannot add {}: {}", file, zip_strerror(archive.get())));
    }
    const auto at = static_cast<zip_uint64_t>(index);
    // The fastest level: graphs shrink about as well, several times sooner. A fixed date: same graph, same
    // bytes.
    zip_set_file_compression(archive.get(), at, ZIP_CM_DEFLATE, 1);
    zip_file_set_dostime(archive.get(), at, 0, 0x21, 0);
  };
  // Packing is the longest part of writing. No exception passes through the library: it is told to give up.
  zip_register_cancel_callback_with_state(
      archive.get(),
      [](zip_t*, void*) {
        try {
          check_stop();
          return 0;
        } catch (const Interrupted&) {
          return 1;
        }
      },
      nullptr, nullptr);
  const Offset m = graph.nnz();
  const std::string ones(std::size_t{1} << 16, '\x01');
  add("indices.npy", "<i4", {m}, raw(graph.indices()));
  add("indptr.npy", "<i8", {graph.n_rows() + 1}, raw(graph.indptr()));
  add("format.npy", "|S3", {}, "csr");
  const std::vector<Offset> shape{graph.n_rows(), graph.n_cols()};
  add("shape.npy", "<i8", {2}, raw(std::span<const Offset>(shape)));
  if (graph.weighted()) {
    add("data.npy", "<f8", {m}, raw(graph.weights()));
  } else {
    add("data.npy", "|b1", {m}, ones, static_cast<std::size_t>(m) / ones.size(),
        std::string_view(ones).substr(0, static_cast<std::size_t>(m) % ones.size()));
  }
  if (zip_close(archive.get()) != 0) {
    check_stop();
    throw FileError(fmt::format("npz: cannot finish the archive: {}", zip_strerror(archive.get())));
  }
  static_cast<void>(archive.release());
  if (zip_source_open(target) != 0) throw FileError("npz: cannot read the finished archive");
  std::string block(std::size_t{1} << 20, '\0');
  for (zip_int64_t got = 0; (got = zip_source_read(target, block.data(), block.size())) > 0;) {
    sink(std::string_view(block.data(), static_cast<std::size_t>(got)));
  }
  zip_source_close(target);
}

}  // namespace manyhop
