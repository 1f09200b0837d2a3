// Lines and tokens of a text file that is already in memory. Every failure names the file and the line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "manyhop/graphs/base/types.hpp"

namespace manyhop {

/// A token as a message may show it: quoted, printable, at most 24 characters.
std::string shown(std::string_view token);

/// Appends the shortest text that reads back as the same value.
void append_number(std::string& text, Offset value);
void append_number(std::string& text, double value);

class LineReader {
 public:
  /// `name` is what messages call the file; a byte order mark is skipped. Throws FileError when bytes is
  /// empty.
  LineReader(std::string_view bytes, const std::string& name);

  /// The next line, if any. LF or CRLF; a final line end is optional.
  bool next_line();
  /// The next line that is not blank and does not begin with one of `comments`.
  bool next_content(std::string_view comments);
  /// The next token of this line (blanks and tabs separate), or empty at its end.
  std::string_view next_token();
  /// First character of this line that is not blank, or 0.
  char first() const;

  /// Tokens as numbers; `what` names the field in messages.
  Offset integer(std::string_view token, std::string_view what, Offset low, Offset high) const;
  /// A finite double. Values below the smallest double round as the system rounds them.
  double number(std::string_view token, std::string_view what) const;
  /// A whole number that a double holds exactly.
  double whole(std::string_view token, std::string_view what) const;
  /// The next token, which must be there.
  std::string_view want_token(std::string_view what);
  /// Refuses tokens after the last field.
  void want_end(std::string_view after);

  Offset line() const { return line_; }
  std::size_t bytes_left() const { return bytes_.size() - position_; }
  [[noreturn]] void fail(const std::string& message) const { fail_at(line_, message); }
  [[noreturn]] void fail_at(Offset line, const std::string& message) const;

 private:
  std::string_view bytes_;
  const std::string& name_;
  std::size_t position_ = 0;
  std::string_view rest_;
  Offset line_ = 0;
};

}  // namespace manyhop
