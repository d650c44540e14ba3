#include "tensor/dtype.h"

#include <cctype>

#include "base/error.h"

namespace pith {
namespace {

constexpr DTypeTraits kTraits[] = {
    {DType::f32, "F32", 1, 4},           {DType::f16, "F16", 1, 2},
    {DType::bf16, "BF16", 1, 2},         {DType::q8_0, "Q8_0", 32, 34},
    {DType::q4_0, "Q4_0", 32, 18},       {DType::q4_1, "Q4_1", 32, 20},
    {DType::q5_0, "Q5_0", 32, 22},       {DType::q5_1, "Q5_1", 32, 24},
    {DType::q2_k, "Q2_K", 256, 84},      {DType::q3_k, "Q3_K", 256, 110},
    {DType::q4_k, "Q4_K", 256, 144},     {DType::q5_k, "Q5_K", 256, 176},
    {DType::q6_k, "Q6_K", 256, 210},     {DType::iq4_nl, "IQ4_NL", 32, 18},
    {DType::iq4_xs, "IQ4_XS", 256, 136},
};

}  // namespace

bool known(uint32_t gguf_type) {
  for (const DTypeTraits& t : kTraits)
    if (static_cast<uint32_t>(t.dtype) == gguf_type) return true;
  return false;
}

const DTypeTraits& traits(DType dtype) {
  for (const DTypeTraits& t : kTraits)
    if (t.dtype == dtype) return t;
  check_failed("known dtype", __FILE__, __LINE__, "a weight format that was never checked");
}

bool parse_dtype(std::string_view name, DType& dtype) {
  for (const DTypeTraits& t : kTraits) {
    bool same = t.name.size() == name.size();
    for (size_t i = 0; same && i < name.size(); ++i)
      same = std::toupper(static_cast<unsigned char>(name[i])) == t.name[i];
    if (same) {
      dtype = t.dtype;
      return true;
    }
  }
  return false;
}

size_t row_bytes(DType dtype, int64_t elements) {
  const DTypeTraits& t = traits(dtype);
  PITH_CHECK(elements % t.block_elements == 0, "a row is a whole number of blocks");
  return static_cast<size_t>(elements / t.block_elements) * static_cast<size_t>(t.block_bytes);
}

}  // namespace pith
