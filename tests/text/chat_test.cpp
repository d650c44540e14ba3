#include "text/chat.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/small_vocabularies.h"

namespace pith::test {
namespace {

const std::vector<ChatMessage> kTalk = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello"}, {"user", " How are you? "}};

std::string talk(std::string_view family, bool ask = true) {
  return ChatTemplate::named(family).render(kTalk, ask);
}

// The expected texts are what the models' own templates give for this talk.
TEST(ChatTemplate, WritesChatMl) {
  EXPECT_EQ(talk("chatml"),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n How are you? <|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_FALSE(talk("chatml", false).ends_with("assistant\n"));
}

TEST(ChatTemplate, WritesLlama2WithTheSystemTextInsideTheFirstTurn) {
  EXPECT_EQ(talk("llama2"),
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>"
            "<s>[INST] How are you? [/INST]");
}

TEST(ChatTemplate, WritesLlama3) {
  EXPECT_EQ(talk("llama3"),
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHow are you?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, WritesTheFourFormsOfMistral) {
  EXPECT_EQ(talk("mistral-v1"),
            " [INST] Be brief.\n\nHi [/INST] Hello</s> [INST]  How are you?  [/INST]");
  EXPECT_EQ(talk("mistral-v3"),
            "[INST] Be brief.\n\nHi[/INST] Hello</s>[INST]  How are you? [/INST]");
  EXPECT_EQ(talk("mistral-v3-tekken"),
            "[INST]Be brief.\n\nHi[/INST]Hello</s>[INST] How are you? [/INST]");
  EXPECT_EQ(talk("mistral-v7"),
            "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST] Hi[/INST] Hello</s>"
            "[INST]  How are you? [/INST]");
}

TEST(ChatTemplate, WritesGemmaWhichHasNoSystemTurn) {
  EXPECT_EQ(talk("gemma"),
            "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello"
            "<end_of_turn>\n<start_of_turn>user\nHow are you?<end_of_turn>\n"
            "<start_of_turn>model\n");
}

TEST(ChatTemplate, WritesTheEndTokenOfTheModelWhereTheFamilyDoes) {
  EXPECT_EQ(ChatTemplate::named("zephyr", "<|endoftext|>").render(kTalk),
            "<|system|>\nBe brief.<|endoftext|>\n<|user|>\nHi<|endoftext|>\n<|assistant|>\nHello"
            "<|endoftext|>\n<|user|>\n How are you? <|endoftext|>\n<|assistant|>\n");
  EXPECT_EQ(ChatTemplate::named("zephyr", "<|endoftext|>").stops(),
            (std::vector<std::string>{"<|endoftext|>"}));
  EXPECT_EQ(ChatTemplate::named("zephyr").stops(), (std::vector<std::string>{"</s>"}));
}

TEST(ChatTemplate, WritesPhiAndDeepSeek) {
  EXPECT_EQ(talk("phi3"),
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n"
            "<|user|>\n How are you? <|end|>\n<|assistant|>\n");
  EXPECT_EQ(talk("phi4"),
            "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi<|im_end|>"
            "<|im_start|>assistant<|im_sep|>Hello<|im_end|>"
            "<|im_start|>user<|im_sep|> How are you? <|im_end|><|im_start|>assistant<|im_sep|>");
  EXPECT_EQ(talk("deepseek-coder"),
            "Be brief.### Instruction:\nHi\n### Response:\nHello\n<|EOT|>\n"
            "### Instruction:\n How are you? \n### Response:\n");
  EXPECT_EQ(talk("deepseek3"),
            "Be brief.\n\n<\xef\xbd\x9cUser\xef\xbd\x9c>Hi<\xef\xbd\x9c"
            "Assistant\xef\xbd\x9c>Hello"
            "<\xef\xbd\x9c"
            "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
            "<\xef\xbd\x9cUser\xef\xbd\x9c> How are you? <\xef\xbd\x9c"
            "Assistant\xef\xbd\x9c>");
}

TEST(ChatTemplate, WritesASystemMessageThatNoUserFollows) {
  EXPECT_EQ(ChatTemplate::named("gemma").render(std::vector<ChatMessage>{{"system", "Go."}}),
            "<start_of_turn>user\nGo.\n\n<end_of_turn>\n<start_of_turn>model\n");
}

TEST(ChatTemplate, TakesContentAsItIs) {
  const std::vector<ChatMessage> odd = {{"user", "write {end} and <|im_end|>"}};
  EXPECT_EQ(ChatTemplate::named("zephyr").render(odd, false),
            "<|user|>\nwrite {end} and <|im_end|></s>\n");
}

TEST(ChatTemplate, RefusesARoleItDoesNotKnow) {
  try {
    ChatTemplate::named("chatml").render(std::vector<ChatMessage>{{"tool", "42"}});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_request);
    EXPECT_NE(std::string(error.what()).find("'tool'"), std::string::npos) << error.what();
  }
}

// Lines of the templates models are published with.
TEST(ChatTemplate, RecognisesTheTemplatesOfModels) {
  const std::vector<std::pair<const char*, const char*>> known = {
      {"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
       "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}",
       "chatml"},
      {"{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + "
       "message['content'] + '<|im_end|>'}}",
       "phi4"},
      {"{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ "
       "message['content'] | trim + '<|eot_id|>' %}",
       "llama3"},
      {"{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
       "message['content'] %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}",
       "llama2"},
      {"{%- if (message['role'] == 'user') %}{{ ' [INST] ' + system_message + '\\n\\n' + "
       "message['content'] + ' [/INST]' }}",
       "mistral-v1"},
      {"{{- \"[AVAILABLE_TOOLS] [\" }}{{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}",
       "mistral-v3"},
      {"{{- \"[AVAILABLE_TOOLS][\" }}{{- \"[INST]\" + message[\"content\"] + \"[/INST]\" }}",
       "mistral-v3-tekken"},
      {"{{ '[SYSTEM_PROMPT] ' + m['content'] + '[/SYSTEM_PROMPT]' }}{{ '[INST] ' + "
       "m['content'] + '[/INST]' }}",
       "mistral-v7"},
      {"{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}",
       "gemma"},
      {"{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
       "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + "
       "eos_token }}",
       "zephyr"},
      {"{% if message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}{% elif "
       "message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}",
       "falcon3"},
      {"{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}",
       "command-r"},
      {"{{'### Instruction:\\n' + message['content'] + '\\n'}}{{'### Response:\\n' + "
       "message['content'] + '\\n<|EOT|>\\n'}}",
       "deepseek-coder"},
      {"{{ 'User: ' + message['content'] + '\\n\\n' }}{{ 'Assistant: ' + message['content'] + "
       "eos_token }}",
       "deepseek2"},
      {"{{'<\xef\xbd\x9cUser\xef\xbd\x9c>' + message['content']}}{{'<\xef\xbd\x9c"
       "Assistant\xef\xbd\x9c>' + message['content']}}",
       "deepseek3"},
      {"{{- '<|header_start|>' + message['role'] + '<|header_end|>\\n\\n' }}", "llama4"},
      {"{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' }}", "granite"},
      {"{{ 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + "
       "'<|end_of_turn|>'}}",
       "openchat"},
      {"{{ 'USER: ' + message['content'] }}{{ 'ASSISTANT: ' + message['content'] + eos_token }}",
       "vicuna"},
  };
  std::vector<std::string_view> seen;
  for (const auto& [jinja, family] : known) {
    const auto found = ChatTemplate::recognise(jinja);
    ASSERT_TRUE(found.has_value()) << jinja;
    EXPECT_EQ(*found, family) << jinja;
    seen.push_back(*found);
  }
  seen.emplace_back("phi3");  // by the template of a published file, below
  for (const std::string_view family : ChatTemplate::families())
    EXPECT_NE(std::ranges::find(seen, family), seen.end()) << family << " is not recognised";
  EXPECT_FALSE(ChatTemplate::recognise("{{ messages[0]['content'] }}"));
  EXPECT_FALSE(ChatTemplate::recognise(""));
}

TEST(ChatTemplate, OfAPublishedPhi3IsRecognisedAndItsTurnsBecomeSpecialTokens) {
  const auto tokenizer = load_vocabulary("phi-3");
  if (!tokenizer) GTEST_SKIP() << "the vocabulary phi-3 is not in the test data";
  const std::string jinja =
      "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}"
      "{{'<|user|>' + '\\n' + message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}";
  ASSERT_EQ(ChatTemplate::recognise(jinja), "phi3");
  const auto chat = ChatTemplate::named("phi3");
  const auto tokens =
      tokenizer->encode_prompt(chat.render(std::vector<ChatMessage>{{"user", "Hi"}}), true);
  ASSERT_EQ(tokens.size(), 5u);
  EXPECT_EQ(tokens.front(), 1);
  EXPECT_EQ(tokens[1], 32010);  // <|user|>
  EXPECT_EQ(tokens[3], 32007);  // <|end|>
  EXPECT_EQ(tokens[4], 32001);  // <|assistant|>
  EXPECT_EQ(chat.stop_tokens(*tokenizer), (std::vector<int32_t>{32007}));
  EXPECT_TRUE(tokenizer->ends_generation(32007));
}

TEST(ChatTemplate, OfAnUnknownNameIsAnErrorThatListsTheFamilies) {
  try {
    ChatTemplate::named("lama3");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_option);
    for (const std::string_view family : ChatTemplate::families())
      EXPECT_NE(std::string_view(error.what()).find(family), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace pith::test
