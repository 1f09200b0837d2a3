#include "manyhop/graphs/patterns/arguments.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace manyhop::patterns {

namespace {

constexpr std::size_t kShownText = 40;

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t next =
          std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      diagonal = std::exchange(row[j], next);
    }
  }
  return row.back();
}

// A real that is a whole number counts as one (1e3).
void make_whole(Value& value) {
  if (value.kind != Kind::real || value.real != std::floor(value.real) || std::abs(value.real) > 0x1.0p53) {
    return;
  }
  value.kind = Kind::integer;
  value.flag = value.real < 0;
  value.magnitude = static_cast<std::uint64_t>(std::abs(value.real));
}

bool whole_from(const Value& value, std::uint64_t least) {
  return value.kind == Kind::integer && (!value.flag || value.magnitude == 0) && value.magnitude >= least;
}

}  // namespace

std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kShownText)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > kShownText) out += "...";
  return out;
}

std::string known_names(std::string_view wrong) {
  std::vector<std::string_view> names;
  for (const AtomSpec& spec : atom_table()) names.push_back(spec.name);
  const std::string_view head = wrong.substr(0, kShownText);
  std::stable_sort(names.begin(), names.end(), [&](std::string_view a, std::string_view b) {
    return edit_distance(head, a) < edit_distance(head, b);
  });
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string describe(const Value& value) {
  switch (value.kind) {
    case Kind::none:
      return "none";
    case Kind::boolean:
      return value.flag ? "true" : "false";
    case Kind::integer:
      return fmt::format("{}{}", value.flag ? "-" : "", value.magnitude);
    case Kind::real:
      return fmt::format("{}", value.real);
    case Kind::text:
      return fmt::format("the text \"{}\"", shown(value.text));
    case Kind::list:
      return "a list";
    case Kind::expression:
      return fmt::format("the pattern '{}'", shown(print(*value.expr)));
  }
  return "";
}

std::string wanted(const Parameter& parameter) {
  switch (parameter.type) {
    case Type::count:
      return fmt::format("a whole number from {}", parameter.least);
    case Type::seed:
      return "a whole number from 0";
    case Type::maybe_seed:
    case Type::maybe_count:
      return "a whole number from 0, or none";
    case Type::real:
      return "a number from 0 to 1";
    case Type::flag:
      return "true or false";
    case Type::ids:
      return "a list of whole numbers from 0, or none";
    case Type::text:
      return "a \"quoted\" path";
    case Type::expr:
      return "a pattern";
  }
  return "";
}

std::string signature(const AtomSpec& spec) {
  if (spec.parameters.empty()) return fmt::format("{} takes no arguments", spec.name);
  std::string out = fmt::format("allowed: {}(", spec.name);
  for (std::size_t p = 0; p < spec.parameters.size(); ++p) {
    out += fmt::format("{}{}{}", p > 0 ? ", " : "", spec.parameters[p].name,
                       spec.parameters[p].required ? "" : "=...");
  }
  return out + ")";
}

bool accept(Value& value, const Parameter& parameter) {
  switch (parameter.type) {
    case Type::count:
    case Type::seed:
      make_whole(value);
      return whole_from(value, parameter.least);
    case Type::maybe_seed:
    case Type::maybe_count:
      make_whole(value);
      return value.kind == Kind::none || whole_from(value, 0);
    case Type::real:
      if (value.kind == Kind::integer) {
        value.real = static_cast<double>(value.magnitude) * (value.flag ? -1 : 1);
        value.kind = Kind::real;
      }
      return value.kind == Kind::real && value.real >= 0 && value.real <= 1;
    case Type::flag:
      return value.kind == Kind::boolean;
    case Type::ids:
      if (value.kind == Kind::none) return true;
      if (value.kind != Kind::list) return false;
      for (Value& item : value.items) {
        make_whole(item);
        if (!whole_from(item, 0)) return false;
      }
      return true;
    case Type::text:
      return value.kind == Kind::text;
    case Type::expr:
      return value.kind == Kind::expression;
  }
  return false;
}

}  // namespace manyhop::patterns
