#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "convert/convert.h"
#include "gguf/gguf.h"
#include "support/hf_folder.h"
#include "tensor/codec.h"

namespace pith::test {
namespace {

using ::testing::HasSubstr;

// Wide enough for blocks of 256 in every matrix.
TinyModel wide_model() {
  TinyModel model = tiny_model("qwen2");
  model.width = model.ffn_width = 256;
  model.dim = 64;
  model.layers = 1;
  return model;
}

std::vector<float> values_of(const GgufTensor& t) {
  std::vector<float> out(static_cast<size_t>(t.elements()));
  for (int64_t r = 0; r < t.rows(); ++r)
    decode_row(t.dtype, t.data.data() + static_cast<size_t>(r) * row_bytes(t.dtype, t.dims[0]),
               t.dims[0], &out[static_cast<size_t>(r * t.dims[0])]);
  return out;
}

double relative_error(const std::vector<float>& was, const std::vector<float>& is) {
  double error = 0, size = 0;
  for (size_t i = 0; i < was.size(); ++i) {
    error += std::pow(was[i] - is[i], 2);
    size += std::pow(was[i], 2);
  }
  return std::sqrt(error / size);
}

struct Bound {
  DType dtype;
  double error;  // of normally distributed weights, root mean square
};
class EveryFormat : public ::testing::TestWithParam<Bound> {};

// Half a step of a format with 2^bits levels over about 4 to 6 deviations, and some room.
INSTANTIATE_TEST_SUITE_P(Format, EveryFormat,
                         ::testing::Values(Bound{DType::f16, 4e-4}, Bound{DType::bf16, 3e-3},
                                           Bound{DType::q8_0, 8e-3}, Bound{DType::q4_0, 0.11},
                                           Bound{DType::q4_k, 0.09}, Bound{DType::q6_k, 0.025}),
                         [](const auto& i) { return std::string(traits(i.param.dtype).name); });

TEST_P(EveryFormat, CodesMatricesWithinItsErrorAndLeavesTheRestAlone) {
  const auto [dtype, bound] = GetParam();
  const std::string in = write_tiny_model(wide_model()), out = fresh_folder() + "out.gguf";
  const QuantizeReport report = quantize(in, out, dtype);
  const auto was = GgufFile::open(in), is = GgufFile::open(out);
  ASSERT_EQ(was->tensors().size(), is->tensors().size());
  EXPECT_EQ(report.tensors, static_cast<int>(was->tensors().size()));
  EXPECT_EQ(report.fallbacks, 0);
  uint64_t before = 0, after = 0;
  for (size_t i = 0; i < was->tensors().size(); ++i) {
    const GgufTensor &a = was->tensors()[i], &b = is->tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.dims, b.dims);
    EXPECT_EQ(b.dtype, a.dims.size() > 1 ? dtype : DType::f32) << a.name;
    if (a.dims.size() > 1)
      EXPECT_LT(relative_error(values_of(a), values_of(b)), bound) << a.name;
    else
      EXPECT_EQ(values_of(a), values_of(b)) << a.name;
    before += a.data.size();
    after += b.data.size();
  }
  EXPECT_EQ(report.bytes_before, before);
  EXPECT_EQ(report.bytes_after, after);
  for (const GgufEntry& entry : was->entries()) EXPECT_TRUE(is->has(entry.key)) << entry.key;
  EXPECT_EQ(is->texts("tokenizer.ggml.tokens"), was->texts("tokenizer.ggml.tokens"));
  EXPECT_EQ(is->number("qwen2.rope.freq_base"), was->number("qwen2.rope.freq_base"));
  EXPECT_TRUE(is->has("general.file_type"));
}

TEST(Quantize, FallsBackToF16WhereBlocksDoNotDivideARowAndSaysSo) {
  TinyModel model = wide_model();
  model.ffn_width = 320;  // rows of ffn_down: ten blocks of 32, but not blocks of 256
  const std::string in = write_tiny_model(model), out = fresh_folder() + "out.gguf";
  EXPECT_EQ(quantize(in, out, DType::q8_0).fallbacks, 0);
  EXPECT_EQ(quantize(in, out, DType::q4_k).fallbacks, 1);
  const auto file = GgufFile::open(out);
  EXPECT_EQ(file->tensor("blk.0.ffn_down.weight").dtype, DType::f16);
  EXPECT_EQ(file->tensor("blk.0.ffn_up.weight").dtype, DType::q4_k);
  EXPECT_EQ(file->texts("pith.quantize.fallbacks"),
            std::vector<std::string_view>{"blk.0.ffn_down.weight"});
}

TEST(Quantize, CopiesMatricesThatAlreadyHaveTheFormat) {
  const std::string in = write_tiny_model(wide_model()), folder = fresh_folder();
  quantize(in, folder + "once.gguf", DType::q4_0);
  quantize(folder + "once.gguf", folder + "twice.gguf", DType::q4_0);
  EXPECT_EQ(read_file(folder + "once.gguf"), read_file(folder + "twice.gguf"));
}

TEST(Quantize, MayReplaceTheFileItReads) {
  const std::string in = write_tiny_model(wide_model()), other = fresh_folder() + "other.gguf";
  quantize(in, other, DType::q8_0);
  quantize(in, in, DType::q8_0);
  EXPECT_EQ(read_file(in), read_file(other));
}

struct Warnings final : Monitor {
  void warn(std::string_view sentence) override { sentences.emplace_back(sentence); }
  std::vector<std::string> sentences;
};

TEST(Quantize, WarnsWhenItCodesWhatWasCodedBefore) {
  const std::string in = write_tiny_model(wide_model()), folder = fresh_folder();
  Warnings warnings;
  quantize(in, folder + "q8.gguf", DType::q8_0, warnings);
  quantize(folder + "q8.gguf", folder + "f16.gguf", DType::f16, warnings);
  EXPECT_TRUE(warnings.sentences.empty());
  quantize(folder + "q8.gguf", folder + "q4.gguf", DType::q4_0, warnings);
  ASSERT_EQ(warnings.sentences.size(), 1u);
  EXPECT_THAT(warnings.sentences[0], HasSubstr("quantised already"));
}

TEST(Quantize, RefusesWeightsThatAreNotFiniteByTheNameOfTheirTensor) {
  for (const char* name : {"blk.0.attn_k.weight", "blk.0.attn_k.bias"}) {
    const std::string in = write_tiny_model(wide_model()), folder = fresh_folder();
    std::string bytes = read_file(in);
    const auto file = GgufFile::open(in);
    const auto offset = file->tensor(name).data.data() - file->tensors()[0].data.data();
    const size_t start =
        bytes.size() - (file->tensors().back().data.data() + file->tensors().back().data.size() -
                        file->tensors()[0].data.data());
    const float bad = INFINITY;
    std::memcpy(bytes.data() + start + static_cast<size_t>(offset) + 40, &bad, sizeof bad);
    write_file(folder + "in.gguf", bytes);
    try {
      quantize(folder + "in.gguf", folder + "out.gguf", DType::q8_0);
      ADD_FAILURE() << name << " was coded";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::bad_file);
      EXPECT_THAT(e.what(), ::testing::AllOf(HasSubstr(name), HasSubstr("not finite")));
    }
    EXPECT_EQ(files_in(folder), std::vector<std::string>{"in.gguf"});
  }
}

TEST(Quantize, RefusesFormatsItCannotWriteAndFilesItCannotRead) {
  const std::string in = write_tiny_model(wide_model()), out = fresh_folder() + "out.gguf";
  try {
    quantize(in, out, DType::iq4_xs);
    ADD_FAILURE() << "IQ4_XS is only read";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::bad_option);
    EXPECT_THAT(e.what(), HasSubstr("IQ4_XS"));
  }
  EXPECT_THROW(quantize("/nowhere.gguf", out, DType::q8_0), Error);
  EXPECT_THROW(quantize(in, "/nowhere/out.gguf", DType::q8_0), Error);
}

}  // namespace
}  // namespace pith::test
