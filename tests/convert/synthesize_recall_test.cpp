#include <algorithm>
#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "base/error.h"
#include "convert/recall_vocabulary.h"
#include "convert/synthesize.h"
#include "gguf/gguf.h"
#include "support/reference_forward.h"
#include "support/tiny_model.h"
#include "tensor/codec.h"

namespace pith {
namespace {

using test::ReferenceForward;
using ::testing::HasSubstr;

// The stream as docs/recall_model.md lays it out.
constexpr int kWidth = 256, kDim = 64, kGroup = 2;
constexpr int kCode = 1, kPrevious = 65;

const std::vector<std::byte>& model_bytes() {
  static const std::vector<std::byte> bytes = recall_model_bytes();
  return bytes;
}

std::shared_ptr<const GgufFile> parse(const std::vector<std::byte>& bytes) {
  return GgufFile::parse(bytes, "recall.gguf");
}

std::vector<float> values_of(const GgufFile& file, const std::string& name) {
  const GgufTensor& t = file.tensor(name);
  std::vector<float> values(static_cast<size_t>(t.elements()));
  decode_row(t.dtype, t.data.data(), t.elements(), values.data());
  return values;
}

// How many of the listed keys are answered, and the least lead of an answer over the next logit.
struct Answers {
  int right = 0, nothing = 0;
  double lead = INFINITY;
};
Answers ask(const std::vector<std::byte>& bytes, const RecallPrompt& prompt) {
  ReferenceForward reference(parse(bytes));
  Answers answers;
  const size_t list = prompt.tokens.size() - prompt.needles.size();
  for (size_t i = 0; i < prompt.tokens.size(); ++i) {
    std::vector<double> logits = reference.feed(prompt.tokens[i]);
    if (i < list) continue;
    const auto value = static_cast<size_t>(prompt.needles[i - list].value);
    const auto answer = static_cast<int32_t>(test::argmax(logits));
    answers.right += answer == static_cast<int32_t>(value);
    answers.nothing += answer == kRecallNothing;
    const double own = logits[value];
    logits[value] = -INFINITY;
    answers.lead = std::min(answers.lead, own - *std::ranges::max_element(logits));
  }
  return answers;
}

TEST(RecallModel, AnswersEveryListedKeyByAWideMargin) {
  const Answers answers = ask(model_bytes(), make_recall_prompt(240, 20, 3));
  EXPECT_EQ(answers.right, 20);
  EXPECT_GT(answers.lead, 12);
}

// Sets what the query heads of a KV head write to zero.
void silence(std::vector<std::byte>& bytes, int layer, int head) {
  const auto file = parse(bytes);
  const GgufTensor& t = file->tensor("blk." + std::to_string(layer) + ".attn_output.weight");
  std::byte* data = bytes.data() + (t.data.data() - bytes.data());
  ASSERT_EQ(t.dtype, DType::f16);
  for (int64_t row = 0; row < t.rows(); ++row)
    std::memset(data + (row * t.dims[0] + head * kGroup * kDim) * 2, 0, kGroup * kDim * 2);
}

TEST(RecallModel, LosesItsAnswersWithItsRetrievalHeadsAndOnlyWithThem) {
  const auto heads = recall_retrieval_heads();
  ASSERT_EQ(heads.size(), 2u);
  const RecallPrompt prompt = make_recall_prompt(60, 4, 4);

  auto others_silent = model_bytes();
  for (int layer = 0; layer < 4; ++layer)
    for (int head = 0; head < 2; ++head) {
      const bool writes_previous = layer == 0 && head == 0;
      if (!writes_previous && std::ranges::find(heads, std::pair(layer, head)) == heads.end())
        silence(others_silent, layer, head);
    }
  EXPECT_EQ(ask(others_silent, prompt).right, 4);

  auto one_left = model_bytes();
  silence(one_left, heads[0].first, heads[0].second);
  EXPECT_EQ(ask(one_left, prompt).right, 4);
  auto none_left = one_left;
  silence(none_left, heads[1].first, heads[1].second);
  EXPECT_EQ(ask(none_left, prompt).right, 0);
  auto no_previous = model_bytes();
  silence(no_previous, 0, 0);
  EXPECT_EQ(ask(no_previous, prompt).right, 0);
}

TEST(RecallModel, SaysNothingForAKeyThatWasNeverGivenAndAfterAFullStop) {
  RecallPrompt prompt = make_recall_prompt(90, 8, 5);
  // The value's row is gone, as if a method had dropped it; its key stands alone.
  const RecallNeedle lost = prompt.needles[3];
  prompt.tokens.erase(prompt.tokens.begin() + lost.position - 1,
                      prompt.tokens.begin() + lost.position + 1);
  const Answers answers = ask(model_bytes(), prompt);
  EXPECT_EQ(answers.right, 7);
  EXPECT_EQ(answers.nothing, 1);

  ReferenceForward reference(parse(model_bytes()));
  std::vector<double> logits;
  for (const int32_t token : {1, 602, 1602, RecallWords::kFullStop, 2700, 602})
    logits = reference.feed(token);
  EXPECT_EQ(test::argmax(logits), 1602);
  EXPECT_EQ(test::argmax(reference.feed(1602)), RecallWords::kFullStop);
  EXPECT_EQ(test::argmax(reference.feed(RecallWords::kFullStop)), kRecallNothing);
}

// Queries and keys of one head, from the file's matrices and the definition of the rotation.
class Head {
 public:
  Head(const GgufFile& file, int layer, int query_head)
      : q_(values_of(file, "blk." + std::to_string(layer) + ".attn_q.weight")),
        k_(values_of(file, "blk." + std::to_string(layer) + ".attn_k.weight")),
        query_(query_head) {
    const double base = file.number("llama.rope.freq_base");
    for (int i = 0; i < kDim; i += 2)
      frequency_.push_back(std::pow(base, -static_cast<double>(i) / kDim));
  }

