#include "text/tokenizer.h"

#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <limits>

#include "base/error.h"
#include "gguf/gguf.h"
#include "support/small_vocabularies.h"

namespace pith::test {
namespace {

using Ids = std::vector<int32_t>;

void expect_refused(const VocabularySpec& spec, Errc code,
                    std::initializer_list<const char*> parts) {
  try {
    make_tokenizer(spec);
    ADD_FAILURE() << "no error that says '" << *parts.begin() << "'";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    const std::string what = error.what();
    EXPECT_NE(what.find(spec.source), std::string::npos) << what;
    for (const char* part : parts) EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

std::unique_ptr<OwnedSpec> some_llama() {
  auto owned = small_sentencepiece({{kMark, 0}, {"a", 0}});
  owned->spec.source = "a.gguf";
  return owned;
}

std::unique_ptr<OwnedSpec> some_gpt2() {
  auto owned = small_byte_level({"a b", "ab c"}, {"<s>", "</s>"});
  owned->spec.source = "a.gguf";
  owned->spec.begin = owned->spec.tokens.size() - 2;
  owned->spec.end = owned->spec.tokens.size() - 1;
  return owned;
}

TEST(Tokenizer, RefusesAModelItDoesNotKnowAndNamesThoseItDoes) {
  const auto owned = some_llama();
  owned->spec.model = "bert";
  expect_refused(owned->spec, Errc::unsupported, {"WordPiece", "'llama'", "'gpt2'"});
  owned->spec.model = "t5";
  expect_refused(owned->spec, Errc::unsupported, {"'t5'", "'llama'", "'gpt2'"});
}

TEST(Tokenizer, RefusesAVocabularyWithoutTokens) {
  const auto owned = some_llama();
  owned->spec.tokens.clear();
  expect_refused(owned->spec, Errc::bad_file, {"tokenizer.ggml.tokens", "empty"});
}

TEST(Tokenizer, RefusesListsOfAnotherLengthThanTheTokens) {
  auto owned = some_llama();
  owned->spec.scores.pop_back();
  expect_refused(owned->spec, Errc::bad_file, {"tokenizer.ggml.scores has 260", "261 tokens"});
  owned->spec.scores.clear();
  expect_refused(owned->spec, Errc::bad_file, {"tokenizer.ggml.scores has 0"});
  owned = some_llama();
  owned->spec.types.push_back(kNormal);
  expect_refused(owned->spec, Errc::bad_file, {"tokenizer.ggml.token_type has 262", "261 tokens"});
}

TEST(Tokenizer, RefusesTypesScoresAndBytesThatAreNone) {
  auto owned = some_llama();
  owned->spec.types[7] = 9;
  expect_refused(owned->spec, Errc::bad_file, {"token_type[7] is 9"});
  owned->spec.types[7] = -1;
  expect_refused(owned->spec, Errc::bad_file, {"token_type[7] is -1"});
  owned = some_llama();
  owned->spec.scores[260] = std::numeric_limits<float>::quiet_NaN();
  expect_refused(owned->spec, Errc::bad_file, {"scores[260]", "not a number"});
  for (const char* name : {"<0x4>", "<0x4G>", "<0x041>", "0x41", "<0X41>", "<0x+4>"}) {
    owned = some_llama();
    owned->spec.tokens[10] = name;
    expect_refused(owned->spec, Errc::bad_file, {"token 10", "type byte", name});
  }
}

TEST(Tokenizer, RefusesSpecialTokensOutOfRange) {
  for (const int64_t id : {int64_t{-1}, int64_t{261}, int64_t{1} << 40}) {
    auto owned = some_llama();
    owned->spec.begin = id;
    expect_refused(owned->spec, Errc::bad_file,
                   {"tokenizer.ggml.bos_token_id is ", std::to_string(id).c_str(), "261 tokens"});
    owned = some_llama();
    owned->spec.end = id;
    expect_refused(owned->spec, Errc::bad_file, {"tokenizer.ggml.eos_token_id is "});
    owned = some_llama();
    owned->spec.unknown = id;
    expect_refused(owned->spec, Errc::bad_file, {"tokenizer.ggml.unknown_token_id is "});
    owned = some_llama();
    owned->spec.more_ends = {id};
    expect_refused(owned->spec, Errc::bad_file, {"ends a turn"});
  }
}

TEST(Tokenizer, RefusesMergesThatNameNoToken) {
  auto owned = some_gpt2();
  owned->spec.merges.push_back("ab d");  // makes "abd"
  expect_refused(owned->spec, Errc::bad_file, {"merges[2]", "'abd'"});
  owned->spec.merges.back() = "xy a";
  expect_refused(owned->spec, Errc::bad_file, {"merges[2]", "'xya'"});
  for (const char* merge : {"", "ab", "ab ", " ab", " "}) {
    owned->spec.merges.back() = merge;
    expect_refused(owned->spec, Errc::bad_file, {"merges[2]"});
  }
}

// A file with the 256 letters of bytes and "ab", and a list of merges if there is one.
std::vector<std::byte> byte_level_file(const std::vector<std::string>* merges) {
  const auto owned = small_byte_level({"a b"});
  std::vector<std::byte> bytes;
  GgufWriter writer(bytes);
  writer.set_text("general.architecture", "llama");
  writer.set_text("tokenizer.ggml.model", "gpt2");
  writer.set_text("tokenizer.ggml.pre", "gpt-2");
  writer.set_texts("tokenizer.ggml.tokens",
                   std::vector<std::string>(owned->spec.tokens.begin(), owned->spec.tokens.end()));
  if (merges != nullptr) writer.set_texts("tokenizer.ggml.merges", *merges);
  writer.begin();
  writer.finish();
  return bytes;
}

TEST(Tokenizer, NamesTheFileTheFieldAndTheRemedyWhereAFileLacksItsMerges) {
  const std::vector<std::string> some = {"a b"}, none;
  std::vector<std::byte> bytes = byte_level_file(&some);
  EXPECT_EQ(Tokenizer::load(*GgufFile::parse(bytes, "whole.gguf"))->encode("ab", false).size(), 1u);
  for (const std::vector<std::string>* merges :
       {static_cast<const std::vector<std::string>*>(nullptr), &none}) {
    bytes = byte_level_file(merges);
    const auto file = GgufFile::parse(bytes, "lossy.gguf");
    try {
      Tokenizer::load(*file);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::bad_file);
      const std::string what = error.what();
      for (const char* part : {"lossy.gguf", "tokenizer.ggml.merges", "convert the model again"})
        EXPECT_NE(what.find(part), std::string::npos) << what;
    }
  }
}

TEST(Tokenizer, GuessesThePreTokeniserOnlyWhereTheFileNamesNone) {
  const auto owned = some_gpt2();
  owned->spec.pre.reset();
  for (const char* architecture : {"gptneox", "mpt", "qwen2", "unheard_of"}) {
    owned->spec.architecture = architecture;
    EXPECT_NO_THROW(make_tokenizer(owned->spec));
  }
  owned->spec.pre = "";
  expect_refused(owned->spec, Errc::unsupported, {"tokenizer.ggml.pre is ''"});
}

TEST(Tokenizer, AddsBeginAndEndAsTheFileSaysAndNeverTwice) {
  const auto owned = some_gpt2();
  const auto [begin, end] =
      std::pair(static_cast<int32_t>(*owned->spec.begin), static_cast<int32_t>(*owned->spec.end));
  EXPECT_EQ(make_tokenizer(owned->spec)->encode_prompt("x", true), (Ids{'x'}));
  owned->spec.adds_begin = true;
  owned->spec.adds_end = true;
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(tokenizer->encode_prompt("x", true), (Ids{begin, 'x', end}));
  EXPECT_EQ(tokenizer->encode_prompt("<s>x</s>", true), (Ids{begin, 'x', end}));
  EXPECT_EQ(tokenizer->encode_prompt("", true), (Ids{begin, end}));
  EXPECT_EQ(tokenizer->encode("x", true), (Ids{'x'}));
  owned->spec.begin.reset();
  EXPECT_FALSE(make_tokenizer(owned->spec)->adds_begin());
}

TEST(Tokenizer, EndsAGenerationAtEveryTokenThatMeansAnEnd) {
  auto owned = some_gpt2();
  const int32_t turn = add_token(*owned, "<|im_end|>", kNormal);  // a converter's mistake
  const int32_t text = add_token(*owned, "<eos>", kNormal);       // text, for all we know
  const int32_t marked = add_token(*owned, "[EOT]", kControl);
  const int32_t said = add_token(*owned, "stop here", kControl);
  owned->spec.more_ends = {said};
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_TRUE(tokenizer->ends_generation(tokenizer->end_token()));
  EXPECT_TRUE(tokenizer->ends_generation(turn));
  EXPECT_TRUE(tokenizer->ends_generation(marked));
  EXPECT_TRUE(tokenizer->ends_generation(said));
  EXPECT_FALSE(tokenizer->ends_generation(text));
  EXPECT_FALSE(tokenizer->ends_generation('a'));
  EXPECT_EQ(tokenizer->encode("<|im_end|>", true), (Ids{turn}));
  EXPECT_EQ(tokenizer->encode("<|im_end|>", false).size(), 10u);
}

TEST(Tokenizer, AnswersNothingForTokensThatDoNotExist) {
  const auto tokenizer = make_tokenizer(some_gpt2()->spec);
  for (const int32_t token : {-1, tokenizer->size(), INT32_MAX}) {
    EXPECT_EQ(tokenizer->piece(token), "");
    EXPECT_EQ(tokenizer->name(token), "");
    EXPECT_FALSE(tokenizer->ends_generation(token));
    EXPECT_EQ(tokenizer->decode({token}), "");
  }
}

TEST(Tokenizer, OfTwoTokensWithOneNameTheNormalOneIsTheText) {
  const auto owned = some_llama();
  const int32_t token = add_token(*owned, "b", kUnused, -3);
  const int32_t twin = add_token(*owned, "b", kNormal, -1);
  const auto tokenizer = make_tokenizer(owned->spec);
  EXPECT_EQ(tokenizer->find("b"), twin);
  EXPECT_NE(tokenizer->find("b"), token);
}

std::string write_small(const std::string& name, const OwnedSpec& owned,
                        const std::function<void(GgufWriter&)>& more = {}) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "pith_tokenizer_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / name).string();
  GgufWriter out(path);
  out.set_text("general.architecture", "llama");
  const VocabularySpec& spec = owned.spec;
  if (!spec.model.empty()) out.set_text("tokenizer.ggml.model", spec.model);
  if (spec.pre) out.set_text("tokenizer.ggml.pre", *spec.pre);
  const auto strings = [](const std::vector<std::string_view>& views) {
    return std::vector<std::string>(views.begin(), views.end());
  };
  out.set_texts("tokenizer.ggml.tokens", strings(spec.tokens));
  out.set_i32s("tokenizer.ggml.token_type", Ids(spec.types.begin(), spec.types.end()));
  if (!spec.scores.empty()) out.set_f32s("tokenizer.ggml.scores", spec.scores);
  if (!spec.merges.empty()) out.set_texts("tokenizer.ggml.merges", strings(spec.merges));
  if (spec.begin) out.set_u32("tokenizer.ggml.bos_token_id", *spec.begin);
  if (spec.end) out.set_u32("tokenizer.ggml.eos_token_id", *spec.end);
  if (more) more(out);
  out.begin();
  out.finish();
  return path;
}

TEST(Tokenizer, ReadsAllItsSettingsFromAFileAndOutlivesIt) {
  const auto owned = some_gpt2();
  add_token(*owned, "<turn>", kControl);
  const auto turn = static_cast<int32_t>(owned->spec.tokens.size()) - 1;
  const std::string path = write_small("settings.gguf", *owned, [&](GgufWriter& out) {
    out.set_bool("tokenizer.ggml.add_bos_token", true);
    out.set_bool("tokenizer.ggml.add_eos_token", true);
    out.set_u32("tokenizer.ggml.eot_token_id", turn);
  });
  const auto tokenizer = Tokenizer::load(*GgufFile::open(path));
  std::filesystem::remove(path);
  EXPECT_EQ(tokenizer->encode_prompt("abc", false),
            (Ids{tokenizer->find("<s>"), tokenizer->find("abc"), tokenizer->find("</s>")}));
  EXPECT_TRUE(tokenizer->ends_generation(turn));
  EXPECT_EQ(tokenizer->size(), turn + 1);
}

TEST(Tokenizer, OfAFileMayHaveNoSpacePrefix) {
  const auto owned = some_llama();
  const std::string path = write_small("no_prefix.gguf", *owned, [&](GgufWriter& out) {
    out.set_bool("tokenizer.ggml.add_space_prefix", false);
  });
  const auto tokenizer = Tokenizer::load(*GgufFile::open(path));
  EXPECT_EQ(tokenizer->encode_prompt("a", false), (Ids{1, tokenizer->find("a")}));
  std::filesystem::remove(path);
}

TEST(Tokenizer, OfAFileWithoutOneIsAnErrorThatNamesTheFile) {
  auto owned = some_llama();
  owned->spec.model = "";
  const std::string path = write_small("none.gguf", *owned);
  try {
    Tokenizer::load(*GgufFile::open(path));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_file);
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("tokenizer.ggml.model"), std::string::npos);
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace pith::test
