# Fails if a file includes what its layer must not. Run as: cmake -DROOT=<source folder> -P layering.cmake
#
#   graphs <- ops <- engine, and each third party in its one place.
cmake_minimum_required(VERSION 3.25)

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/graphs/*.hpp ${ROOT}/graphs/*.cpp ${ROOT}/ops/*.hpp ${ROOT}/ops/*.cpp
     ${ROOT}/engine/*.hpp ${ROOT}/engine/*.cpp)
list(LENGTH files count)
if(count LESS 20)
  message(FATAL_ERROR "only ${count} source files found under ${ROOT}")
endif()

# rule(<what> <files where it is allowed, a regular expression on the path> <include, a regular expression>)
set(failures "")
macro(rule what allowed include)
  if("${line}" MATCHES "${include}" AND NOT "${file}" MATCHES "${allowed}")
    string(APPEND failures "  ${file}: ${line}\n    ${what}\n")
  endif()
endmacro()

foreach(file IN LISTS files)
  file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS lines)
    rule("graphs and ops do not know engine" "^engine/" "[<\"](manyhop/|\\.\\./|\\./)*engine/")
    rule("graphs do not know ops" "^(ops|engine)/" "[<\"](manyhop/|\\.\\./|\\./)*ops/")
    rule("the one header of the package is for its users" "^engine/cli/" "manyhop/manyhop\\.hpp")
    rule("oneTBB only in graphs/base/tasks.cpp" "^graphs/base/tasks\\.cpp$" "[<\"](oneapi/)?tbb/")
    rule("Highway only in ops/cpu" "^ops/cpu/" "[<\"]hwy/")
    rule("Boost only in graphs/bgl.hpp" "^graphs/bgl\\.hpp$" "[<\"]boost/")
    rule("graphs/bgl.hpp is included by users only" "^$" "graphs/bgl\\.hpp")
    rule("Eigen and Spectra only in engine/spectral/*.cpp" "^engine/spectral/[^/]*\\.cpp$" "[<\"](Eigen|Spectra)/")
    rule("CLI11 only in engine/cli" "^engine/cli/" "[<\"]CLI/")
    rule("nanobind only in engine/python" "^engine/python/" "[<\"]nanobind/")
    rule("JSON only in graphs/io and engine/cli" "^(graphs/io|engine/cli)/" "[<\"]nlohmann/")
    rule("zip and zlib only in graphs/io" "^graphs/io/" "[<\"](zip|zlib)\\.h[>\"]")
    rule("fmt in no public header" "(\\.cpp$|_internal\\.hpp$|^ops/cpu/|^engine/cli/)" "[<\"]fmt/")
    rule("the library does not print" "^engine/cli/" "[<\"](iostream|print)[>\"]")
  endforeach()
endforeach()

if(failures)
  message(FATAL_ERROR "a layer includes what it must not:\n${failures}")
endif()
message(STATUS "${count} files keep the layers")
