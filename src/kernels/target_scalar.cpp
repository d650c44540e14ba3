// Baseline flags, no vectors: the definition. See table.h for what may be included here.
#define PITH_TARGET scalar
#define PITH_NAME "scalar"
#define PITH_TABLE kernels_scalar
#define PITH_VEC "kernels/vec_scalar.h"
#define PITH_CODES "kernels/codes_scalar.h"
#include "kernels/table.inl.h"
