#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "convert/convert.h"
#include "gguf/gguf.h"
#include "support/hf_folder.h"

namespace pith::test {
namespace {

using ::testing::HasSubstr;

template <class T>
void append(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// width 8, ffn 16, 1 layer, 1 head, 264 tokens, 4 positions. Weights count up, so that every
// value tells where it stood.
constexpr int32_t kShape[] = {8, 16, 1, 1, 1, 264, 4};
constexpr int kEmbedding = 264 * 8, kSquare = 8 * 8, kWide = 8 * 16;

std::string version_0(bool tied) {
  std::string out;
  for (int i = 0; i < 7; ++i) append(out, i == 5 && !tied ? -kShape[i] : kShape[i]);
  const int floats =
      kEmbedding + 8 + 4 * kSquare + 8 + 3 * kWide + 8 + 4 * 8 + (tied ? 0 : kEmbedding);
  for (int i = 0; i < floats; ++i) append(out, static_cast<float>(i));
  return out;
}

// Values i % 100 - 50 in groups of 8 whose scales are 0.5.
std::string version_2() {
  std::string out;
  append(out, uint32_t{0x616b3432});
  append(out, int32_t{2});
  for (const int32_t field : kShape) append(out, field);
  append(out, uint8_t{1});
  append(out, int32_t{8});
  out.resize(256);
  for (int i = 0; i < 24; ++i) append(out, static_cast<float>(i));
  for (const int count : {kEmbedding, kSquare, kSquare, kSquare, kSquare, kWide, kWide, kWide}) {
    for (int i = 0; i < count; ++i) append(out, static_cast<int8_t>(i % 100 - 50));
    for (int i = 0; i < count / 8; ++i) append(out, 0.5f);
  }
  return out;
}

std::string tokenizer(int tokens = 264) {
  std::string out;
  append(out, int32_t{6});
  for (int id = 0; id < tokens; ++id) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    std::string piece = id == 0 ? "<unk>" : id == 1 ? "\n<s>\n" : id == 2 ? "\n</s>\n" : " t";
    if (id >= 3 && id < 259)
      piece =
          std::string("<0x") + kHex[static_cast<size_t>(id - 3) / 16] + kHex[(id - 3) % 16] + ">";
    append(out, id < 259 ? 0.f : -static_cast<float>(id));
    append(out, static_cast<int32_t>(piece.size()));
    out += piece;
  }
  return out;
}

struct Converted {
  std::string sentence;  // of the error; empty: none
  std::shared_ptr<const GgufFile> file;
};

Converted convert(const std::string& checkpoint, const std::string& vocabulary = tokenizer()) {
  const std::string folder = fresh_folder();
  write_file(folder + "model.bin", checkpoint);
  write_file(folder + "tok.bin", vocabulary);
  try {
    convert_llama2c(folder + "model.bin", folder + "tok.bin", folder + "out.gguf", DType::f32);
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(folder));
    EXPECT_EQ(files_in(folder).size(), 2u);
    return {e.what(), nullptr};
  }
  return {"", GgufFile::open(folder + "out.gguf")};
}

float first_of(const GgufFile& file, const char* name) {
  float value = 0;
  std::memcpy(&value, file.tensor(name).data.data(), sizeof value);
  return value;
}

TEST(Llama2c, FindsEveryTensorOfVersion0WhereItLies) {
  const Converted tied = convert(version_0(true)), untied = convert(version_0(false));
  ASSERT_TRUE(tied.file && untied.file) << tied.sentence << untied.sentence;
  const std::pair<const char*, int> order[] = {
      {"token_embd.weight", kEmbedding}, {"blk.0.attn_norm.weight", 8},
      {"blk.0.attn_q.weight", kSquare},  {"blk.0.attn_k.weight", kSquare},
      {"blk.0.attn_v.weight", kSquare},  {"blk.0.attn_output.weight", kSquare},
      {"blk.0.ffn_norm.weight", 8},      {"blk.0.ffn_gate.weight", kWide},
      {"blk.0.ffn_down.weight", kWide},  {"blk.0.ffn_up.weight", kWide},
      {"output_norm.weight", 8}};
  int at = 0;
  for (const auto& [name, count] : order) {
    EXPECT_EQ(first_of(*tied.file, name), static_cast<float>(at)) << name;
    EXPECT_EQ(tied.file->tensor(name).elements(), count) << name;
    at += count;
  }
  EXPECT_EQ(tied.file->tensor("blk.0.ffn_down.weight").dims, (std::vector<int64_t>{16, 8}));
  EXPECT_FALSE(tied.file->has_tensor("output.weight"));
  EXPECT_EQ(first_of(*untied.file, "output.weight"), static_cast<float>(at + 4 * 8));
}

TEST(Llama2c, MultipliesGroupsOfVersion2ByTheirScales) {
  const Converted c = convert(version_2());
  ASSERT_TRUE(c.file) << c.sentence;
  EXPECT_EQ(first_of(*c.file, "blk.0.attn_norm.weight"), 0);
  EXPECT_EQ(first_of(*c.file, "blk.0.ffn_norm.weight"), 8);
  EXPECT_EQ(first_of(*c.file, "output_norm.weight"), 16);
  for (const char* name : {"token_embd.weight", "blk.0.attn_v.weight", "blk.0.ffn_up.weight"}) {
    const GgufTensor& t = c.file->tensor(name);
    std::vector<float> values(static_cast<size_t>(t.elements()));
    std::memcpy(values.data(), t.data.data(), t.data.size());
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(values[i], 0.5f * (static_cast<float>(i % 100) - 50)) << name << ' ' << i;
  }
}

TEST(Llama2c, WritesTheVocabularyAsSentencePieceHasIt) {
  const Converted c = convert(version_0(true));
  ASSERT_TRUE(c.file);
  const auto tokens = c.file->texts("tokenizer.ggml.tokens");
  const auto kinds = c.file->integers("tokenizer.ggml.token_type");
  EXPECT_EQ(tokens[1], "<s>");
  EXPECT_EQ(tokens[3 + 0x2f], "<0x2F>");
  EXPECT_EQ(tokens[260], "\xe2\x96\x81t");
  EXPECT_EQ(kinds[0], 2);
  EXPECT_EQ(kinds[2], 3);
  EXPECT_EQ(kinds[258], 6);
  EXPECT_EQ(kinds[259], 1);
  EXPECT_EQ(c.file->numbers("tokenizer.ggml.scores")[263], -263.f);
  EXPECT_TRUE(c.file->boolean("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(c.file->integer("llama.rope.dimension_count"), 8);
}

TEST(Llama2c, RefusesCheckpointsThatAreCutShortOrTooLongOrSomethingElse) {
  const std::string good = version_0(true), grouped = version_2();
  EXPECT_THAT(convert("").sentence, HasSubstr("too short"));
  for (const size_t cut : {28, 100, 11000})
    EXPECT_THAT(convert(good.substr(0, cut)).sentence, HasSubstr("cut short"));
  EXPECT_THAT(convert(good.substr(0, good.size() - 1)).sentence, HasSubstr("cut short"));
  EXPECT_THAT(convert(good + "1234").sentence, HasSubstr("4 bytes longer"));
  EXPECT_THAT(convert(grouped.substr(0, 100)).sentence, HasSubstr("too short for its header"));
  EXPECT_THAT(convert(grouped.substr(0, 3000)).sentence, HasSubstr("cut short"));
  EXPECT_THAT(convert(grouped + "x").sentence, HasSubstr("1 bytes longer"));
  const auto changed = [](std::string bytes, size_t at, int32_t value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return convert(bytes).sentence;
  };
  EXPECT_THAT(changed(good, 0, -8), HasSubstr("'dim' is -8"));
  EXPECT_THAT(changed(good, 8, 1 << 30), HasSubstr("'n_layers'"));
  EXPECT_THAT(changed(good, 12, 3), HasSubstr("do not divide"));
  EXPECT_THAT(changed(good, 12, 2), HasSubstr("multiples of 8"));
  EXPECT_THAT(changed(good, 20, std::numeric_limits<int32_t>::min()), HasSubstr("'vocab_size'"));
  EXPECT_THAT(changed(grouped, 4, 1), HasSubstr("version 1"));
  EXPECT_THAT(changed(grouped, 37, 0), HasSubstr("group size"));
  EXPECT_THAT(changed(grouped, 37, 7), HasSubstr("group size does not divide"));
}

TEST(Llama2c, RefusesATokenizerOfAnotherModel) {
  const std::string model = version_0(true);
  EXPECT_THAT(convert(model, tokenizer(263)).sentence,
              HasSubstr("ends before the model's 264 tokens"));
  EXPECT_THAT(convert(model, tokenizer(265)).sentence, HasSubstr("more than the model's 264"));
  EXPECT_THAT(convert(model, "").sentence, HasSubstr("tok.bin"));
  std::string damaged = tokenizer();
  damaged[8] = '\xff';  // the length of token 0
  damaged[11] = '\xff';
  EXPECT_THAT(convert(model, damaged).sentence, HasSubstr("token 0 is damaged"));
  std::string swapped = tokenizer();
  swapped[swapped.find("<0x41>") + 3] = '5';
  EXPECT_THAT(convert(model, swapped).sentence, HasSubstr("not the byte <0x41>"));
}

}  // namespace
}  // namespace pith::test
