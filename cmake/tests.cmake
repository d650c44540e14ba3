# One executable per room from tests/<room>/*_test.cpp, all with tests/support. The test's sentence
# is its name in ctest.
include(GoogleTest)
find_package(GTest REQUIRED)
find_package(rapidcheck REQUIRED)
file(GLOB support CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/support/*.cpp)
add_library(pith_test_support INTERFACE)
if(support)
  add_library(pith_test_support_objects STATIC ${support})
  target_include_directories(pith_test_support_objects PUBLIC ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(pith_test_support_objects PUBLIC pith_apps pith_flags GTest::gtest)
  target_link_libraries(pith_test_support INTERFACE pith_test_support_objects)
endif()
target_include_directories(pith_test_support INTERFACE ${PROJECT_SOURCE_DIR}/tests)
target_link_libraries(pith_test_support INTERFACE pith_apps pith_flags GTest::gmock_main
                                                   rapidcheck)

# Files of ../shared/data or $PITH_DATA are used where they are; tests that need them skip without.
set(PITH_TEST_DATA "${PROJECT_SOURCE_DIR}/../shared/data" CACHE PATH "test data that is not part of the repository")
target_compile_definitions(pith_test_support INTERFACE PITH_TEST_DATA="${PITH_TEST_DATA}")
if(support)
  target_compile_definitions(pith_test_support_objects PRIVATE PITH_TEST_DATA="${PITH_TEST_DATA}")
endif()

file(GLOB rooms RELATIVE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/tests/*)
foreach(room ${rooms})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${room}/*_test.cpp)
  if(sources)
    add_executable(${room}_tests ${sources})
    target_link_libraries(${room}_tests PRIVATE pith_test_support)
    gtest_discover_tests(${room}_tests PROPERTIES LABELS ${room} DISCOVERY_MODE PRE_TEST
                         DISCOVERY_TIMEOUT 60)
  endif()
  file(GLOB scripts CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${room}/*_test.sh)
  foreach(script ${scripts})
    get_filename_component(name ${script} NAME_WE)
    add_test(NAME ${room}.${name} COMMAND ${script} $<TARGET_FILE:pith> ${PROJECT_BINARY_DIR}
             WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${room}.${name} PROPERTIES LABELS ${room} SKIP_RETURN_CODE 77)
  endforeach()
endforeach()
add_test(NAME layers COMMAND python3 tools/check_layers.py WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
