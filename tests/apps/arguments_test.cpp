#include "apps/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace pith {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Sample {
  std::string model, format = "md", file;
  int tokens = -1;
  uint64_t seed = 0, bytes = 0;
  float temperature = 0.8f;
  double share = 0.5;
  std::vector<std::string> specs;
  bool quiet = false;

  void read(const std::vector<std::string>& words) {
    Arguments arguments;
    arguments.option("-m,--model", model, "FILE", "the model").required();
    arguments.option("-n,--predict", tokens, "N", "tokens").at_least(-1);
    arguments.option("-s,--seed", seed, "N", "seed");
    arguments.option("--temp", temperature, "T", "temperature").at_least(0);
    arguments.option("--share", share, "P", "share").between(0, 1);
    arguments.option("--kv", specs, "SPEC", "compression");
    arguments.bytes("--kv-memory", bytes, "limit");
    arguments.choice("-o,--output", format, "md|json|csv", "format");
    arguments.flag("-q,--quiet", quiet, "quiet");
    arguments.operand("FILE", file, "a file");
    parse_arguments(arguments, words);
  }

  std::string refusal(std::vector<std::string> words) {
    words.insert(words.begin(), {"-m", "x"});
    return plain_refusal(words);
  }
  std::string plain_refusal(const std::vector<std::string>& words) {
    try {
      read(words);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::bad_option);
      return error.what();
    }
    return "(accepted)";
  }
};

TEST(Arguments, AreReadIntoTheVariablesTheyWereDeclaredWith) {
  Sample s;
  s.read({"-m", "a.gguf", "-n", "-1", "--temp=0", "--share", "0.25", "-o", "json", "-q",
          "--kv-memory", "2GiB", "book.txt", "--seed", "18446744073709551615"});
  EXPECT_EQ(s.model, "a.gguf");
  EXPECT_EQ(s.tokens, -1);
  EXPECT_EQ(s.temperature, 0);
  EXPECT_EQ(s.share, 0.25);
  EXPECT_EQ(s.format, "json");
  EXPECT_TRUE(s.quiet);
  EXPECT_EQ(s.bytes, uint64_t{2} << 30);
  EXPECT_EQ(s.file, "book.txt");
  EXPECT_EQ(s.seed, UINT64_MAX);
}

TEST(Arguments, OperandsTakeAllThatIsLeftAndOptionsBehindTwoDashes) {
  std::vector<std::string> words;
  Arguments arguments;
  arguments.operands("WORD", words, "words");
  parse_arguments(arguments, {"one", "two", "--", "--three", "4"});
  EXPECT_THAT(words, ElementsAre("one", "two", "--three", "4"));
}

TEST(Arguments, KeepTheirDefaultsWhenTheyAreNotGiven) {
  Sample s;
  s.read({"--model", "a.gguf"});
  EXPECT_EQ(s.tokens, -1);
  EXPECT_EQ(s.temperature, 0.8f);
  EXPECT_EQ(s.format, "md");
  EXPECT_FALSE(s.quiet);
}

TEST(Arguments, ThatMayBeRepeatedCollectAndOthersTakeTheLast) {
  Sample s;
  s.read({"-m", "a", "--kv", "full", "--kv", "snapkv:budget=0.1", "-n", "3", "-n", "4"});
  EXPECT_THAT(s.specs, ElementsAre("full", "snapkv:budget=0.1"));
  EXPECT_EQ(s.tokens, 4);
}

TEST(Arguments, ThatAreRequiredAreAskedFor) {
  EXPECT_EQ(Sample().plain_refusal({"-n", "3"}), "--model FILE is missing (the model)");
}

TEST(Arguments, OfAnUnknownNameAreAnsweredWithTheNearestKnownOne) {
  EXPECT_EQ(Sample().refusal({"--tmep", "0"}), "no option '--tmep'; did you mean '--temp'?");
  EXPECT_EQ(Sample().refusal({"--tmep=0"}), "no option '--tmep'; did you mean '--temp'?");
  EXPECT_EQ(Sample().refusal({"--frobnicate"}), "no option '--frobnicate'");
}

TEST(Arguments, RefuseValuesThatAreNotWhatTheyNeed) {
  EXPECT_EQ(Sample().refusal({"-n", "ten"}), "--predict needs a whole number, not 'ten'");
  EXPECT_EQ(Sample().refusal({"-n", "3.5"}), "--predict needs a whole number, not '3.5'");
  EXPECT_EQ(Sample().refusal({"-n", ""}), "--predict needs a whole number, not ''");
  EXPECT_EQ(Sample().refusal({"-n", "99999999999"}),
            "--predict needs a whole number that fits, not '99999999999'");
  EXPECT_EQ(Sample().refusal({"-n", "-2"}),
            "--predict needs a whole number of at least -1, not '-2'");
  EXPECT_EQ(Sample().refusal({"--seed", "-1"}),
            "--seed needs a whole number that is not negative, not '-1'");
  EXPECT_EQ(Sample().refusal({"--share", "1.5"}),
            "--share needs a number between 0 and 1, not '1.5'");
  EXPECT_EQ(Sample().refusal({"--temp", "nan"}), "--temp needs a number, not 'nan'");
  EXPECT_EQ(Sample().refusal({"--kv-memory", "much"}),
            "--kv-memory needs bytes such as 2GiB or 512MiB, not 'much'");
  EXPECT_EQ(Sample().refusal({"-o", "jsn"}),
            "--output needs one of md, json, csv (did you mean 'json'?), not 'jsn'");
}

TEST(Arguments, AcceptAChoiceInAnyCaseAsItIsSpelledInTheList) {
  Sample s;
  s.read({"-m", "a", "-o", "JSON"});
  EXPECT_EQ(s.format, "json");
}

TEST(Arguments, NoticeAValueThatWasForgotten) {
  EXPECT_EQ(Sample().refusal({"--temp"}), "--temp needs a value");
  EXPECT_EQ(Sample().refusal({"--temp", "--kv", "full"}),
            "--temp needs a value (T), but '--kv' follows it");
}

TEST(Arguments, RefuseOperandsNobodyAskedFor) {
  EXPECT_EQ(Sample().refusal({"a.txt", "b.txt"}), "unexpected 'b.txt'");
}

TEST(Arguments, AfterTwoHyphensAreOperandsWhateverTheyLookLike) {
  Sample s;
  s.read({"-m", "a", "--", "--quiet"});
  EXPECT_EQ(s.file, "--quiet");
  EXPECT_FALSE(s.quiet);
}

TEST(Arguments, TakeAValueThatOnlyLooksLikeAnOption) {
  Sample s;
  s.read({"-m", "-strange.gguf"});
  EXPECT_EQ(s.model, "-strange.gguf");
}

TEST(Closest, ForgivesSlipsAndUnfinishedWordsButNotOtherWords) {
  const std::vector<std::string> known = {"run", "perplexity", "inspect", "quantize"};
  EXPECT_EQ(closest("inspekt", known), "inspect");
  EXPECT_EQ(closest("perp", known), "perplexity");
  EXPECT_EQ(closest("quantise", known), "quantize");
  EXPECT_EQ(closest("rnu", known), "run");
  EXPECT_EQ(closest("serve", known), "");
  EXPECT_EQ(closest("", known), "");
}

}  // namespace
}  // namespace pith
