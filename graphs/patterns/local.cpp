// Row-local atoms: row i is a formula.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

Offset floor_div(Offset a, Offset b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// [begin, end) cut to 0 .. n.
void append_cut(RunList& out, Offset begin, Offset end, Offset n) {
  begin = std::clamp<Offset>(begin, 0, n);
  end = std::clamp<Offset>(end, 0, n);
  if (begin < end) append_run(out, {static_cast<Index>(begin), static_cast<Index>(end)});
}

void append_one(RunList& out, Offset column) {
  append_run(out, {static_cast<Index>(column), static_cast<Index>(column + 1)});
}

double of(Offset n) { return static_cast<double>(n); }

// Columns (i + s step) mod n for abs(s) <= r.
Source ring_window(const Place& place, Offset r, Offset step) {
  const Offset n = place.n_cols;
  Source source;
  if (n == 0) {
    source.row = [](Offset, RunList&) {};
    return source;
  }
  step %= n;
  const Offset gcd = step == 0 ? n : std::gcd(step, n);
  const Offset cycle = n / gcd;  // distinct columns that steps reach
  const bool all = 2 * r + 1 >= cycle;
  const Offset reach = all ? cycle : 2 * r + 1;
  source.edges = of(place.n_rows) * of(reach);
  const bool wide = step == 1 || (all && gcd == 1);
  source.runs = wide ? 2 * of(place.n_rows) : source.edges;
  source.row = [=](Offset i, RunList& out) {
    i %= n;
    if (all) {
      if (gcd == 1) {
        append_cut(out, 0, n, n);
      } else {
        for (Offset j = i % gcd; j < n; j += gcd) append_one(out, j);
      }
    } else if (step == 1) {
      const Offset begin = i - r;
      const Offset end = i + r + 1;
      if (begin < 0) {
        append_cut(out, 0, end, n);
        append_cut(out, begin + n, n, n);
      } else {
        append_cut(out, 0, end - n, n);
        append_cut(out, begin, end, n);
      }
    } else {
      std::vector<Index> columns;
      columns.reserve(static_cast<std::size_t>(reach));
      for (Offset s = -r; s <= r; ++s) {
        columns.push_back(static_cast<Index>(((i + s * step) % n + n) % n));
      }
      std::sort(columns.begin(), columns.end());
      append_columns(out, columns);
    }
  };
  return source;
}

}  // namespace

Source window(const Place& place, std::uint64_t r, std::uint64_t step, bool ring) {
  const Offset most = std::max({place.n_rows, place.n_cols, Offset{1}});
  const Offset radius = capped(r, most);
  if (ring) {
    const std::uint64_t n = static_cast<std::uint64_t>(std::max<Offset>(place.n_cols, 1));
    return ring_window(place, radius, static_cast<Offset>(step % n));
  }
  const Offset n = place.n_cols;
  const Offset stride = capped(step, most);
  Source source;
  source.edges = of(place.n_rows) * std::min(of(n), 2 * of(radius) + 1);
  if (stride == 1) {
    source.runs = of(place.n_rows);
    source.row = [=](Offset i, RunList& out) { append_cut(out, i - radius, i + radius + 1, n); };
    return source;
  }
  source.edges = std::min(source.edges, of(place.n_rows) * (of(n) / of(stride) + 1));
  source.runs = source.edges;
  source.row = [=](Offset i, RunList& out) {
    const Offset first = -std::min(radius, i / stride);
    const Offset last = std::min(radius, floor_div(n - 1 - i, stride));
    for (Offset s = first; s <= last; ++s) append_one(out, i + s * stride);
  };
  return source;
}

Source overlap(const Place& place, std::uint64_t b, std::uint64_t s) {
  const Offset most = std::max({place.n_rows, place.n_cols, Offset{1}});
  const Offset n = place.n_cols;
  const Offset size = capped(b, most);
  const Offset step = capped(s, most);
  Source source;
  source.runs = of(place.n_rows);
  source.edges = of(place.n_rows) * std::min(of(n), 2 * of(size));
  source.row = [=](Offset i, RunList& out) {
    // The blocks t step .. t step + size - 1 that hold i follow each other and all hold i: one run.
    const Offset last = i / step;
    const Offset first = std::max<Offset>(0, floor_div(i - size, step) + 1);
    if (first <= last) append_cut(out, first * step, last * step + size, n);
  };
  return source;
}

Source full(const Place& place) {
  Source source;
  source.runs = of(place.n_rows);
  source.edges = of(place.n_rows) * of(place.n_cols);
  source.row = [n = place.n_cols](Offset, RunList& out) { append_cut(out, 0, n, n); };
  return source;
}

Source causal(const Place& place) {
  Source source = full(place);
  source.row = [n = place.n_cols, shift = place.n_cols - place.n_rows](Offset i, RunList& out) {
    append_cut(out, 0, i + shift + 1, n);
  };
  return source;
}

