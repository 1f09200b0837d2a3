# Builds for 64-bit ARM on another machine and runs what it builds under qemu's user emulation: how the NEON kernels
# are tested where there is no ARM.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)
# Debian keeps headers of all architectures together, and libraries apart.
set(CMAKE_FIND_ROOT_PATH /usr/lib/aarch64-linux-gnu /usr)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
# GCC tells that pairs of floats were passed differently before version 10.
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)
set(PKG_CONFIG_EXECUTABLE "" CACHE FILEPATH "")
