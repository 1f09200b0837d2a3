# cmake --install: headers under include/manyhop, static libraries, the program, and find_package(Manyhop).
include(CMakePackageConfigHelpers)

foreach(folder graphs ops engine)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/manyhop
          FILES_MATCHING PATTERN "*.hpp" PATTERN "*-inl.hpp" EXCLUDE PATTERN "*_internal.hpp" EXCLUDE
          PATTERN "tile_units.hpp" EXCLUDE
          PATTERN "cli" EXCLUDE PATTERN "python" EXCLUDE)
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/engine/manyhop.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/manyhop)

install(TARGETS manyhop manyhop_engine manyhop_ops manyhop_graphs EXPORT ManyhopTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET manyhop_cli)
  install(TARGETS manyhop_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Manyhop)
install(EXPORT ManyhopTargets NAMESPACE Manyhop:: DESTINATION ${package})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/ManyhopConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/ManyhopConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ManyhopConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ManyhopConfig.cmake ${PROJECT_BINARY_DIR}/ManyhopConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/cmake/Findlibzip.cmake DESTINATION ${package})
