#include "manyhop/engine/version.hpp"

namespace manyhop {

std::string_view version() { return MANYHOP_VERSION; }

}  // namespace manyhop
