#pragma once

#include <string_view>

namespace manyhop {

/// "major.minor.patch" of the library.
std::string_view version();

}  // namespace manyhop
