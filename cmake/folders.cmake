# rv_library(name folder): a static library of all .cc files directly in `folder`.
function(rv_library name folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cc)
  if(sources)
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC rv_options)
  else()
    add_library(${name} INTERFACE)  # a room still empty
  endif()
endfunction()

# rv_unit_test(name libraries...): GoogleTest binary of tests/unit/<name>/*.cc, each test known to CTest.
function(rv_unit_test name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/unit/${name}/*.cc)
  if(sources)
    add_executable(unit_${name} ${sources})
    target_link_libraries(unit_${name} PRIVATE ${ARGN} GTest::gtest_main)
    gtest_discover_tests(unit_${name} TEST_PREFIX "${name}." DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 120)
  endif()
endfunction()

# rv_link(name libraries...): what `name` may include and needs.
function(rv_link name)
  get_target_property(type ${name} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    target_link_libraries(${name} INTERFACE ${ARGN})
  else()
    target_link_libraries(${name} PUBLIC ${ARGN})
  endif()
endfunction()
