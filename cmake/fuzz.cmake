# libFuzzer targets of tests/fuzz, with clang only:
#   cmake -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DPITH_FUZZ=ON -DPITH_TESTS=OFF
# Included before the rooms, because their code is instrumented too.
option(PITH_FUZZ "build the fuzz targets (clang only)" OFF)
if(PITH_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "PITH_FUZZ needs clang: add -DCMAKE_CXX_COMPILER=clang++")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.cpp)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE pith_apps pith_flags -fsanitize=fuzzer)
  endforeach()
endif()
