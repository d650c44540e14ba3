# Kernel tables: each src/kernels/target_<isa>.cpp is compiled with its own flags.
set(PITH_TARGETS scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND PITH_TARGETS avx2 avx512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  list(APPEND PITH_TARGETS neon)
endif()
set(PITH_FLAGS_scalar -O2 -fno-tree-vectorize)
set(PITH_FLAGS_avx2 -O3 -mavx2 -mfma -mf16c)
set(PITH_FLAGS_avx512 -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c)
set(PITH_FLAGS_neon -O3)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # g++ 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
  list(APPEND PITH_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
# Under sanitizers all tables lose optimisation. The vector tables keep the address checks; the scalar
# one, built from the same sources, has those of undefined behaviour too, but for the checks of every
# pointer, with which it takes minutes to compile.
if(PITH_SANITIZE)
  foreach(isa scalar avx2 avx512 neon)
    string(REGEX REPLACE "-O[23]" "-O1" PITH_FLAGS_${isa} "${PITH_FLAGS_${isa}}")
  endforeach()
  foreach(isa avx2 avx512 neon)
    list(APPEND PITH_FLAGS_${isa} -fno-sanitize=undefined)
  endforeach()
  list(APPEND PITH_FLAGS_scalar
       -fno-sanitize=null,alignment,object-size,pointer-overflow,vptr,return)
endif()
foreach(isa ${PITH_TARGETS})
  set(source ${PROJECT_SOURCE_DIR}/src/kernels/target_${isa}.cpp)
  if(EXISTS ${source})
    target_sources(pith_kernels PRIVATE ${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                                "${PITH_FLAGS_${isa}};-ffp-contract=off;-fno-math-errno;-fno-exceptions")
  endif()
endforeach()
