# One executable per folder of tests/ from its *_test.cpp. It links the rooms and the files of
# tests/support that its sources include, so a change rebuilds only the tests it can break. The
# test's sentence is its name in ctest.
include(GoogleTest)
find_package(GTest REQUIRED)
find_package(rapidcheck REQUIRED)

# Files of ../shared/data or $PITH_DATA are used where they are; tests that need them skip without.
set(PITH_TEST_DATA "${PROJECT_SOURCE_DIR}/../shared/data" CACHE PATH
    "test data that is not part of the repository")

# Sets ${rooms} and ${support} to the names after #include "<room>/ and #include "support/ in the
# sources, followed through tests/support.
function(pith_included sources rooms support)
  set(todo ${sources})
  set(found_rooms "")
  set(found_support "")
  while(todo)
    list(POP_FRONT todo source)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    file(STRINGS ${source} lines REGEX "^#include \"[a-z_0-9]+/[a-z_0-9]+")
    foreach(line ${lines})
      string(REGEX MATCH "\"([a-z_0-9]+)/([a-z_0-9]+)" _ "${line}")
      if(CMAKE_MATCH_1 STREQUAL support)
        if(NOT CMAKE_MATCH_2 IN_LIST found_support)
          list(APPEND found_support ${CMAKE_MATCH_2})
          foreach(ending h cpp)
            if(EXISTS ${PROJECT_SOURCE_DIR}/tests/support/${CMAKE_MATCH_2}.${ending})
              list(APPEND todo ${PROJECT_SOURCE_DIR}/tests/support/${CMAKE_MATCH_2}.${ending})
            endif()
          endforeach()
        endif()
      elseif(TARGET pith_${CMAKE_MATCH_1})
        list(APPEND found_rooms pith_${CMAKE_MATCH_1})
        if(CMAKE_MATCH_1 MATCHES "^(policy|runtime|calibrate)$")
          list(APPEND found_rooms pith_methods)  # methods register themselves
        endif()
      endif()
    endforeach()
  endwhile()
  list(REMOVE_DUPLICATES found_rooms)
  set(${rooms} ${found_rooms} PARENT_SCOPE)
  set(${support} ${found_support} PARENT_SCOPE)
endfunction()

# Tests are compiled more often than they are waited for. What computes in them, oracles and toy
# models, is in tests/support; kernels and backends are held against loops of their own.
add_library(pith_test_flags INTERFACE)
target_compile_options(pith_test_flags INTERFACE -O1)
add_library(pith_plain_test_flags INTERFACE)
target_compile_options(pith_plain_test_flags INTERFACE -O0)

file(GLOB support_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/support/*.cpp)
list(REMOVE_ITEM support_sources ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
add_library(pith_tests_main STATIC ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
target_link_libraries(pith_tests_main PRIVATE pith_flags pith_plain_test_flags PUBLIC GTest::gmock)
foreach(source ${support_sources})
  get_filename_component(name ${source} NAME_WE)
  pith_included(${source} linked _)
  add_library(pith_support_${name} STATIC ${source})
  target_include_directories(pith_support_${name} PUBLIC ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(pith_support_${name} PUBLIC pith_flags ${linked} GTest::gtest
                        PRIVATE pith_test_flags)
  target_compile_definitions(pith_support_${name} PRIVATE PITH_TEST_DATA="${PITH_TEST_DATA}")
endforeach()

file(GLOB folders RELATIVE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/tests/*)
foreach(folder ${folders})
  # The trainer's tests exist where the trainer does; elsewhere one test says so by being skipped.
  if(folder STREQUAL train AND NOT PITH_HAS_TRAIN)
    add_test(NAME train.NeedsLibtorchAndSentencepiece COMMAND ${CMAKE_COMMAND} -E false)
    set_tests_properties(train.NeedsLibtorchAndSentencepiece
                         PROPERTIES LABELS train SKIP_RETURN_CODE 1)
    continue()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${folder}/*_test.cpp)
  if(sources)
    pith_included("${sources}" linked support)
    set(helpers "")
    foreach(name ${support})
      if(TARGET pith_support_${name})
        list(APPEND helpers pith_support_${name})
      endif()
    endforeach()
    set(flags pith_plain_test_flags)
    if(folder MATCHES "^(kernels|backend|tensor)$")
      set(flags pith_test_flags)
    endif()
    add_executable(${folder}_tests ${sources})
    target_include_directories(${folder}_tests PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_link_libraries(${folder}_tests PRIVATE pith_flags ${flags} ${helpers} ${linked}
                                                  pith_tests_main rapidcheck)
    if(NOT folder STREQUAL kv)
      pith_together(${folder}_tests ${folder})
    endif()
    target_compile_definitions(${folder}_tests PRIVATE PITH_TEST_DATA="${PITH_TEST_DATA}")
    gtest_discover_tests(${folder}_tests PROPERTIES LABELS ${folder}
                         DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60)
  endif()
  file(GLOB scripts CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${folder}/*_test.sh)
  foreach(script ${scripts})
    get_filename_component(name ${script} NAME_WE)
    add_test(NAME ${folder}.${name} COMMAND ${script} $<TARGET_FILE:pith> ${PROJECT_BINARY_DIR}
             WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    # *_slow_test.sh: left out with `ctest -LE slow`.
    set(labels ${folder})
    if(name MATCHES "_slow_test$")
      list(APPEND labels slow)
    endif()
    set_tests_properties(${folder}.${name} PROPERTIES LABELS "${labels}" SKIP_RETURN_CODE 77)
  endforeach()
endforeach()
add_test(NAME layers COMMAND python3 tools/check_layers.py WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
