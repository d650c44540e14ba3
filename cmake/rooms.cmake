# Where PITH_UNITY is on, small files of a room or of its tests are compiled several at a time: much
# sooner for who builds once, later for who changes a file. Names that files keep to themselves must
# then differ within a room; rooms where they do not are left out.
option(PITH_UNITY "compile small files several at a time" OFF)
function(pith_together target room)
  if(PITH_UNITY AND room MATCHES "^(base|gguf|model|text|kv|policy|methods|runtime)$")
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 6)
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
      target_compile_options(${target} PRIVATE -Wno-subobject-linkage)  # of files taken for headers
    endif()
  endif()
endfunction()

# pith_room(<name> [WHOLE] [ROOMS room...] [LIBRARIES target...] [HEADERS target...])
# A library `pith_<name>` from src/<name>/*.cpp that may include the named rooms and what those
# may include. A WHOLE room is linked with all its objects, because its files register themselves
# and nothing refers to them. HEADERS are libraries of headers only that just the sources include,
# so an installed Pith does not need them.
function(pith_room name)
  cmake_parse_arguments(ROOM "WHOLE" "" "ROOMS;LIBRARIES;HEADERS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/target_[a-z0-9]+\\.cpp$")
  list(TRANSFORM ROOM_ROOMS PREPEND pith_)
  set(target pith_${name})
  if(NOT sources)
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE pith_flags ${ROOM_ROOMS} ${ROOM_LIBRARIES})
    return()
  endif()
  set(archive ${target})
  if(ROOM_WHOLE)
    set(archive ${target}_archive)
  endif()
  add_library(${archive} STATIC ${sources})
  set_target_properties(${archive} PROPERTIES OUTPUT_NAME ${target})
  pith_together(${archive} ${name})
  target_link_libraries(${archive} PUBLIC pith_flags ${ROOM_ROOMS} PRIVATE ${ROOM_LIBRARIES})
  foreach(library ${ROOM_HEADERS})
    target_link_libraries(${archive} PRIVATE $<BUILD_INTERFACE:${library}>)
  endforeach()
  if(ROOM_WHOLE)
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE $<LINK_LIBRARY:WHOLE_ARCHIVE,${archive}>)
  endif()
endfunction()
