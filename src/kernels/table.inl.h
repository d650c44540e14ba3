// Assembles the kernels of PITH_TARGET into PITH_TABLE. Included once per target_*.cpp, which name
// both, PITH_NAME and the vector headers PITH_VEC
// and PITH_CODES. Everything but the table stays in an anonymous
// namespace.
#include "kernels/attend_int16.inl.h"
#include "kernels/codes.inl.h"
#include "kernels/elementwise.inl.h"
#include "kernels/matmul.inl.h"
#include "kernels/pages.inl.h"
#include "kernels/table.h"

namespace pith {

extern const KernelTable PITH_TABLE;
constexpr KernelTable PITH_TABLE = [] {
  KernelTable t{};
  t.name = PITH_NAME;
  t.matmul_scratch = PITH_TARGET::matmul_scratch;
  t.matmul = PITH_TARGET::matmul;
  t.codes_halves = PITH_TARGET::kCodesHalves;
  t.coded_bytes = PITH_TARGET::coded_bytes;
  t.code_activations = PITH_TARGET::code_activations;
  t.coded_scratch = PITH_TARGET::coded_scratch;
  t.matmul_coded = PITH_TARGET::matmul_coded;
  t.dequantise = PITH_TARGET::dequantise;
  t.rms_norm = PITH_TARGET::rms_norm;
  t.layer_norm = PITH_TARGET::layer_norm;
  t.rotate = PITH_TARGET::rotate;
  t.silu_mul = PITH_TARGET::silu_mul;
  t.gelu_mul = PITH_TARGET::gelu_mul;
  t.gelu = PITH_TARGET::gelu;
  t.add = PITH_TARGET::add;
  t.dot = PITH_TARGET::dot;
  t.exp_minus_max = PITH_TARGET::exp_minus_max;
  t.max = PITH_TARGET::max_of;
  t.softcap = PITH_TARGET::softcap;
  t.tile_scratch = PITH_TARGET::tile_scratch;
  t.attend_tile = PITH_TARGET::attend_tile;
  t.tile_mass = PITH_TARGET::tile_mass;
  for (int i = 0; i < kQuantCount; ++i) t.page[i] = PITH_TARGET::kPages.page[i];
  return t;
}();

}  // namespace pith
