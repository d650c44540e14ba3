#include "convert/hf_vocabulary.h"

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/hf_folder.h"

namespace pith::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

HfConfig config_of(int64_t vocab = 16) {
  HfConfig c;
  c.arch = "llama";
  c.vocab = vocab;
  return c;
}

std::string byte_level_folder() {
  const std::string folder = fresh_folder();
  write_file(folder + "tokenizer.json", byte_level_tokenizer().dump());
  write_file(folder + "config.json", R"({"bos_token_id": 3, "eos_token_id": [11, 12]})");
  return folder;
}

Vocabulary read(const std::string& folder, const HfConfig& config = config_of()) {
  return read_hf_vocabulary(folder, config, Monitor::silent());
}

TEST(HfVocabulary, HasExactlyTheModelsTokens) {
  const std::string folder = byte_level_folder();
  const Vocabulary v = read(folder);
  EXPECT_EQ(v.size(), 16);
  EXPECT_EQ(v.kinds[15], TokenKind::unused);
  try {
    read(folder, config_of(12));
    ADD_FAILURE() << "a token has no row in the embedding";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("'added_tokens.id' is not between 0 and 11"));
  }
}

TEST(HfVocabulary, TakesSpecialTokensByNameBeforeTakingThemByNumber) {
  const std::string folder = byte_level_folder();
  Vocabulary v = read(folder);
  EXPECT_EQ(v.begin, 3);
  EXPECT_EQ(v.end, 11);
  EXPECT_FALSE(v.add_begin);  // the template's token is not the begin token
  write_file(
      folder + "tokenizer_config.json",
      R"({"bos_token": {"content": "<|begin|>"}, "eos_token": "<tool>", "pad_token": "nowhere"})");
  v = read(folder);
  EXPECT_EQ(v.begin, 10);
  EXPECT_EQ(v.end, 12);
  EXPECT_EQ(v.padding, -1);
  EXPECT_TRUE(v.add_begin);
  EXPECT_FALSE(v.add_end);
  write_file(folder + "tokenizer_config.json",
             R"({"bos_token": "<|begin|>", "add_bos_token": false, "add_eos_token": true})");
  v = read(folder);
  EXPECT_FALSE(v.add_begin);
  EXPECT_TRUE(v.add_end);
}

TEST(HfVocabulary, FindsTheTokenThatEndsATurn) {
  const std::string folder = byte_level_folder();
  write_file(folder + "generation_config.json", R"({"eos_token_id": [11, 13]})");
  write_file(
      folder + "tokenizer_config.json",
      R"({"eos_token": "<|end|>", "added_tokens_decoder": {"13": {"content": "<|im_end|>", "special": true}}})");
  const Vocabulary v = read(folder);
  EXPECT_EQ(v.end, 11);
  EXPECT_EQ(v.end_of_turn, 13);
  EXPECT_EQ(v.tokens[13], "<|im_end|>");
  EXPECT_EQ(v.kinds[13], TokenKind::control);
}

TEST(HfVocabulary, KeepsChatTemplatesWhereverTheyAre) {
  const std::string folder = byte_level_folder();
  EXPECT_EQ(read(folder).chat_template, "");
  write_file(folder + "chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(read(folder).chat_template, "from json");
  write_file(
      folder + "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"},
                                   {"name": "../x", "template": "C"}]})");
  const Vocabulary v = read(folder);
  EXPECT_EQ(v.chat_template, "A");
  ASSERT_EQ(v.named_templates.size(), 1u);
  EXPECT_EQ(v.named_templates[0].second, "B");
  write_file(folder + "chat_template.jinja", "from its own file");
  EXPECT_EQ(read(folder).chat_template, "from its own file");
}

TEST(HfVocabulary, PrefersSentencePieceAndIgnoresRanksOfAnotherProgram) {
  const std::string folder = byte_level_folder();
  write_file(folder + "tokenizer.model", "IQ== 0\nIg== 1\n");
  EXPECT_EQ(read(folder).model, "gpt2");
  std::filesystem::remove(folder + "tokenizer.json");
  EXPECT_THROW(read(folder), Error);
  write_file(folder + "tokenizer.model",
             sentencepiece_bytes({{"<unk>", 0, 2}, {"<s>", 0, 3}, {"a", -1, 1}}));
  write_file(folder + "added_tokens.json", R"({"<new>": 5, "a": 2})");
  const Vocabulary v = read(folder);
  EXPECT_EQ(v.model, "llama");
  EXPECT_TRUE(v.add_begin);
  EXPECT_EQ(v.tokens[5], "<new>");
  EXPECT_EQ(v.kinds[5], TokenKind::user_defined);
  EXPECT_EQ(v.kinds[2], TokenKind::normal);
  EXPECT_EQ(v.kinds[4], TokenKind::unused);
}

TEST(HfVocabulary, RefusesIdsThatTheModelDoesNotHave) {
  const std::string folder = byte_level_folder();
  for (const char* id : {"16", "-1", "1x", "99999999999999999999"}) {
    write_file(folder + "tokenizer_config.json",
               json{{"added_tokens_decoder", {{id, {{"content", "x"}}}}}}.dump());
    try {
      read(folder);
      ADD_FAILURE() << id;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("is not the id of a token of the model")) << id;
    }
  }
}

}  // namespace
}  // namespace pith::test
