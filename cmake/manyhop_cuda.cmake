# MANYHOP_CUDA=AUTO|ON|OFF: sets MANYHOP_HAS_CUDA. AUTO takes CUDA where a compiler is found; ON fails without one.
set(MANYHOP_CUDA AUTO CACHE STRING "CUDA backend: AUTO (where nvcc is found), ON, OFF")
set_property(CACHE MANYHOP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(MANYHOP_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "Machine code for 8.0, machine code and PTX for 9.0")
set(MANYHOP_HAS_CUDA OFF)
if(NOT MANYHOP_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "MANYHOP_CUDA: '${MANYHOP_CUDA}', AUTO, ON or OFF is wanted")
endif()
# Sanitizers and cross compilers do not know device code.
if(MANYHOP_CUDA STREQUAL "ON" OR (MANYHOP_CUDA STREQUAL "AUTO" AND NOT MANYHOP_SANITIZE AND NOT CMAKE_CROSSCOMPILING))
  set(CMAKE_CUDA_ARCHITECTURES ${MANYHOP_CUDA_ARCHITECTURES})
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(MANYHOP_HAS_CUDA ON)
    find_package(cuSPARSE QUIET)  # its header; without it hops have one way less
  elseif(MANYHOP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MANYHOP_CUDA=ON: no CUDA compiler was found; put nvcc on PATH or set CUDACXX")
  endif()
endif()

# The CUDA sources of a target. CMake 3.25 does not know C++20 for the compilers of CUDA 13, so the flag is given by hand.
function(manyhop_cuda_target target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -diag-suppress=554>)  # a view's conversion to itself
  # Named, not implied by the language: who links the installed library need not know CUDA.
  set_target_properties(${target} PROPERTIES CUDA_STANDARD_REQUIRED OFF CUDA_RUNTIME_LIBRARY None LINKER_LANGUAGE CXX)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
  if(cuSPARSE_FOUND)
    target_compile_definitions(${target} PRIVATE MANYHOP_HAS_CUSPARSE)
    target_include_directories(${target} SYSTEM PRIVATE ${cuSPARSE_INCLUDE_DIR})
  endif()
endfunction()
