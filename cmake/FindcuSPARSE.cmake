# cusparse.h, from the CUDA toolkit or from NVIDIA's Python wheels (nvidia-cusparse, which CMake's FindCUDAToolkit does not
# look into): cuSPARSE_FOUND, cuSPARSE_INCLUDE_DIR. The library itself is opened at run time (ops/cuda/cusparse.cu), so
# programs start without it.
find_path(cuSPARSE_INCLUDE_DIR cusparse.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(NOT cuSPARSE_INCLUDE_DIR)
  find_program(cuSPARSE_PYTHON NAMES python3 python)
  mark_as_advanced(cuSPARSE_PYTHON)
  if(cuSPARSE_PYTHON)
    execute_process(COMMAND ${cuSPARSE_PYTHON} -c "import nvidia, os; print(';'.join(os.path.join(p, d, 'include') for p in nvidia.__path__ for d in os.listdir(p)))"
                    OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_path(cuSPARSE_INCLUDE_DIR cusparse.h HINTS ${folders} NO_DEFAULT_PATH)
  endif()
endif()
mark_as_advanced(cuSPARSE_INCLUDE_DIR)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(cuSPARSE REQUIRED_VARS cuSPARSE_INCLUDE_DIR)
