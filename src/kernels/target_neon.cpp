// aarch64, baseline flags. See table.h for what may be included here.
#define PITH_TARGET neon
#define PITH_NAME "neon"
#define PITH_TABLE kernels_neon
#define PITH_VEC "kernels/vec_neon.h"
#define PITH_CODES "kernels/codes_neon.h"
#include "kernels/table.inl.h"
