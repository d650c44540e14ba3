# libFuzzer targets of tests/fuzz, with clang only. Each links the rooms that it includes.
#   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DPITH_FUZZ=ON -DPITH_TESTS=OFF
#   cmake --build build/fuzz --target gguf_fuzz && build/fuzz/gguf_fuzz -max_total_time=60 corpus/
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
    target_link_libraries(${name} PRIVATE pith_flags -fsanitize=fuzzer)
    file(STRINGS ${source} lines REGEX "^#include \"[a-z]+/")
    foreach(line ${lines})
      string(REGEX MATCH "\"([a-z]+)/" _ "${line}")
      target_link_libraries(${name} PRIVATE pith_${CMAKE_MATCH_1})
    endforeach()
  endforeach()
endif()
