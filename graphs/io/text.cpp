#include "manyhop/graphs/io/text.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// from_chars knows no plus sign; one is dropped when a number follows it.
std::string_view without_plus(std::string_view token) {
  if (token.size() > 1 && token[0] == '+' && (is_digit(token[1]) || token[1] == '.')) token.remove_prefix(1);
  return token;
}

template <class T>
void append_shortest(std::string& text, T value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  text.append(digits.data(), static_cast<std::size_t>(end - digits.data()));
}

}  // namespace

std::string shown(std::string_view token) {
  std::string text = "'";
  for (const char c : token.substr(0, 24)) text += c >= ' ' && c <= '~' ? c : '?';
  text += token.size() > 24 ? "...'" : "'";
  return text;
}

void append_number(std::string& text, Offset value) { append_shortest(text, value); }
void append_number(std::string& text, double value) { append_shortest(text, value); }

LineReader::LineReader(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {
  if (bytes.empty()) throw FileError(fmt::format("{}: line 1: the file is empty", name));
  if (bytes.substr(0, 3) == "\xEF\xBB\xBF") position_ = 3;
}

void LineReader::fail_at(Offset line, const std::string& message) const {
  throw FileError(fmt::format("{}: line {}: {}", name_, line, message));
}

bool LineReader::next_line() {
  if (position_ >= bytes_.size()) return false;
  const char* begin = bytes_.data() + position_;
  const std::size_t left = bytes_.size() - position_;
  const void* end = std::memchr(begin, '\n', left);
  const std::size_t length =
      end == nullptr ? left : static_cast<std::size_t>(static_cast<const char*>(end) - begin);
  rest_ = std::string_view(begin, length);
  position_ += length + (end == nullptr ? 0 : 1);
  if ((++line_ & 0xFFFF) == 0) check_stop();
  return true;
}

bool LineReader::next_content(std::string_view comments) {
  while (next_line()) {
    const char c = first();
    if (c != 0 && comments.find(c) == std::string_view::npos) return true;
  }
  return false;
}

char LineReader::first() const {
  for (const char c : rest_) {
    if (!is_blank(c)) return c == 0 ? '?' : c;
  }
  return 0;
}

std::string_view LineReader::next_token() {
  std::size_t begin = 0;
  while (begin < rest_.size() && is_blank(rest_[begin])) ++begin;
  std::size_t end = begin;
  while (end < rest_.size() && !is_blank(rest_[end])) ++end;
  const std::string_view token = rest_.substr(begin, end - begin);
  rest_.remove_prefix(end);
  return token;
}

std::string_view LineReader::want_token(std::string_view what) {
  const std::string_view token = next_token();
  if (token.empty()) fail(fmt::format("the line ends where {} is wanted", what));
  return token;
}

void LineReader::want_end(std::string_view after) {
  const std::string_view token = next_token();
  if (!token.empty()) fail(fmt::format("{} follows {}, the end of the line is wanted", shown(token), after));
}

Offset LineReader::integer(std::string_view token, std::string_view what, Offset low, Offset high) const {
  const std::string_view digits = without_plus(token);
  Offset value = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (code == std::errc::invalid_argument || end != digits.data() + digits.size()) {
    fail(fmt::format("{} {} is not an integer", what, shown(token)));
  }
  if (code != std::errc() || value < low || value > high) {
    fail(fmt::format("{} {} is outside {} .. {}", what, shown(token), low, high));
  }
  return value;
}

double LineReader::number(std::string_view token, std::string_view what) const {
  const std::string_view digits = without_plus(token);
  double value = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (code == std::errc::invalid_argument || end != digits.data() + digits.size()) {
    fail(fmt::format("{} {} is not a number", what, shown(token)));
  }
  // Out of range also means too small; strtod tells the two apart and rounds the small ones.
  if (code == std::errc::result_out_of_range) value = std::strtod(std::string(digits).c_str(), nullptr);
  if (!std::isfinite(value)) fail(fmt::format("{} {} is not a finite double", what, shown(token)));
  return value;
}

double LineReader::whole(std::string_view token, std::string_view what) const {
  const Offset value = integer(token, what, INT64_MIN, INT64_MAX);
  const auto held = static_cast<double>(value);
  // 2^63 itself is a double but no int64; everything below it converts back without overflow.
  if (held >= 0x1p63 || static_cast<Offset>(held) != value) {
    fail(fmt::format("{} {} is not held exactly by a double (beyond 2^53)", what, shown(token)));
  }
  return held;
}

}  // namespace manyhop
