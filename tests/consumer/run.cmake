# cmake -DMODE=installed|subdirectory -DSOURCE= -DBUILD= -DWORK= -DCXX= -DLAUNCHER= -DBUILD_TYPE= -DCXX_FLAGS= -P run.cmake
# Builds a small project against this one and runs it: installed into a prefix, or as a subdirectory.
function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    string(JOIN " " command ${ARGN})
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

set(ENV{CCACHE_BASEDIR} ${SOURCE})
file(REMOVE_RECURSE ${WORK})
set(options -G Ninja -DCMAKE_BUILD_TYPE=${BUILD_TYPE} -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
            "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}")
if(MODE STREQUAL "installed")
  step(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
  list(APPEND options -DCMAKE_PREFIX_PATH=${WORK}/prefix)
else()
  # The wiring is what is tested here: compile fast.
  list(APPEND options -DMANYHOP_SOURCE=${SOURCE} -DMANYHOP_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0)
endif()
step(${CMAKE_COMMAND} -S ${SOURCE}/tests/consumer/${MODE} -B ${WORK}/build ${options})
step(${CMAKE_COMMAND} --build ${WORK}/build)
step(${WORK}/build/consumer)
