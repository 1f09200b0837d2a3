// What the arguments of an atom may be, and how messages name them and what is allowed instead.
#pragma once

#include <string>
#include <string_view>

#include "manyhop/graphs/patterns/syntax.hpp"

namespace manyhop::patterns {

/// Text of the user inside a message: one line, not too long, and ASCII (a cut may fall inside a character).
std::string shown(std::string_view text);
/// The names of all atoms, nearest first.
std::string known_names(std::string_view wrong);
std::string describe(const Value& value);
std::string wanted(const Parameter& parameter);
std::string signature(const AtomSpec& spec);

/// Whether the value will do; numbers become what the parameter takes.
bool accept(Value& value, const Parameter& parameter);

}  // namespace manyhop::patterns
