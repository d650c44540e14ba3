# pith-train, the trainer, on libtorch and sentencepiece: Debian's, or the libtorch of an installed
# PyTorch with CMAKE_PREFIX_PATH=$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)').
# Nothing else links it. PITH_TRAIN=AUTO leaves it out where one of them is missing, or where the
# build has sanitizers, which libtorch does not survive.
set(PITH_HAS_TRAIN OFF)
if(PITH_TRAIN STREQUAL "AUTO" AND PITH_SANITIZE)
  return()
endif()
if(NOT PITH_TRAIN)
  return()
endif()
find_package(Torch QUIET)
pkg_check_modules(SENTENCEPIECE IMPORTED_TARGET sentencepiece)
if(NOT Torch_FOUND OR NOT SENTENCEPIECE_FOUND)
  if(PITH_TRAIN STREQUAL "AUTO")
    message(STATUS "pith-train is left out: needs libtorch-dev and libsentencepiece-dev")
    return()
  endif()
  message(FATAL_ERROR "PITH_TRAIN needs libtorch and sentencepiece: apt install libtorch-dev "
                      "libsentencepiece-dev, or point CMAKE_PREFIX_PATH at another libtorch")
endif()
set(PITH_HAS_TRAIN ON)

pith_room(train ROOMS calibrate convert LIBRARIES ${CMAKE_DL_LIBS}
          HEADERS nlohmann_json::nlohmann_json)
get_target_property(sources pith_train SOURCES)
list(FILTER sources EXCLUDE REGEX "/subwords\\.cpp$")
set_target_properties(pith_train PROPERTIES SOURCES "${sources}")
# Their headers are not held to our warnings.
target_include_directories(pith_train SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS})
target_link_libraries(pith_train PRIVATE ${TORCH_LIBRARIES})
if(TORCH_CXX_FLAGS)
  separate_arguments(torch_flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")
  target_compile_options(pith_train PRIVATE ${torch_flags})
endif()
# These only call libtorch, whose headers take long enough without optimisation.
foreach(source attention distiller learner network spans student workers)
  set_source_files_properties(src/train/${source}.cpp PROPERTIES COMPILE_OPTIONS -O1)
endforeach()

add_executable(pith-train src/train_main.cpp)
target_link_libraries(pith-train PRIVATE pith_train pith_apps pith_flags)

# libtorch and sentencepiece cannot be in one process (src/train/subwords.h).
add_executable(pith-train-vocabulary src/train_vocabulary_main.cpp src/train/subwords.cpp)
target_link_libraries(pith-train-vocabulary PRIVATE pith_convert PkgConfig::SENTENCEPIECE)
add_dependencies(pith-train pith-train-vocabulary)

# Tests that look into the network include libtorch, too; the others do not know of it.
function(pith_train_tests)
  target_include_directories(train_tests SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS})
  add_dependencies(train_tests pith-train-vocabulary)
endfunction()
