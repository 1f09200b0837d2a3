# libzip::zip from header and library. Debian's own package file of libzip insists on the programs zipcmp, zipmerge and
# ziptool, which nothing here uses.
if(NOT TARGET libzip::zip)
  find_path(libzip_INCLUDE_DIR zip.h)
  find_library(libzip_LIBRARY zip)
endif()
include(FindPackageHandleStandardArgs)
if(TARGET libzip::zip)
  set(libzip_FOUND TRUE)
else()
  find_package_handle_standard_args(libzip REQUIRED_VARS libzip_LIBRARY libzip_INCLUDE_DIR)
  mark_as_advanced(libzip_LIBRARY libzip_INCLUDE_DIR)
  if(libzip_FOUND)
    add_library(libzip::zip UNKNOWN IMPORTED)
    set_target_properties(libzip::zip PROPERTIES IMPORTED_LOCATION "${libzip_LIBRARY}"
                                                 INTERFACE_INCLUDE_DIRECTORIES "${libzip_INCLUDE_DIR}")
  endif()
endif()
