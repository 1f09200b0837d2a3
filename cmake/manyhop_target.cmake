# Settings shared by every target of the tree.
function(manyhop_target target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  if(PROJECT_IS_TOP_LEVEL)
    target_compile_options(
      ${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
                        -Wold-style-cast -Wnon-virtual-dtor -Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall
                        -Werror=all-warnings>)
  endif()
  if(MANYHOP_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=${MANYHOP_SANITIZE} -fno-omit-frame-pointer
                                            -fno-sanitize-recover=all)
    # GCC sees array bounds that are not there in what it has instrumented; plain builds of both compilers keep the rule.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-error>)
    target_link_options(${target} PUBLIC -fsanitize=${MANYHOP_SANITIZE})
  endif()
  # One rounding for a formula on every machine: no contraction behind the writer's back; kernels ask for FMA by name.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
endfunction()

# Headers that most sources of a target read and that take longest. Where compiling is slow anyway: a precompiled header
# keeps a compiler cache from serving other checkouts.
function(manyhop_precompile target)
  if(MANYHOP_SANITIZE)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()
