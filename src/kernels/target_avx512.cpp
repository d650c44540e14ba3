// Compiled with -mavx512f, bw, dq, vl and vnni. See table.h for what may be included here.
#define PITH_TARGET avx512
#define PITH_NAME "avx512"
#define PITH_TABLE kernels_avx512
#define PITH_VEC "kernels/vec_avx512.h"
#define PITH_CODES "kernels/codes_avx512.h"
#include "kernels/table.inl.h"
