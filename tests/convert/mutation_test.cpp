// Damaged inputs of every kind: each conversion either succeeds or ends in one sentence that names
// a file. What this really tests is that nothing else happens under the sanitizers.
#include <cstring>
#include <filesystem>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "convert/convert.h"
#include "support/hf_folder.h"

namespace pith::test {
namespace {

using nlohmann::json;

TinyModel small_model() {
  TinyModel model = tiny_model("llama_llama3");
  model.layers = 1;
  model.width = model.ffn_width = 16;
  model.query_heads = 2;
  model.heads = 1;
  return model;
}

// Cuts, overwrites, inserts and removes a few bytes.
std::string mutated(std::string bytes, Random& random) {
  for (uint64_t edits = 1 + random.below(3); edits > 0; --edits) {
    if (bytes.empty()) return bytes;
    const size_t at = random.below(bytes.size());
    // The first kilobyte holds the headers and most of the structure.
    const size_t near = random.below(std::min<size_t>(bytes.size(), 1024));
    switch (random.below(6)) {
      case 0:
        bytes.resize(at);
        break;
      case 1:
        bytes.erase(near, 1 + random.below(16));
        break;
      case 2:
        bytes.insert(near, 1 + random.below(16), static_cast<char>(random.below(256)));
        break;
      default:
        bytes[random.below(2) ? at : near] = static_cast<char>(random.below(256));
    }
  }
  return bytes;
}

// Another value in the place of one of a JSON file's.
std::string with_other_value(const json& good, Random& random) {
  const json flat = good.flatten();
  auto it = flat.begin();
  std::advance(it, static_cast<ptrdiff_t>(random.below(flat.size())));
  json::json_pointer at(it.key());
  for (uint64_t up = random.below(3); up > 0 && !at.parent_pointer().empty(); --up)
    at = at.parent_pointer();
  static const json kValues[] = {json(),
                                 true,
                                 false,
                                 0,
                                 -1,
                                 3,
                                 1e300,
                                 -1e300,
                                 0.5,
                                 "",
                                 "x",
                                 std::numeric_limits<int64_t>::min(),
                                 std::numeric_limits<uint64_t>::max(),
                                 json::array(),
                                 json::object(),
                                 json{1, 2},
                                 json{{"type", "x"}}};
  json bad = good;
  bad[at] = kValues[random.below(std::size(kValues))];
  return bad.dump();
}

void expect_success_or_a_sentence(const std::string& folder,
                                  const std::function<void(const std::string&)>& convert) {
  const std::string out = folder + "out.gguf";
  try {
    convert(out);
    std::filesystem::remove(out);
  } catch (const Error& e) {
    const std::string sentence = e.what();
    EXPECT_THAT(sentence, ::testing::StartsWith(folder.substr(0, folder.size() - 1)));
    EXPECT_EQ(sentence.find('\n'), std::string::npos);
    EXPECT_LT(sentence.size(), 1000u);
  }
  for (const std::string& name : files_in(folder))
    EXPECT_EQ(name.find("out.gguf"), std::string::npos);
}

class HuggingFaceFile : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Damaged, HuggingFaceFile,
                         ::testing::Values("config.json", "tokenizer.json", "tokenizer_config.json",
                                           "generation_config.json", "tokenizer.model",
                                           "model.safetensors", "model.safetensors.index.json"),
                         [](const auto& i) {
                           std::string name = i.param;
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

TEST_P(HuggingFaceFile, EndsInSuccessOrOneSentence) {
  const std::string name = GetParam();
  const TinyModel model = small_model();
  const HfFolder folder = write_hf_folder(model);
  json names;
  for (const SafeEntry& e : hf_weights(model, folder.gguf)) names[e.name] = "shard.safetensors";
  if (name == "model.safetensors.index.json") {
    std::filesystem::rename(folder.path + "model.safetensors", folder.path + "shard.safetensors");
    write_file(folder.path + name, json{{"weight_map", names}}.dump());
  }
  if (name == "tokenizer.json") std::filesystem::remove(folder.path + "tokenizer.model");
  write_file(folder.path + "tokenizer.json", byte_level_tokenizer().dump());
  write_file(folder.path + "generation_config.json",
             R"({"eos_token_id": [11, 12], "bos_token_id": 1})");
  write_file(
      folder.path + "tokenizer_config.json",
      R"({"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", "add_bos_token": true,
                 "added_tokens_decoder": {"12": {"content": "<tool>", "special": false}}, "chat_template": "x"})");
  const std::string good = read_file(folder.path + name);
  const bool is_json = name.ends_with(".json");
  Random random(7);
  for (int i = 0; i < 60; ++i) {
    SCOPED_TRACE(i);
    write_file(folder.path + name, is_json && i % 2 ? with_other_value(json::parse(good), random)
                                                    : mutated(good, random));
    expect_success_or_a_sentence(folder.path, [&](const std::string& out) {
      convert_hugging_face(folder.path, out, DType::f32);
    });
  }
}

// The JSON table of the weights, with its length kept right, so that the damage is in its values.
TEST(DamagedTable, OfSafetensorsEndsInSuccessOrOneSentence) {
  const HfFolder folder = write_hf_folder(small_model());
  const std::string good = read_file(folder.path + "model.safetensors");
  uint64_t size = 0;
  std::memcpy(&size, good.data(), sizeof size);
  const json table = json::parse(good.substr(8, size));
  Random random(8);
  for (int i = 0; i < 80; ++i) {
    SCOPED_TRACE(i);
    // A key may hold '/' and '~' only escaped, so values are changed entry by entry.
    json bad = table;
    auto it = bad.begin();
    std::advance(it, static_cast<ptrdiff_t>(random.below(bad.size())));
    *it = json::parse(with_other_value(*it, random));
    const std::string text = bad.dump();
    const uint64_t length = text.size();
    write_file(
        folder.path + "model.safetensors",
        std::string(reinterpret_cast<const char*>(&length), 8) + text + good.substr(8 + size));
    expect_success_or_a_sentence(folder.path, [&](const std::string& out) {
      convert_hugging_face(folder.path, out, DType::f32);
    });
  }
}

TEST(DamagedGguf, IsQuantisedOrEndsInOneSentence) {
  const std::string folder = fresh_folder();
  const std::string good = read_file(write_tiny_model(small_model()));
  Random random(9);
  for (int i = 0; i < 60; ++i) {
    SCOPED_TRACE(i);
    write_file(folder + "in.gguf", mutated(good, random));
    expect_success_or_a_sentence(
        folder, [&](const std::string& out) { quantize(folder + "in.gguf", out, DType::q8_0); });
  }
}

}  // namespace
}  // namespace pith::test
