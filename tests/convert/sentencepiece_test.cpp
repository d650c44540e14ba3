#include "convert/sentencepiece.h"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/hf_folder.h"
#include "support/test_data.h"

namespace pith::test {
namespace {

using ::testing::HasSubstr;

Vocabulary read(const std::string& bytes) {
  return read_sentencepiece(std::as_bytes(std::span(bytes)), "tokenizer.model", Monitor::silent());
}

std::string refusal(const std::string& bytes, Errc code = Errc::bad_file) {
  try {
    read(bytes);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code);
    return e.what();
  }
  return "it was accepted";
}

TEST(Sentencepiece, ReadsPiecesScoresAndKinds) {
  const Vocabulary v = read(sentencepiece_bytes({{"<unk>", 0, 2},
                                                 {"<s>", 0, 3},
                                                 {"</s>", 0, 3},
                                                 {"<0x0A>", 0, 6},
                                                 {"a", -7.5, 1},
                                                 {"\xe2\x96\x81\xe2\x96\x81", 0, 4}},
                                                false));
  EXPECT_EQ(v.model, "llama");
  EXPECT_EQ(v.size(), 6);
  EXPECT_EQ(v.tokens[4], "a");
  EXPECT_EQ(v.scores[4], -7.5f);
  EXPECT_EQ(v.kinds[0], TokenKind::unknown);
  EXPECT_EQ(v.kinds[3], TokenKind::byte);
  EXPECT_EQ(v.kinds[5], TokenKind::user_defined);
  EXPECT_EQ(v.tokens[5], "  ");  // matched before spaces become marks
  EXPECT_FALSE(v.add_space_prefix);
  EXPECT_EQ(v.begin, 1);
  EXPECT_EQ(v.end, 2);
  EXPECT_EQ(v.padding, -1);
}

// Counts and pieces read with an independent program.
TEST(Sentencepiece, ReadsMistralsVocabularies) {
  PITH_NEEDS_DATA("mistral-spm/tokenizer.model.v1");
  const Vocabulary v1 = read(read_file(data_path("mistral-spm/tokenizer.model.v1")));
  ASSERT_EQ(v1.size(), 32000);
  EXPECT_EQ(v1.tokens[272], "\xe2\x96\x81the");
  EXPECT_EQ(v1.scores[272], -13);
  EXPECT_EQ(v1.tokens[31999], "\xe6\xa2\xa6");
  EXPECT_EQ(v1.scores[31999], -31740);
  EXPECT_EQ(std::ranges::count(v1.kinds, TokenKind::byte), 256);
  EXPECT_EQ(std::ranges::count(v1.kinds, TokenKind::normal), 31741);
  EXPECT_TRUE(v1.add_space_prefix);
  const Vocabulary v3 = read(read_file(data_path("mistral-spm/tokenizer.model.v3")));
  ASSERT_EQ(v3.size(), 32768);
  EXPECT_EQ(v3.tokens[5], "[TOOL_CALLS]");
  EXPECT_EQ(std::ranges::count(v3.kinds, TokenKind::control), 750);
  EXPECT_EQ(std::ranges::count(v3.kinds, TokenKind::user_defined), 20);
}

TEST(Sentencepiece, RefusesDamageAndOtherKindsOfFiles) {
  const std::string good = sentencepiece_bytes({{"<unk>", 0, 2}, {"ab", -1, 1}});
  EXPECT_EQ(refusal(good), "it was accepted");
  EXPECT_THAT(refusal(""), HasSubstr("no SentencePiece model"));
  EXPECT_THAT(refusal("IQ== 0\nIg== 1\n"), HasSubstr("no SentencePiece model"));
  EXPECT_FALSE(looks_like_sentencepiece(std::as_bytes(std::span("IQ== 0"))));
  EXPECT_TRUE(looks_like_sentencepiece(std::as_bytes(std::span(good))));
  EXPECT_THAT(refusal(std::string(11, '\xff')), HasSubstr("no SentencePiece model"));
  EXPECT_THAT(refusal(std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11)),
              HasSubstr("damaged"));
  EXPECT_THAT(refusal(std::string("\x0b", 1)), HasSubstr("damaged"));  // a group: none are written
  EXPECT_THAT(refusal(std::string("\x02\0", 2)), HasSubstr("damaged"));  // field 0
  EXPECT_THAT(refusal(sentencepiece_bytes({{"", 0, 1}})), HasSubstr("damaged"));
  EXPECT_THAT(refusal(sentencepiece_bytes({{"a", 0, 7}})), HasSubstr("damaged"));
  EXPECT_THAT(refusal(sentencepiece_bytes({{"a", INFINITY, 1}})), HasSubstr("damaged"));
  EXPECT_THAT(refusal(sentencepiece_bytes({{"a", 0, 1}}, true, 1), Errc::unsupported),
              HasSubstr("another kind than BPE"));
}

TEST(Sentencepiece, NoticesEveryCutThatIsNotBetweenItsParts) {
  const std::string piece = sentencepiece_bytes({{"<unk>", 0, 2}, {"ab", -1, 1}});
  int accepted = 0, without_kind = 0, damaged = 0;
  for (size_t cut = 1; cut < piece.size(); ++cut) {
    try {
      read(piece.substr(0, cut));
      ++accepted;
    } catch (const Error& e) {
      ++(e.code() == Errc::unsupported ? without_kind : damaged);
      EXPECT_THAT(e.what(), HasSubstr("tokenizer.model: is")) << cut;
    }
  }
  EXPECT_EQ(accepted, 1);      // before the normaliser, which is optional
  EXPECT_EQ(without_kind, 2);  // after each piece, before the part that says BPE
  EXPECT_EQ(damaged, static_cast<int>(piece.size()) - 4);
}

}  // namespace
}  // namespace pith::test
