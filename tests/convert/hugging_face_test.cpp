#include <cmath>
#include <csignal>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/error.h"
#include "convert/convert.h"
#include "gguf/gguf.h"
#include "support/hf_folder.h"
#include "support/reference_forward.h"
#include "tensor/codec.h"

namespace pith::test {
namespace {

std::vector<float> values_of(const GgufFile& file, std::string_view name) {
  const GgufTensor& t = file.tensor(name);
  std::vector<float> out(static_cast<size_t>(t.elements()));
  for (int64_t r = 0; r < t.rows(); ++r)
    decode_row(t.dtype, t.data.data() + static_cast<size_t>(r) * row_bytes(t.dtype, t.dims[0]),
               t.dims[0], &out[static_cast<size_t>(r * t.dims[0])]);
  return out;
}

// The sentence of the error that converting the folder ends in; empty: it converts. Nothing may
// be left in the output folder either way but a finished file.
std::string failure(const std::string& folder, Errc expected = Errc::bad_file) {
  const std::string out = fresh_folder();
  try {
    convert_hugging_face(folder, out + "model.gguf", DType::f32);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), expected) << e.what();
    EXPECT_TRUE(files_in(out).empty());
    return e.what();
  }
  return "";
}

class EveryTinyModel : public ::testing::TestWithParam<TinyModel> {};

INSTANTIATE_TEST_SUITE_P(Arch, EveryTinyModel, ::testing::ValuesIn(tiny_models()),
                         [](const auto& i) { return i.param.name; });

// Folders are built from a GGUF file by the way back, so the converter must arrive where it began.
TEST_P(EveryTinyModel, ConvertsBackToTheFileItsFolderWasMadeOf) {
  const HfFolder folder = write_hf_folder(GetParam());
  const std::string out = folder.path + "out.gguf";
  convert_hugging_face(folder.path, out, DType::f32);
  const auto was = GgufFile::open(folder.gguf), is = GgufFile::open(out);

  ASSERT_EQ(is->tensors().size(), was->tensors().size());
  for (const GgufTensor& t : was->tensors()) {
    ASSERT_TRUE(is->has_tensor(t.name)) << t.name;
    EXPECT_EQ(is->tensor(t.name).dims, t.dims) << t.name;
    const std::vector<float> a = values_of(*was, t.name), b = values_of(*is, t.name);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 2e-7) << t.name << ' ' << i;
  }
  for (const GgufEntry& entry : was->entries()) {
    if (entry.key == "general.name") continue;
    ASSERT_TRUE(is->has(entry.key)) << entry.key;
    if (entry.type == GgufType::string) {
      EXPECT_EQ(is->text(entry.key), was->text(entry.key)) << entry.key;
    } else if (entry.key == "tokenizer.ggml.tokens") {
      EXPECT_EQ(is->texts(entry.key), was->texts(entry.key));
    } else if (entry.key == "tokenizer.ggml.token_type") {
      EXPECT_EQ(is->integers(entry.key), was->integers(entry.key));
    } else if (entry.key == "tokenizer.ggml.scores") {
      EXPECT_EQ(is->numbers(entry.key), was->numbers(entry.key));
    } else if (entry.type == GgufType::f32) {
      EXPECT_NEAR(is->number(entry.key), was->number(entry.key), 1e-6) << entry.key;
    } else if (entry.type == GgufType::u32) {
      EXPECT_EQ(is->integer(entry.key), was->integer(entry.key)) << entry.key;
    }
  }
}

TEST_P(EveryTinyModel, AnswersTheSameAfterItsWayThroughHuggingFace) {
  const HfFolder folder = write_hf_folder(GetParam());
  const std::string out = folder.path + "out.gguf";
  convert_hugging_face(folder.path, out, DType::f32);
  ReferenceForward was(folder.gguf), is(out);
  for (const int32_t token : tiny_tokens(GetParam(), 12)) {
    const std::vector<double> a = was.feed(token), b = is.feed(token);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-4);
  }
}

TEST(HuggingFace, ReadsWeightsInEveryFloatFormat) {
  const TinyModel& model = tiny_model("llama");
  for (const char* dtype : {"F64", "F16", "BF16"}) {
    const HfFolder folder = write_hf_folder(model, dtype);
    convert_hugging_face(folder.path, folder.path + "out.gguf", DType::f32);
    const auto was = GgufFile::open(folder.gguf), is = GgufFile::open(folder.path + "out.gguf");
    const std::vector<float> a = values_of(*was, "blk.1.ffn_up.weight");
    const std::vector<float> b = values_of(*is, "blk.1.ffn_up.weight");
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i],
                  dtype[0] == 'B' ? 4e-3 * std::fabs(a[i]) : 1e-3 * std::fabs(a[i]) + 1e-7)
          << dtype;
  }
}