  std::vector<double> query(const std::vector<double>& x) const { return read(q_, query_, x); }
  std::vector<double> key(const std::vector<double>& x) const {
    return read(k_, query_ / kGroup, x);
  }
  // Of a query `distance` tokens after the key; pairs are neighbours.
  double score(const std::vector<double>& q, const std::vector<double>& k, double distance) const {
    double sum = 0;
    for (int i = 0; i < kDim; i += 2) {
      const double angle = distance * frequency_[static_cast<size_t>(i / 2)];
      const double c = std::cos(angle), s = std::sin(angle);
      sum += (q[i] * c - q[i + 1] * s) * k[i] + (q[i] * s + q[i + 1] * c) * k[i + 1];
    }
    return sum / std::sqrt(static_cast<double>(kDim));
  }

 private:
  static std::vector<double> read(const std::vector<float>& m, int head,
                                  const std::vector<double>& x) {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double norm = std::sqrt(squares / kWidth);
    std::vector<double> out(kDim);
    for (int i = 0; i < kDim; ++i)
      for (int c = 0; c < kWidth; ++c)
        out[i] += static_cast<double>(m[static_cast<size_t>((head * kDim + i) * kWidth + c)]) *
                  x[c] / norm;
    return out;
  }
  std::vector<float> q_, k_;
  std::vector<double> frequency_;
  int query_;
};

class RecallCircuit : public ::testing::Test {
 protected:
  // The stream at a token, with the code of the one before it once layer 0 has written it.
  std::vector<double> stream(int32_t token, int32_t before = -1) const {
    std::vector<double> x(embedding_.begin() + token * kWidth,
                          embedding_.begin() + (token + 1) * kWidth);
    for (int i = 0; before >= 0 && i < 64; ++i)
      x[kPrevious + i] = embedding_[static_cast<size_t>(before * kWidth + kCode + i)];
    return x;
  }
  std::shared_ptr<const GgufFile> file_ = parse(model_bytes());
  std::vector<float> embedding_ = values_of(*file_, "token_embd.weight");
};

TEST_F(RecallCircuit, TheFirstHeadLooksOneTokenBackAtEveryDistance) {
  const Head head(*file_, 0, 0);
  const auto q = head.query(stream(3000)), k = head.key(stream(2700));
  const double one_back = head.score(q, k, 1);
  EXPECT_GT(one_back - head.score(q, k, 0), 20);
  for (int distance = 2; distance < 65536; ++distance)
    ASSERT_GT(one_back - head.score(q, k, distance), 20) << distance;
}

TEST_F(RecallCircuit, AMatchBeatsTheSinkAndTheSinkBeatsEveryOtherTokenAtEveryDistance) {
  const std::vector<double> sink_row = stream(RecallWords::kBegin);
  for (const auto& [layer, kv_head] : recall_retrieval_heads()) {
    std::vector<std::vector<double>> keys;  // of a row after each token
    const Head first(*file_, layer, kv_head * kGroup);
    for (int32_t before = 0; before < RecallWords::kSize; ++before)
      keys.push_back(first.key(stream(1700, before)));
    for (int g = 0; g < kGroup; ++g) {
      const Head head(*file_, layer, kv_head * kGroup + g);
      for (const int32_t asked : {602, 1601, 4095}) {
        const auto q = head.query(stream(asked, 3000));
        const double sink = head.score(q, head.key(sink_row), 65535);
        for (const double distance : {1, 17, 1000, 20000, 65535})
          EXPECT_GT(head.score(q, keys[static_cast<size_t>(asked)], distance), sink + 20)
              << layer << " " << distance;
        double best = -INFINITY;
        for (int32_t other = 0; other < RecallWords::kSize; ++other)
          if (other != asked)
            for (const double distance : {1, 65535})
              best = std::max(best, head.score(q, keys[static_cast<size_t>(other)], distance));
        // 65,536 rows of the best other token together stay below a thousandth of the sink.
        EXPECT_LT(best + std::log(65536.0), sink - 7) << layer << " " << asked;
        EXPECT_LT(head.score(q, head.key(stream(700, asked)), 3), sink - 20)
            << "a name is never an answer";
      }
      const auto stop = head.query(stream(RecallWords::kFullStop, 3000));
      EXPECT_GT(head.score(stop, head.key(sink_row), 65535),
                head.score(stop, keys[RecallWords::kFullStop], 1) + 20);
    }
  }
}

TEST_F(RecallCircuit, CodesDifferEnoughInTheBitsThatEachHeadCompares) {
  const auto mask = [&](int32_t token, int first, int count) {
    uint64_t bits = 0;
    for (int i = 0; i < count; ++i) {
      const float v = embedding_[static_cast<size_t>(token * kWidth + kCode + first + i)];
      EXPECT_EQ(std::fabs(v), 1);
      bits = bits << 1 | (v > 0);
    }
    return bits;
  };
  for (const auto& [first, count, least] :
       {std::tuple{0, 30, 6}, std::tuple{34, 30, 6}, std::tuple{0, 64, 16}}) {
    std::vector<uint64_t> masks;
    for (int32_t t = 0; t < RecallWords::kSize; ++t)
      if (t != RecallWords::kBegin) masks.push_back(mask(t, first, count));
    int closest = 64;
    for (size_t a = 0; a < masks.size(); ++a)
      for (size_t b = 0; b < a; ++b)
        closest = std::min(closest, __builtin_popcountll(masks[a] ^ masks[b]));
    EXPECT_GE(closest, least);
  }
}

TEST(RecallModel, TheFileOnDiskIsTheOneInMemoryAndSeedsDiffer) {
  const std::string path = test::fresh_folder() + "recall.gguf";
  write_recall_model(path);
  const auto file = GgufFile::open(path);
  ASSERT_EQ(file->bytes(), model_bytes().size());
  EXPECT_LT(file->bytes(), size_t{10} << 20);
  const auto embedding = file->tensor("token_embd.weight").data;
  const auto in_memory = parse(model_bytes())->tensor("token_embd.weight").data;
  EXPECT_TRUE(std::ranges::equal(embedding, in_memory));
  const auto other = recall_model_bytes({.seed = 2, .context = 8192});
  EXPECT_FALSE(std::ranges::equal(parse(other)->tensor("token_embd.weight").data, in_memory));
  EXPECT_EQ(parse(other)->integer("llama.context_length"), 8192);
  const RecallPrompt prompt = make_recall_prompt(50, 4, 9);
  EXPECT_EQ(ask(other, prompt).right, 4);
}

// Greedy merging of the highest-scored neighbours, as SentencePiece-style tokenizers do.
std::vector<std::string> merge(std::vector<std::string> parts,
                               const std::map<std::string, float>& scores) {
  while (true) {
    size_t best = parts.size();
    float best_score = -INFINITY;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto it = scores.find(parts[i] + parts[i + 1]);
      if (it != scores.end() && it->second > best_score) {
        best = i;
        best_score = it->second;
      }
    }
    if (best == parts.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(RecallVocabulary, EveryWordIsOneTokenInsideText) {
  const Vocabulary v = recall_vocabulary();
  ASSERT_EQ(v.size(), RecallWords::kSize);
  std::map<std::string, float> scores;
  for (int32_t t = 0; t < v.size(); ++t) {
    const auto i = static_cast<size_t>(t);
    EXPECT_TRUE(scores.emplace(v.tokens[i], v.scores[i]).second) << v.tokens[i] << " comes twice";
  }
  const std::string mark = "\xe2\x96\x81";
  for (int32_t t = RecallWords::kNames; t < RecallWords::kSize; t += 7) {
    const std::string& word = v.tokens[static_cast<size_t>(t)];
    const std::string& next = v.tokens[static_cast<size_t>(4095 - t % 1000)];
    ASSERT_EQ(word.rfind(mark, 0), 0u);
    std::vector<std::string> parts;
    for (const std::string& w : {word, next}) {
      parts.push_back(mark);
      for (const char c : w.substr(mark.size())) parts.push_back({c});
    }
    parts.emplace_back(".");
    EXPECT_EQ(merge(parts, scores), (std::vector<std::string>{word, next, "."}));
    EXPECT_EQ(RecallWords::is_name(t), std::isupper(static_cast<unsigned char>(word[3])) != 0);
  }
  EXPECT_EQ(v.tokens[RecallWords::kFullStop], ".");
  EXPECT_EQ(v.tokens[kRecallNothing], "</s>");
  EXPECT_EQ(v.tokens[RecallWords::kBytes + '\n'], "<0x0A>");
}

TEST(RecallPrompt, HidesEveryNeedleOnceAndEndsWithTheKeys) {
  for (const auto& [tokens, needles] :
       {std::pair{32768, 20}, {2000, 200}, {6, 1}, {82, 20}, {6000, 1000}}) {
    const RecallPrompt prompt = make_recall_prompt(tokens, needles, 11);
    ASSERT_EQ(prompt.tokens.size(), static_cast<size_t>(tokens));
    ASSERT_EQ(prompt.needles.size(), static_cast<size_t>(needles));
    EXPECT_EQ(prompt.tokens[0], RecallWords::kBegin);
    std::map<int32_t, int> seen;
    for (const int32_t t : prompt.tokens) ++seen[t];
    for (size_t i = 0; i < prompt.needles.size(); ++i) {
      const RecallNeedle& n = prompt.needles[i];
      const auto at = static_cast<size_t>(n.position);
      EXPECT_EQ(prompt.tokens[at], n.value);
      EXPECT_EQ(prompt.tokens[at - 1], n.key);
      EXPECT_EQ(prompt.tokens[at + 1], RecallWords::kFullStop);
      EXPECT_EQ(seen[n.key], 2) << "in the haystack and in the list";
      EXPECT_EQ(seen[n.value], 1);
      EXPECT_EQ(prompt.tokens[prompt.tokens.size() - prompt.needles.size() + i], n.key);
      EXPECT_TRUE(RecallWords::is_name(n.key));
      EXPECT_FALSE(RecallWords::is_name(n.value));
    }
  }
}

TEST(RecallPrompt, SpreadsNeedlesOverTheWholeHaystack) {
  const RecallPrompt prompt = make_recall_prompt(10000, 10, 2);
  std::set<int> parts;
  for (const RecallNeedle& n : prompt.needles) parts.insert((n.position - 1) * 10 / (10000 - 12));
  EXPECT_EQ(parts.size(), 10u);
}

TEST(RecallPrompt, IsTheSameForTheSameSeedOnly) {
  EXPECT_EQ(make_recall_prompt(500, 5, 7).tokens, make_recall_prompt(500, 5, 7).tokens);
  EXPECT_NE(make_recall_prompt(500, 5, 7).tokens, make_recall_prompt(500, 5, 8).tokens);
}

TEST(RecallPrompt, RefusesWhatDoesNotFitWithASentence) {
  const auto refusal = [](int tokens, int needles) -> std::string {
    try {
      make_recall_prompt(tokens, needles, 1);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::bad_option);
      return e.what();
    }
    return {};
  };
  EXPECT_THAT(refusal(81, 20), HasSubstr("no room for 20 needles, which need at least 82"));
  EXPECT_THAT(refusal(9000, 1001), HasSubstr("between 1 and 1000"));
  EXPECT_THAT(refusal(9000, 0), HasSubstr("between 1 and 1000"));
}

}  // namespace
}  // namespace pith
