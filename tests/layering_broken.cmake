# Breaks each layer in a copy of the tree and checks that layering.cmake refuses it.
cmake_minimum_required(VERSION 3.25)
set(breaks
    "graphs/graph.cpp|manyhop/ops/context.hpp" "graphs/graph.hpp|manyhop/engine/plan.hpp"
    "ops/context.cpp|manyhop/engine/plan.hpp" "ops/context.cpp|tbb/parallel_for.h" "graphs/graph.hpp|fmt/format.h"
    "graphs/graph.cpp|boost/config.hpp" "engine/version.cpp|Eigen/Core" "graphs/runs.cpp|hwy/highway.h"
    "engine/version.cpp|CLI/CLI.hpp" "engine/version.cpp|nlohmann/json.hpp" "engine/version.cpp|iostream")
foreach(item IN LISTS breaks)
  string(REPLACE "|" ";" item "${item}")
  list(GET item 0 file)
  list(GET item 1 include)
  file(REMOVE_RECURSE ${SCRATCH})
  file(COPY ${ROOT}/graphs ${ROOT}/ops ${ROOT}/engine DESTINATION ${SCRATCH})
  file(APPEND ${SCRATCH}/${file} "#include <${include}>\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${SCRATCH} -P ${CMAKE_CURRENT_LIST_DIR}/layering.cmake
                  RESULT_VARIABLE result ERROR_VARIABLE text OUTPUT_QUIET)
  if(result EQUAL 0 OR NOT text MATCHES "${file}")
    message(FATAL_ERROR "${file} including ${include} was not refused: ${text}")
  endif()
endforeach()
file(REMOVE_RECURSE ${SCRATCH})