TEST(HuggingFace, WritesMatricesInTheWantedFormatAndVectorsInF32) {
  const HfFolder folder = write_hf_folder(tiny_model("llama"));
  for (const DType dtype : {DType::f16, DType::bf16}) {
    convert_hugging_face(folder.path, folder.path + "out.gguf", dtype);
    const auto file = GgufFile::open(folder.path + "out.gguf");
    for (const GgufTensor& t : file->tensors())
      EXPECT_EQ(t.dtype, t.dims.size() > 1 ? dtype : DType::f32) << t.name;
  }
  try {
    convert_hugging_face(folder.path, folder.path + "out.gguf", DType::q8_0);
    ADD_FAILURE() << "Q8_0 is for quantize";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::bad_option);
  }
}

TEST(HuggingFace, ReadsShardsThatAnIndexNames) {
  const TinyModel& model = tiny_model("qwen2");
  const HfFolder folder = write_hf_folder(model);
  std::vector<SafeEntry> all = hf_weights(model, folder.gguf), shards[2];
  nlohmann::json map;
  for (size_t i = 0; i < all.size(); ++i) {
    map[all[i].name] = i % 2 ? "model-2.safetensors" : "model-1.safetensors";
    shards[i % 2].push_back(all[i]);
  }
  std::filesystem::remove(folder.path + "model.safetensors");
  write_file(folder.path + "model-1.safetensors", safetensors_bytes(shards[0]));
  write_file(folder.path + "model-2.safetensors", safetensors_bytes(shards[1]));
  convert_hugging_face(folder.path, folder.path + "a.gguf", DType::f32);  // by their endings
  write_file(folder.path + "model.safetensors.index.json",
             nlohmann::json{{"weight_map", map}}.dump());
  convert_hugging_face(folder.path, folder.path + "b.gguf", DType::f32);
  EXPECT_EQ(read_file(folder.path + "a.gguf"), read_file(folder.path + "b.gguf"));
  const auto was = GgufFile::open(folder.gguf), is = GgufFile::open(folder.path + "b.gguf");
  EXPECT_EQ(values_of(*was, "blk.0.attn_q.bias"), values_of(*is, "blk.0.attn_q.bias"));

  map["model.norm.weight"] = "../model-1.safetensors";
  write_file(folder.path + "model.safetensors.index.json",
             nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_THAT(failure(folder.path), ::testing::HasSubstr("is not the name of a file"));
  map["model.norm.weight"] = map["lm_head.weight"] == "model-1.safetensors" ? "model-2.safetensors"
                                                                            : "model-1.safetensors";
  map["model.gone.weight"] = "model-1.safetensors";
  write_file(folder.path + "model.safetensors.index.json",
             nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_THAT(failure(folder.path), ::testing::HasSubstr("where the index says it is"));
}

TEST(HuggingFace, NamesTheTensorThatIsMissingOrMisshapenOrLeftOver) {
  const TinyModel& model = tiny_model("llama");
  const HfFolder folder = write_hf_folder(model);
  const std::vector<SafeEntry> all = hf_weights(model, folder.gguf);
  const auto with = [&](const auto& change) {
    std::vector<SafeEntry> entries = all;
    change(entries);
    write_file(folder.path + "model.safetensors", safetensors_bytes(entries));
  };
  with([](auto& e) {
    std::erase_if(e, [](const SafeEntry& s) { return s.name == "model.norm.weight"; });
  });
  EXPECT_THAT(failure(folder.path), ::testing::HasSubstr("has no tensor 'model.norm.weight'"));
  with([](auto& e) {
    for (SafeEntry& s : e)
      if (s.name == "model.layers.1.mlp.up_proj.weight") std::swap(s.shape[0], s.shape[1]);
  });
  EXPECT_THAT(failure(folder.path),
              ::testing::AllOf(::testing::HasSubstr("mlp.up_proj.weight"),
                               ::testing::HasSubstr("[32, 48]"), ::testing::HasSubstr("[48, 32]")));
  with([](auto& e) { e.push_back({"model.layers.0.adapter.weight", "F32", {1}, "1234"}); });
  EXPECT_THAT(failure(folder.path, Errc::unsupported), ::testing::HasSubstr("has no place in"));
  with([](auto& e) {
    for (SafeEntry& s : e)
      if (s.name == "lm_head.weight") s.dtype = "F8_E4M3", s.data.resize(s.data.size() / 4);
  });
  EXPECT_THAT(failure(folder.path, Errc::unsupported), ::testing::HasSubstr("stored as F8_E4M3"));
  with([](auto& e) {
    for (SafeEntry& s : e)
      if (s.name == "model.layers.1.mlp.down_proj.weight")
        s.data.replace(400, 4, "\0\0\xc0\x7f", 4);
  });
  EXPECT_THAT(failure(folder.path), ::testing::AllOf(::testing::HasSubstr("mlp.down_proj.weight"),
                                                     ::testing::HasSubstr("not finite")));
}

TEST(HuggingFace, RefusesAWeightThatF16CannotHold) {
  const TinyModel& model = tiny_model("llama");
  const HfFolder folder = write_hf_folder(model);
  std::vector<SafeEntry> entries = hf_weights(model, folder.gguf);
  for (SafeEntry& s : entries)
    if (s.name == "lm_head.weight") s.data.replace(0, 4, "\0\x50\xc3\x47", 4);  // 100,000
  write_file(folder.path + "model.safetensors", safetensors_bytes(entries));
  try {
    convert_hugging_face(folder.path, folder.path + "out.gguf", DType::f16);
    ADD_FAILURE() << "100,000 became infinite";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("too large for F16"));
  }
  convert_hugging_face(folder.path, folder.path + "out.gguf", DType::bf16);
}

TEST(HuggingFace, TakesTheHeadAsEmbeddingWhereATiedCheckpointKeepsOnlyThat) {
  const TinyModel& model = tiny_model("llama_tied");
  const HfFolder folder = write_hf_folder(model);
  std::vector<SafeEntry> entries = hf_weights(model, folder.gguf);
  for (SafeEntry& s : entries)
    if (s.name == "model.embed_tokens.weight") s.name = "lm_head.weight";
  write_file(folder.path + "model.safetensors", safetensors_bytes(entries));
  convert_hugging_face(folder.path, folder.path + "out.gguf", DType::f32);
  const auto was = GgufFile::open(folder.gguf), is = GgufFile::open(folder.path + "out.gguf");
  EXPECT_EQ(values_of(*was, "token_embd.weight"), values_of(*is, "token_embd.weight"));
  EXPECT_FALSE(is->has_tensor("output.weight"));
}

struct StopAfter final : Monitor {
  explicit StopAfter(int64_t tensors) : limit(tensors) {}
  void progress(std::string_view what, int64_t done, int64_t all) override {
    EXPECT_EQ(what, "convert");
    seen = done, total = all;
  }
  bool stopped() const override { return seen >= limit; }
  int64_t limit, seen = 0, total = 0;
};

TEST(HuggingFace, ReportsProgressInTensorsAndLeavesNothingWhenInterrupted) {
  const HfFolder folder = write_hf_folder(tiny_model("llama"));
  const std::string out = fresh_folder();
  StopAfter all(1000);
  convert_hugging_face(folder.path, out + "whole.gguf", DType::f32, all);
  EXPECT_EQ(all.seen, all.total);
  EXPECT_EQ(all.total, static_cast<int64_t>(GgufFile::open(out + "whole.gguf")->tensors().size()));
  StopAfter some(3);
  try {
    convert_hugging_face(folder.path, out + "part.gguf", DType::f32, some);
    ADD_FAILURE() << "it went on";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::interrupted);
  }
  EXPECT_EQ(files_in(out), std::vector<std::string>{"whole.gguf"});
}

