#include "convert/tokenizer_json.h"

#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "gguf/gguf.h"
#include "support/hf_folder.h"
#include "support/test_data.h"

namespace pith::test {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Warnings final : Monitor {
  void warn(std::string_view sentence) override { text += sentence; }
  std::string text;  // of all of them
};

JsonView view_of(const json& value, const std::string& name = "tokenizer.json") {
  const std::string text = value.dump();
  return JsonView::parse(std::as_bytes(std::span(text)), name);
}

Vocabulary read(const json& tokenizer, Monitor& monitor = Monitor::silent(),
                int64_t limit = 1 << 20) {
  return read_tokenizer_json(view_of(tokenizer), limit, monitor);
}

const std::string kMark = "\xe2\x96\x81";

// A braced list of two texts would become an object where it stands in a list of such.
json pair(const std::string& left, const std::string& right) {
  return json::array({left, right});
}

// Llama 2's way: space marks, byte tokens, a prefix.
json with_byte_fallback() {
  json vocab = {{"<unk>", 0}, {"<s>", 1},       {"</s>", 2}, {"<0x0A>", 3},
                {kMark, 4},   {"t", 5},         {"h", 6},    {"e", 7},
                {"th", 8},    {kMark + "t", 9}, {"the", 10}, {kMark + "the", 11}};
  const json merges =
      json::array({pair("t", "h"), pair(kMark, "t"), pair("th", "e"), pair(kMark, "the")});
  return {{"added_tokens",
           {{{"id", 0}, {"content", "<unk>"}, {"special", true}},
            {{"id", 1}, {"content", "<s>"}, {"special", true}},
            {{"id", 12}, {"content", kMark + kMark}, {"special", false}}}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", kMark}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMark}}}}}},
          {"model",
           {{"type", "BPE"},
            {"byte_fallback", true},
            {"unk_token", "<unk>"},
            {"vocab", vocab},
            {"merges", merges}}}};
}

TEST(TokenizerJson, KeepsMergesOfByteLevelBpeAndMarksAddedTokens) {
  Warnings warnings;
  const Vocabulary v = read(byte_level_tokenizer(), warnings);
  EXPECT_EQ(warnings.text, "");
  EXPECT_EQ(v.model, "gpt2");
  EXPECT_EQ(v.pre, "llama-bpe");
  EXPECT_THAT(v.merges, ElementsAre("h e", "l l", "he ll", "hell o", "\xc4\xa0 h"));
  EXPECT_TRUE(v.scores.empty());
  ASSERT_EQ(v.size(), 13);
  EXPECT_EQ(v.tokens[8], "hello");
  EXPECT_EQ(v.kinds[8], TokenKind::normal);
  EXPECT_EQ(v.kinds[10], TokenKind::control);
  EXPECT_EQ(v.tokens[12], "<tool>");
  EXPECT_EQ(v.kinds[12], TokenKind::user_defined);
}

TEST(TokenizerJson, TurnsMergesIntoScoresWhereBytesAreTheFallback) {
  Warnings warnings;
  const Vocabulary v = read(with_byte_fallback(), warnings);
  EXPECT_EQ(warnings.text, "");
  EXPECT_EQ(v.model, "llama");
  EXPECT_EQ(v.unknown, 0);
  EXPECT_TRUE(v.add_space_prefix);
  EXPECT_EQ(v.kinds[0], TokenKind::unknown);
  EXPECT_EQ(v.kinds[1], TokenKind::control);
  EXPECT_EQ(v.kinds[3], TokenKind::byte);
  EXPECT_EQ(v.tokens[12], "  ");  // matched before spaces become marks
  EXPECT_EQ(v.kinds[12], TokenKind::user_defined);
  EXPECT_GT(v.scores[8], v.scores[9]);
  EXPECT_GT(v.scores[9], v.scores[10]);
  EXPECT_GT(v.scores[10], v.scores[11]);
  EXPECT_GT(v.scores[11], v.scores[12]);
}

TEST(TokenizerJson, FindsThePrefixSpaceInEitherPlace) {
  json t = with_byte_fallback();
  t["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMark}};
  EXPECT_FALSE(read(t).add_space_prefix);  // Gemma
  t["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", kMark}, {"prepend_scheme", "first"}};
  EXPECT_TRUE(read(t).add_space_prefix);
  t["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_FALSE(read(t).add_space_prefix);
}

TEST(TokenizerJson, WarnsWhereMergesOfATokenDoNotStandTogether) {
  json t = with_byte_fallback();
  t["model"]["vocab"]["he"] = 13;
  t["model"]["merges"] = json::array(
      {pair("t", "h"), pair("h", "e"), pair("th", "e"), pair(kMark, "t"), pair("t", "he")});
  Warnings warnings;
  read(t, warnings);
  EXPECT_THAT(warnings.text, HasSubstr("cannot be written exactly as scores"));
}

TEST(TokenizerJson, NamesKnownWaysToSplitAndWarnsOfOthers) {
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json words = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const auto split = [](const std::string& regex) {
    return json{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
  };
  const auto name = [](const std::vector<json>& steps) {
    json t = byte_level_tokenizer();
    t["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
    Warnings warnings;
    const std::string pre = read(t, warnings).pre;
    EXPECT_EQ(warnings.text.empty(), pre != "default");
    return pre;
  };
  EXPECT_EQ(name({words}), "gpt-2");
  EXPECT_EQ(name({digits, words}), "starcoder");
  EXPECT_EQ(name({split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
                  bytes}),
            "qwen2");
  EXPECT_EQ(name({split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"),
                  split("[\xe4\xb8\x80-\xe9\xbe\xa5]+"), digits, bytes}),
            "deepseek-coder");
  EXPECT_EQ(name({{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                  words,
                  {{"type", "Digits"}},
                  split("[0-9][0-9][0-9]")}),
            "falcon");
  EXPECT_EQ(name({split("[a-z]+"), bytes}), "default");
  EXPECT_EQ(name({words, digits}), "default");
  json t = byte_level_tokenizer();
  t["model"]["ignore_merges"] = false;
  EXPECT_EQ(read(t).pre, "smaug-bpe");
  t["normalizer"] = {{"type", "NFC"}};
  Warnings warnings;
  read(t, warnings);
  EXPECT_EQ(warnings.text, "");
  t["normalizer"] = {{"type", "Lowercase"}};
  read(t, warnings);
  EXPECT_THAT(warnings.text, HasSubstr("'Lowercase' is not applied"));
}

TEST(TokenizerJson, RefusesWhatIsNoBpeOrDoesNotFitTogether) {
  const auto sentence = [](const char* at, const json& value, Errc code = Errc::bad_file) {
    json t = byte_level_tokenizer();
    t[json::json_pointer(at)] = value;
    try {
      read(t, Monitor::silent(), 13);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code);
      return std::string(e.what());
    }
    return std::string("it was accepted");
  };
  EXPECT_THAT(sentence("/model/type", "Unigram", Errc::unsupported), HasSubstr("'Unigram'"));
  EXPECT_THAT(sentence("/model/end_of_word_suffix", "</w>", Errc::unsupported),
              HasSubstr("suffix"));
  EXPECT_THAT(sentence("/model/vocab/hello", 13),
              HasSubstr("'model.vocab.hello' is not between 0 and 12"));
  EXPECT_THAT(sentence("/model/vocab/hello", -1), HasSubstr("hello"));
  EXPECT_THAT(sentence("/model/vocab/hello", 2), HasSubstr("another token has too"));
  EXPECT_THAT(sentence("/model/vocab", json::object()), HasSubstr("is empty"));
  EXPECT_THAT(sentence("/model/merges/1", "l"), HasSubstr("entry 1"));
  EXPECT_THAT(sentence("/model/merges/1", "l l l"), HasSubstr("entry 1"));
  EXPECT_THAT(sentence("/model/merges/2", "l e"), HasSubstr("entry 2"));
  EXPECT_THAT(sentence("/model/merges/2", 7), HasSubstr("entry 2"));
  EXPECT_THAT(sentence("/model/merges", json()), HasSubstr("'model.merges' is missing"));
  EXPECT_THAT(sentence("/added_tokens/0/id", 99), HasSubstr("'added_tokens.id'"));
  EXPECT_THAT(sentence("/pre_tokenizer/pretokenizers", 3), HasSubstr("pretokenizers"));
}

// GPT-2's own files, put into tokenizer.json's form, against the vocabulary others converted.
TEST(TokenizerJson, MakesGpt2TheVocabularyThatIsPublishedForIt) {
  PITH_NEEDS_DATA("gpt2-bpe/vocab.json");
  PITH_NEEDS_DATA("llama-cpp-vocabs/ggml-vocab-gpt-2.gguf");
  json t = {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}}};
  t["added_tokens"] = {{{"id", 50256}, {"content", "<|endoftext|>"}, {"special", true}}};
  t["model"] = {{"type", "BPE"},
                {"vocab", json::parse(read_file(data_path("gpt2-bpe/vocab.json")))}};
  t["model"]["merges"] = json::array();
  std::ifstream merges(data_path("gpt2-bpe/merges.txt"));
  for (std::string line; std::getline(merges, line);)
    if (!line.empty() && !line.starts_with("#version")) t["model"]["merges"].push_back(line);
  const Vocabulary v = read(t);
  const auto published = GgufFile::open(data_path("llama-cpp-vocabs/ggml-vocab-gpt-2.gguf"));
  const auto tokens = published->texts("tokenizer.ggml.tokens");
  const auto their_merges = published->texts("tokenizer.ggml.merges");
  EXPECT_EQ(v.pre, "gpt-2");
  EXPECT_TRUE(std::ranges::equal(v.tokens, tokens));
  EXPECT_TRUE(std::ranges::equal(v.merges, their_merges));
  EXPECT_EQ(static_cast<int64_t>(v.kinds[50256]),
            published->integers("tokenizer.ggml.token_type")[50256]);
}

}  // namespace
}  // namespace pith::test
