# Read by ctest after the list of tests. Interrupts are promised within a second: those tests want the machine to
# themselves.
foreach(test IN LISTS test_cli_TESTS)
  if(test MATCHES "interrupt")
    set_tests_properties("${test}" PROPERTIES RUN_SERIAL ON)
  endif()
endforeach()
