#include "text/pretokenizer.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "base/error.h"
#include "text/utf8.h"

namespace pith {
namespace {

using Texts = std::vector<std::string>;

Texts split(std::string_view name, std::string_view text) {
  const PreTokenizer splitter(find_pre_tokenizer(name, "test"));
  Texts words;
  for (const Word& word : splitter.split(text))
    words.emplace_back(text.substr(word.begin, word.bytes));
  return words;
}

TEST(PreTokenizer, OfGpt2KeepsOneBlankBeforeAWordAndPartsLettersFromDigits) {
  EXPECT_EQ(split("gpt-2", "Hello world2024!!  x's 'RE"),
            (Texts{"Hello", " world", "2024", "!!", " ", " x", "'s", " '", "RE"}));
  EXPECT_EQ(split("gpt-2", "a\n\n b  "), (Texts{"a", "\n\n", " b", "  "}));
}

TEST(PreTokenizer, OfLlama3TakesUpToThreeDigitsAndAnyCaseOfContractions) {
  EXPECT_EQ(split("llama-bpe", "I'VE 12345 (x)\r\n\n  y"),
            (Texts{"I", "'VE", " ", "123", "45", " (", "x", ")\r\n\n", " ", " y"}));
  EXPECT_EQ(split("llama-bpe", "a.b"), (Texts{"a", ".b"}));
}

TEST(PreTokenizer, OfQwen2TakesDigitsOneByOne) {
  EXPECT_EQ(split("qwen2", " 12 x"), (Texts{" ", "1", "2", " x"}));
}

TEST(PreTokenizer, OfQwen35KeepsMarksWithTheirLetters) {
  EXPECT_EQ(split("qwen35", "re\xcc\x81sume\xcc\x81"), (Texts{"re\xcc\x81sume\xcc\x81"}));
  EXPECT_EQ(split("qwen2", "re\xcc\x81su"), (Texts{"re", "\xcc\x81su"}));
}

TEST(PreTokenizer, OfStarcoderSetsEveryDigitApart) {
  EXPECT_EQ(split("starcoder", "x = 10"), (Texts{"x", " =", " ", "1", "0"}));
  EXPECT_EQ(split("command-r", "x = 10"), split("starcoder", "x = 10"));
}

TEST(PreTokenizer, OfFalconSetsPunctuationApartAndDigitsInThrees) {
  EXPECT_EQ(split("falcon", "a, b+1234567"), (Texts{"a", ",", " b", "+", "123", "456", "7"}));
}

TEST(PreTokenizer, OfDeepSeekPartsScripts) {
  EXPECT_EQ(split("deepseek-llm", "Hi \xe4\xb8\x80\xe4\xba\x8c 12\n x  "),
            (Texts{"Hi", " ", "\xe4\xb8\x80\xe4\xba\x8c", " ", "12", "\n", " x", "  "}));
  EXPECT_EQ(split("deepseek-coder", "f(12)"), (Texts{"f", "(", "1", "2", ")"}));
  EXPECT_EQ(split("deepseek-v3", "ab12345 \xe4\xb8\x80!x"),
            (Texts{"ab", "123", "45", " ", "\xe4\xb8\x80", "!x"}));
}

TEST(PreTokenizer, OfGpt4oPartsWordsWhereSmallLettersMeetCapitals) {
  EXPECT_EQ(split("gpt-4o", "HelloWorld ABCdef it's a/b\n/"),
            (Texts{"Hello", "World", " ABCdef", " it's", " a", "/b", "\n", "/"}));
  EXPECT_EQ(split("tekken", "it's 12"), (Texts{"it", "'s", " ", "1", "2"}));
}

TEST(PreTokenizer, OfBloomCutsAtSentenceMarks) {
  EXPECT_EQ(split("bloom", "one two, three"), (Texts{"one", " two", ",", " three"}));
  EXPECT_EQ(split("viking", "a12"), (Texts{"a", "1", "2"}));
}

// U+180E was a blank until Unicode 6.3; PCRE2 still takes it for one. U+3000 and U+0085 are.
TEST(PreTokenizer, BlanksAreThoseOfUnicode) {
  EXPECT_EQ(split("gpt-2", "\xe1\xa0\x8e\xe1\xa0\x8e."), (Texts{"\xe1\xa0\x8e\xe1\xa0\x8e."}));
  EXPECT_EQ(split("gpt-2", "\xe3\x80\x80\xc2\x85."), (Texts{"\xe3\x80\x80", "\xc2\x85", "."}));
}

TEST(PreTokenizer, BytesThatAreNoUtf8AreAWordOfTheirOwn) {
  EXPECT_EQ(split("llama-bpe", "ab\xff\xfe cd\xe2\x82"),
            (Texts{"ab", "\xff\xfe", " cd", "\xe2\x82"}));
  EXPECT_EQ(split("llama-bpe", "\xc3"), (Texts{"\xc3"}));
  EXPECT_EQ(split("llama-bpe", ""), Texts{});
}

TEST(PreTokenizer, OfAnUnknownNameIsAnErrorThatListsTheKnownOnes) {
  try {
    find_pre_tokenizer("llama-bqe", "model.gguf");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::unsupported);
    const std::string what = error.what();
    EXPECT_NE(what.find("model.gguf"), std::string::npos) << what;
    EXPECT_NE(what.find("'llama-bqe'"), std::string::npos) << what;
    for (const char* name : {"command-r", "deepseek-r1-qwen", "gpt-neox", "llama-bpe", "qwen35"})
      EXPECT_NE(what.find(name), std::string::npos) << what;
  }
}

TEST(PreTokenizer, NamesAreUnique) {
  const auto names = pre_tokenizer_names();
  EXPECT_GT(names.size(), 50u);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

RC_GTEST_PROP(PreTokenizer, OfEveryNameGivesAllBytesInOrderInWordsThatAreNotEmpty,
              (const std::string& bytes)) {
  const auto parts = *rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
      "a", "B", " ", "  ", "\n", "\r\n", "\t", "1", "22", "'s", "'LL", "!", "/", "$", "\xc3\xa9",
      "\xe4\xb8\x80", "\xcc\x81", "\xf0\x9f\x98\x80", "\xe2\x96\x81", "\xff"));
  std::string text = bytes;
  for (const std::string& part : parts) text += part;
  for (const std::string_view name : pre_tokenizer_names()) {
    std::string all;
    for (const std::string& word : split(name, text)) {
      RC_ASSERT(!word.empty());
      // A word is whole characters, or nothing but broken bytes.
      RC_ASSERT(utf8_length(word) == 0 || utf8_valid_prefix(word) == word.size());
      all += word;
    }
    RC_ASSERT(all == text);
  }
}

// Quadratic splitting would take minutes here.
TEST(PreTokenizer, OfEveryNameTakesAHundredKilobytesOfOneCharacter) {
  constexpr size_t kBytes = 1 << 17;
  for (const std::string_view name : pre_tokenizer_names()) {
    const PreTokenizer splitter(find_pre_tokenizer(name, "test"));
    for (const char* unit : {" ", "a", "A", "\n", "1", "!", "\xff", " \n", "a'"}) {
      std::string text;
      while (text.size() < kBytes) text += unit;
      text += "x";
      const auto words = splitter.split(text);
      ASSERT_FALSE(words.empty());
      EXPECT_EQ(words.back().begin + words.back().bytes, text.size()) << name << " " << unit;
    }
  }
}

}  // namespace
}  // namespace pith
