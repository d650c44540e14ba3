#include "model/model.h"

#include <cmath>
#include <functional>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "support/tiny_model.h"

namespace pith {
namespace {

using test::tiny_model;
using test::write_tiny_model;

// Writes a tiny model, copies it with one metadata entry or tensor changed, and returns the
// sentence that loading the copy gives; empty if it loads.
struct Change {
  std::string drop_key, drop_tensor;
  std::function<void(GgufWriter&)> add = [](GgufWriter&) {};
};

std::string load_changed(const std::string& name, const Change& change) {
  const auto file = GgufFile::open(write_tiny_model(tiny_model(name)));
  const std::string path = test::fresh_folder() + "changed.gguf";
  GgufWriter writer(path);
  for (const GgufEntry& e : file->entries())
    if (e.key != change.drop_key && e.key != "general.alignment") writer.copy(e);
  change.add(writer);
  std::vector<const GgufTensor*> kept;
  for (const GgufTensor& t : file->tensors())
    if (t.name != change.drop_tensor) {
      writer.add_tensor(t.name, t.dtype, t.dims);
      kept.push_back(&t);
    }
  writer.begin();
  for (const GgufTensor* t : kept) writer.write_tensor(t->data);
  writer.finish();
  try {
    Model::load(path);
    return "";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("changed.gguf"), std::string::npos) << error.what();
    return error.what();
  }
}

TEST(Model, LoadsEveryTinyArchitecture) {
  for (const test::TinyModel& m : test::tiny_models()) {
    const auto model = Model::load(write_tiny_model(m));
    EXPECT_EQ(model->config().arch, m.arch) << m.name;
    EXPECT_EQ(model->config().shape.layers, m.layers) << m.name;
    EXPECT_EQ(model->config().shape.dim, m.dim) << m.name;
    EXPECT_EQ(model->config().vocab, m.vocab) << m.name;
  }
}

TEST(Model, SlopesOfAlibiHalveForEightHeadsAndInterleaveForTwelve) {
  test::TinyModel mpt = tiny_model("mpt");
  mpt.query_heads = mpt.heads = 8;
  mpt.width = 64;
  const auto eight = Model::load(write_tiny_model(mpt));
  for (int h = 0; h < 8; ++h)
    EXPECT_FLOAT_EQ(eight->config().rules[0].alibi[h], std::pow(2.0f, -(h + 1)));
  mpt.query_heads = mpt.heads = 12;
  mpt.width = 96;
  const auto twelve = Model::load(write_tiny_model(mpt));
  const std::vector<double> beyond = {-0.5, -1.5, -2.5, -3.5};  // exponents of heads 8 to 11
  for (int h = 8; h < 12; ++h)
    EXPECT_FLOAT_EQ(twelve->config().rules[0].alibi[h],
                    static_cast<float>(std::exp2(beyond[h - 8])));
}

TEST(Model, SlidingLayersAlternateInGemma2) {
  const auto model = Model::load(write_tiny_model(tiny_model("gemma2")));
  const KvShape& s = model->config().shape;
  EXPECT_GT(s.window(0), 0);
  EXPECT_EQ(s.window(1), 0);
  EXPECT_EQ(model->config().rules[0].window, s.window(0));
}

TEST(Model, TheDigestNamesTheWeights) {
  test::TinyModel a = tiny_model("llama"), b = a;
  b.seed = a.seed + 1;
  const std::string first = Model::load(write_tiny_model(a))->config().digest;
  EXPECT_EQ(first, Model::load(write_tiny_model(a))->config().digest);
  EXPECT_NE(first, Model::load(write_tiny_model(b))->config().digest);
  EXPECT_EQ(first.size(), 32u);
}

TEST(Model, AMissingTensorIsNamed) {
  EXPECT_NE(load_changed("llama", {.drop_key = "", .drop_tensor = "blk.1.attn_k.weight"})
                .find("blk.1.attn_k.weight"),
            std::string::npos);
  EXPECT_EQ(load_changed("llama", {}), "");
}

TEST(Model, AnUnknownArchitectureIsRefusedWithTheKnownOnes) {
  const std::string sentence = load_changed(
      "llama", {.drop_key = "general.architecture", .drop_tensor = "", .add = [](GgufWriter& w) {
                  w.set_text("general.architecture", "rwkv6");
                }});
  EXPECT_NE(sentence.find("rwkv6"), std::string::npos);
  EXPECT_NE(sentence.find("qwen3"), std::string::npos);
}

TEST(Model, NumbersThatMakeNoSenseAreRefusedByName) {
  const auto with = [](const std::string& key, uint32_t value) {
    return load_changed("llama", {.drop_key = key, .drop_tensor = "", .add = [=](GgufWriter& w) {
                                    w.set_u32(key, value);
                                  }});
  };
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, uint32_t>>{{"llama.block_count", 0},
                                                     {"llama.block_count", 4000000000u},
                                                     {"llama.embedding_length", 0},
                                                     {"llama.attention.head_count", 0},
                                                     {"llama.attention.head_count_kv", 3},
                                                     {"llama.attention.key_length", 12},
                                                     {"llama.rope.dimension_count", 7},
                                                     {"llama.rope.dimension_count", 4096},
                                                     {"llama.feed_forward_length", 0},
                                                     {"llama.context_length", 0}}) {
    const std::string sentence = with(key, value);
    EXPECT_NE(sentence.find(key), std::string::npos) << key << " = " << value << ": " << sentence;
  }
}

TEST(Model, AWeightOfTheWrongSizeIsRefused) {
  const std::string sentence = load_changed(
      "llama", {.drop_key = "llama.feed_forward_length",
                .drop_tensor = "",
                .add = [](GgufWriter& w) { w.set_u32("llama.feed_forward_length", 64); }});
  EXPECT_NE(sentence.find("ffn_"), std::string::npos) << sentence;
}

TEST(Model, ATensorThatWouldChangeTheResultUnseenIsRefused) {
  const auto file = GgufFile::open(write_tiny_model(tiny_model("llama")));
  const std::string path = test::fresh_folder() + "extra.gguf";
  GgufWriter writer(path);
  for (const GgufEntry& e : file->entries())
    if (e.key != "general.alignment") writer.copy(e);
  for (const GgufTensor& t : file->tensors()) writer.add_tensor(t.name, t.dtype, t.dims);
  const std::vector<int64_t> dims = {8};
  writer.add_tensor("blk.0.attn_q_norm.weight", DType::f32, dims);
  writer.begin();
  for (const GgufTensor& t : file->tensors()) writer.write_tensor(t.data);
  const std::vector<float> ones(8, 1.0f);
  writer.write_tensor(std::as_bytes(std::span(ones)));
  writer.finish();
  EXPECT_THROW(Model::load(path), Error);
}

}  // namespace
}  // namespace pith
