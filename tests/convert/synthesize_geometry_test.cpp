#include <cmath>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

#include "base/error.h"
#include "convert/geometry.h"
#include "convert/synthesize.h"
#include "gguf/gguf.h"
#include "model/model.h"
#include "support/reference_forward.h"
#include "support/tiny_model.h"
#include "tensor/codec.h"

namespace pith {
namespace {

using ::testing::HasSubstr;

double root_mean_square(const GgufTensor& t) {
  std::vector<float> row(static_cast<size_t>(t.dims[0]));
  const size_t bytes = row_bytes(t.dtype, t.dims[0]);
  double squares = 0;
  for (int64_t r = 0; r < t.rows(); ++r) {
    decode_row(t.dtype, t.data.data() + static_cast<size_t>(r) * bytes, t.dims[0], row.data());
    for (const float v : row) squares += double{v} * v;
  }
  return std::sqrt(squares / static_cast<double>(t.elements()));
}

// Values of matrices and vectors, as their makers state them.
TEST(Geometry, HasAsManyWeightsAsTheModelItIsNamedAfter) {
  const auto weights = [](std::string_view name, uint64_t rope_divisors) {
    return geometry_weight_bytes(name, DType::f32) / 4 - rope_divisors;
  };
  EXPECT_EQ(weights("llama-3.2-1b", 32), 1235814400u);
  EXPECT_EQ(weights("llama-3.1-8b", 64), 8030261248u);
  EXPECT_EQ(weights("qwen2.5-0.5b", 0), 494032768u);
}

TEST(Geometry, GivesFiniteLogitsInEveryFormat) {
  for (const char* name : {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K",
                           "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "Q4_K_M"}) {
    SCOPED_TRACE(name);
    WeightFormat format = DType::f32;
    ASSERT_TRUE(parse_weight_format(name, format));
    const auto bytes = geometry_bytes("tiny", format);
    const auto file = GgufFile::parse(bytes, "tiny.gguf");
    for (const GgufTensor& t : file->tensors())
      if (t.dims.size() == 2) {
        EXPECT_NEAR(root_mean_square(t) * std::sqrt(static_cast<double>(t.dims[0])), 1, 0.1)
            << t.name;
      }
    test::ReferenceForward reference(file);
    std::vector<double> logits;
    for (const int32_t token : {1008, 5, 300}) logits = reference.feed(token);
    double squares = 0;
    for (const double v : logits) squares += v * v;
    const double spread = std::sqrt(squares / static_cast<double>(logits.size()));
    EXPECT_GT(spread, 0.1);
    EXPECT_LT(spread, 10);
  }
}

TEST(Geometry, LoadsAsAModelOfItsShape) {
  const auto bytes = geometry_bytes("tiny", DType::q8_0);
  const auto model = Model::load(GgufFile::parse(bytes, "tiny.gguf"));
  EXPECT_EQ(model->config().shape.layers, 4);
  EXPECT_EQ(model->config().shape.heads, 2);
  EXPECT_EQ(model->config().shape.dim, 64);
  EXPECT_EQ(model->config().vocab, 1024);
  EXPECT_EQ(model->weight_bytes(), geometry_weight_bytes("tiny", DType::q8_0));
}

TEST(Geometry, MixesFormatsAsQ4KMDoes) {
  WeightFormat format = DType::f32;
  ASSERT_TRUE(parse_weight_format("q4_k_m", format));
  const auto bytes = geometry_bytes("tiny", format);
  const auto file = GgufFile::parse(bytes, "tiny.gguf");
  EXPECT_EQ(file->tensor("token_embd.weight").dtype, DType::q6_k) << "it is the output as well";
  EXPECT_EQ(file->tensor("blk.0.attn_q.weight").dtype, DType::q4_k);
  // Four layers: an eighth is none, so every third one from the third on, and the last.
  EXPECT_EQ(file->tensor("blk.0.ffn_down.weight").dtype, DType::q4_k);
  EXPECT_EQ(file->tensor("blk.2.ffn_down.weight").dtype, DType::q6_k);
  EXPECT_EQ(file->tensor("blk.2.attn_v.weight").dtype, DType::q6_k);
  EXPECT_EQ(file->tensor("blk.2.ffn_up.weight").dtype, DType::q4_k);
  EXPECT_EQ(file->integer("general.file_type"), 15);
  EXPECT_FALSE(parse_weight_format("Q4_K_XL", format));
  // 896 is no multiple of 256: rows of Qwen2.5-0.5B fall back to blocks of 32.
  EXPECT_EQ(geometry_weight_bytes("qwen2.5-0.5b", DType::q6_k) >
                geometry_weight_bytes("qwen2.5-0.5b", DType::q5_k),
            true);
}

TEST(Geometry, IsTheSameOnDiskAndInMemoryAndDependsOnTheSeed) {
  const std::string path = test::fresh_folder() + "tiny.gguf";
  write_geometry("tiny", DType::q4_k, path, 5);
  const auto file = GgufFile::open(path);
  const auto bytes = geometry_bytes("tiny", DType::q4_k, 5);
  ASSERT_EQ(file->bytes(), bytes.size());
  const auto memory = GgufFile::parse(bytes, "tiny.gguf");
  for (const GgufTensor& t : memory->tensors())
    EXPECT_TRUE(std::ranges::equal(t.data, file->tensor(t.name).data)) << t.name;
  const auto other = geometry_bytes("tiny", DType::q4_k, 6);
  EXPECT_NE(bytes, other);
  // No two rows are alike.
  const GgufTensor& t = memory->tensor("blk.1.ffn_up.weight");
  std::set<std::string> rows;
  const size_t size = row_bytes(t.dtype, t.dims[0]);
  for (int64_t r = 0; r < t.rows(); ++r)
    rows.emplace(reinterpret_cast<const char*>(t.data.data()) + static_cast<size_t>(r) * size,
                 size);
  EXPECT_EQ(rows.size(), static_cast<size_t>(t.rows()));
}

TEST(Geometry, DividesSlowFrequenciesAsLlama3Does) {
  const auto bytes = geometry_bytes("tiny", DType::f16);
  const auto file = GgufFile::parse(bytes, "tiny.gguf");
  const auto divisors = file->floats("rope_freqs.weight", 32);
  EXPECT_EQ(divisors[0], 1);
  EXPECT_EQ(divisors[31], 8);
  EXPECT_TRUE(std::ranges::is_sorted(divisors));
}

TEST(Geometry, CarriesAByteLevelVocabularyOfTheModelsSize) {
  for (const std::string_view name : geometry_names()) {
    const Geometry geometry = find_geometry(name);
    const Vocabulary v = geometry_vocabulary(geometry);
    ASSERT_EQ(v.size(), geometry.config.vocab) << name;
    const std::set<std::string> texts(v.tokens.begin(), v.tokens.end());
    EXPECT_EQ(texts.size(), v.tokens.size()) << "every token has a text of its own";
    for (const std::string& merge : v.merges) {
      const size_t space = merge.find(' ');
      ASSERT_NE(space, std::string::npos);
      EXPECT_TRUE(texts.contains(merge.substr(0, space))) << merge;
      EXPECT_TRUE(texts.contains(merge.substr(space + 1))) << merge;
      EXPECT_TRUE(texts.contains(merge.substr(0, space) + merge.substr(space + 1))) << merge;
    }
    EXPECT_EQ(v.kinds[static_cast<size_t>(v.end)], TokenKind::control);
  }
}

TEST(Geometry, NamesTheKnownOnesWhenItIsAskedForAnother) {
  const std::string path = test::fresh_folder() + "none.gguf";
  try {
    write_geometry("gpt-5", DType::f16, path);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::bad_option);
    EXPECT_EQ(std::string(e.what()),
              "no geometry 'gpt-5'; there are llama-3.2-1b, qwen2.5-0.5b, llama-3.1-8b, tiny");
  }
  EXPECT_TRUE(std::filesystem::is_empty(std::filesystem::path(path).parent_path()));
}

TEST(Geometry, StopsWhenItIsAskedTo) {
  class Impatient final : public Monitor {
   public:
    bool stopped() const override { return true; }
  } monitor;
  const std::string path = test::fresh_folder() + "stopped.gguf";
  EXPECT_THROW(write_geometry("tiny", DType::f16, path, 1, monitor), Error);
  EXPECT_TRUE(std::filesystem::is_empty(std::filesystem::path(path).parent_path()));
}

}  // namespace
}  // namespace pith
