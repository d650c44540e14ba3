#include "apps/generation.h"

#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace pith::test {
namespace {

constexpr int kTokens = 40;

class Answers : public ::testing::TestWithParam<std::string> {
 protected:
  Answers()
      : engine_(Model::load(write_tiny_model(tiny_model("llama"))), {.threads = 1}),
        prompt_(tiny_tokens(tiny_model("llama"), 48)) {}

  Generated generate(Session& session, std::vector<std::string> stops) {
    GenerateRequest request;
    request.max_tokens = kTokens;
    request.stops = std::move(stops);
    request.show = request.bar = false;
    request.goes_on = true;
    return generate_text(engine_, session, prompt_, request);
  }
  std::unique_ptr<Session> open() { return engine_.open(GetParam(), {.temperature = 0}); }
  std::string text_of(const std::vector<int32_t>& tokens, size_t first, size_t count) const {
    std::string text;
    for (size_t i = first; i < first + count; ++i) text += engine_.tokenizer().piece(tokens[i]);
    return text;
  }
  // The logits after the prompt, `count` tokens decoded one by one, and one more turn.
  std::vector<float> logits_after(const std::vector<int32_t>& tokens, size_t count) {
    const auto session = open();
    engine_.prefill(*session, prompt_);
    for (size_t i = 0; i < count; ++i) {
      Session* const one = session.get();
      engine_.decode({&one, 1}, {&tokens[i], 1});
    }
    return logits_of_a_turn(*session);
  }
  std::vector<float> logits_of_a_turn(Session& session) {
    engine_.prefill(session, std::span(prompt_).first(5));
    return session.logits;
  }

  Engine engine_;
  std::vector<int32_t> prompt_;
};

TEST_P(Answers, LeaveNothingOfAStopStringInTheCache) {
  const auto whole_session = open();
  const Generated whole = generate(*whole_session, {});
  ASSERT_EQ(whole.finish, "length");
  EXPECT_EQ(whole.held, whole.text);
  int met = 0;
  for (size_t first = 1; first + 3 <= kTokens; ++first) {
    // The text of three tokens, which is nowhere else before.
    const std::string stop = text_of(whole.tokens, first, 3);
    const std::string before = text_of(whole.tokens, 0, first);
    if (stop.size() < 3 || whole.text.find(stop) != before.size()) continue;
    ++met;
    const auto session = open();
    const Generated answer = generate(*session, {stop});
    EXPECT_EQ(answer.finish, "stop_string");
    EXPECT_EQ(answer.text, before);
    ASSERT_NE(answer.before_stop, nullptr);
    const size_t held = answer.before_stop->tokens.size() - prompt_.size();
    EXPECT_EQ(answer.held, text_of(whole.tokens, 0, held));
    EXPECT_TRUE(before.starts_with(answer.held));
    // Text may repeat itself so that the stop string seemed to begin a little earlier.
    EXPECT_GT(answer.held.size() + stop.size(), before.size());
    EXPECT_EQ(logits_of_a_turn(*answer.before_stop), logits_after(whole.tokens, held));
  }
  EXPECT_GT(met, 5);
}

TEST_P(Answers, GoOnAfterTextThatOnlyBeginsLikeAStopString) {
  const auto whole_session = open();
  const Generated whole = generate(*whole_session, {});
  const std::string stop = text_of(whole.tokens, 7, 2) + "\x01 and so on";
  const auto session = open();
  const Generated answer = generate(*session, {stop});
  EXPECT_EQ(answer.finish, "length");
  EXPECT_EQ(answer.text, whole.text);
  EXPECT_EQ(answer.held, whole.text);
  EXPECT_EQ(answer.before_stop, nullptr);
  EXPECT_EQ(logits_of_a_turn(*session), logits_after(whole.tokens, kTokens));
}

TEST_P(Answers, NeedNoForkWhereOneTokenIsTheWholeStopString) {
  const auto whole_session = open();
  const Generated whole = generate(*whole_session, {});
  for (size_t first = 1; first < kTokens; ++first) {
    const std::string stop = text_of(whole.tokens, first, 1);
    const std::string before = text_of(whole.tokens, 0, first);
    if (stop.empty() || whole.text.find(stop) != before.size()) continue;
    const auto session = open();
    const Generated answer = generate(*session, {stop});
    EXPECT_EQ(answer.text, before);
    EXPECT_EQ(answer.held, before);
    EXPECT_EQ(answer.before_stop, nullptr);
    EXPECT_EQ(session->tokens.size(), prompt_.size() + first);
  }
}

INSTANTIATE_TEST_SUITE_P(Specs, Answers,
                         ::testing::Values("full", "streaming_llm:budget=24",
                                           "snapkv:budget=20,window=8"),
                         [](const auto& each) {
                           return each.param.substr(0, each.param.find(':'));
                         });

}  // namespace
}  // namespace pith::test
