#pragma once

#include <cstddef>

namespace manyhop {

/// Half of the machine's memory, which limits are where none is given; 8 GiB where the system does not tell.
std::size_t half_of_memory();

}  // namespace manyhop