Source global(const Place& place, std::vector<Index> ids) {
  RunList columns;
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const Index id : ids) {
    if (id < place.n_cols) append_run(columns, {id, id + 1});
  }
  Source source;
  const double tokens = static_cast<double>(ids.size());
  source.runs = of(place.n_rows) * static_cast<double>(columns.size()) + tokens;
  source.edges = tokens * (of(place.n_rows) + of(place.n_cols));
  source.row = [n = place.n_cols, ids = std::move(ids), columns = std::move(columns)](Offset i,
                                                                                      RunList& out) {
    if (std::binary_search(ids.begin(), ids.end(), static_cast<Index>(i))) {
      append_cut(out, 0, n, n);
    } else {
      out.insert(out.end(), columns.begin(), columns.end());
    }
  };
  return source;
}

Source strided(const Place& place, std::uint64_t s) {
  const Offset n = place.n_cols;
  const Offset step = capped(s, std::max({place.n_rows, n, Offset{1}}));
  Source source;
  source.runs = of(place.n_rows) * (of(n) / of(step) + 1);
  source.edges = of(place.n_rows) * std::min(of(n), of(n) / of(step) + 2 * of(step));
  if (step == 1) source.runs = of(place.n_rows);
  source.row = [=](Offset i, RunList& out) {
    if (step == 1) {
      append_cut(out, 0, n, n);
      return;
    }
    const Offset before = std::min(i - step, n - 1);  // multiples up to here stand alone
    for (Offset j = i % step; j <= before; j += step) append_one(out, j);
    append_cut(out, i - step + 1, i + step, n);
    for (Offset j = i + step; j < n; j += step) append_one(out, j);
  };
  return source;
}

Source logsparse(const Place& place) {
  const Offset n = place.n_cols;
  const Offset most = std::max(place.n_rows, n);
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(most)));
  Source source;
  source.edges = of(place.n_rows) * (2.0 * bits + 1);
  source.runs = source.edges;
  source.row = [=](Offset i, RunList& out) {
    for (int b = bits; b-- > 0;) {
      const Offset j = i - (Offset{1} << b);
      if (j >= 0 && j < n) append_one(out, j);
    }
    if (i < n) append_one(out, i);
    for (int b = 0; b < bits; ++b) {
      const Offset j = i + (Offset{1} << b);
      if (j < n) append_one(out, j);
    }
  };
  return source;
}

namespace {

// h * w when it is n, else an error with both.
void want_area(const Place& place, std::string_view name, std::uint64_t h, std::uint64_t w) {
  place.want_square(name);
  const bool small =
      h <= static_cast<std::uint64_t>(kMaxVertices) && w <= static_cast<std::uint64_t>(kMaxVertices);
  if (!small || h * w != static_cast<std::uint64_t>(place.n_rows)) {
    place.fail(fmt::format("{}: h * w = {} * {}{} does not fit n = {}", name, h, w,
                           small ? fmt::format(" = {}", h * w) : "", place.n_rows));
  }
}

}  // namespace

Source axial(const Place& place, std::uint64_t h, std::uint64_t w) {
  want_area(place, "axial", h, w);
  const Offset n = place.n_cols;
  const auto width = static_cast<Offset>(w);
  Source source;
  source.runs = of(n) * static_cast<double>(h);
  source.edges = of(n) * static_cast<double>(h + w);
  source.row = [=](Offset i, RunList& out) {
    const Offset y = i / width;
    for (Offset j = i % width; j < n; j += width) {
      if (j / width == y) {
        append_cut(out, y * width, (y + 1) * width, n);
      } else {
        append_one(out, j);
      }
    }
  };
  return source;
}

Source grid(const Place& place, std::uint64_t h, std::uint64_t w, std::uint64_t r) {
  want_area(place, "grid", h, w);
  const Offset n = place.n_cols;
  const auto height = static_cast<Offset>(h);
  const auto width = static_cast<Offset>(w);
  const Offset radius = capped(r, std::max<Offset>(n, 1));
  Source source;
  const double tall = std::min(of(height), 2 * of(radius) + 1);
  const double wide = std::min(of(width), 2 * of(radius) + 1);
  source.runs = of(n) * tall;
  source.edges = source.runs * wide;
  source.row = [=](Offset i, RunList& out) {
    const Offset y = i / width;
    const Offset x = i % width;
    const Offset left = std::max<Offset>(0, x - radius);
    const Offset right = std::min(width, x + radius + 1);
    for (Offset v = std::max<Offset>(0, y - radius); v < std::min(height, y + radius + 1); ++v) {
      append_cut(out, v * width + left, v * width + right, n);
    }
  };
  return source;
}

}  // namespace manyhop::patterns