TEST(HuggingFace, LeavesNothingWhenTheDiskIsFull) {
  const HfFolder folder = write_hf_folder(tiny_model("llama"));
  const std::string out = fresh_folder();
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{64 << 10, old.rlim_max};  // as a disk with 64 KiB left
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string sentence;
  try {
    convert_hugging_face(folder.path, out + "model.gguf", DType::f32);
  } catch (const Error& e) {
    sentence = e.code() == Errc::io ? e.what() : "another error";
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(sentence, ::testing::HasSubstr("model.gguf: cannot write"));
  EXPECT_TRUE(files_in(out).empty());
}

TEST(HuggingFace, SaysWhatIsMissingInAFolder) {
  const TinyModel& model = tiny_model("llama");
  EXPECT_THAT(failure("/nowhere/at/all", Errc::io), ::testing::HasSubstr("is not a folder"));
  HfFolder folder = write_hf_folder(model);
  std::filesystem::remove(folder.path + "tokenizer.model");
  EXPECT_THAT(failure(folder.path),
              ::testing::HasSubstr("neither tokenizer.json nor tokenizer.model"));
  std::filesystem::remove(folder.path + "model.safetensors");
  EXPECT_THAT(failure(folder.path), ::testing::HasSubstr("has no *.safetensors"));
  std::filesystem::remove(folder.path + "config.json");
  EXPECT_THAT(failure(folder.path, Errc::io), ::testing::HasSubstr("config.json"));
}

}  // namespace
}  // namespace pith::test
