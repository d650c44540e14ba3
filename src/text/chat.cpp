#include "text/chat.h"

#include "base/error.h"
#include "gguf/gguf.h"
#include "text/marks.h"
#include "text/tokenizer.h"

namespace pith {

// How one family writes its turns. "{end}" stands for the name of the model's end token.
struct ChatFamily {
  struct Turn {
    std::string_view before, after;
  };
  std::string_view name;
  bool (*has_markers)(std::string_view jinja);
  Turn system, user, assistant;
  std::string_view ask;  // begins the answer
  std::vector<std::string_view> stops;
  bool system_in_user = false;  // `system` is written inside the next user turn
  bool trims = false;           // blanks around all contents are dropped
  bool trims_assistant = false;
  std::string_view between = {};  // before every user turn but the first
};

namespace {

#define PITH_BAR "\xef\xbd\x9c"    // the wide bar of DeepSeek's tokens
#define PITH_BLANK "\xe2\x96\x81"  // and their blank
constexpr std::string_view kDeepSeekUser = "<" PITH_BAR "User" PITH_BAR ">";
constexpr std::string_view kDeepSeekAssistant = "<" PITH_BAR "Assistant" PITH_BAR ">";
#undef PITH_BAR
#undef PITH_BLANK

bool has(std::string_view text, std::string_view marker) {
  return text.find(marker) != std::string_view::npos;
}

bool has_all(std::string_view text, std::initializer_list<std::string_view> markers) {
  for (const std::string_view marker : markers)
    if (!has(text, marker)) return false;
  return true;
}

// Whether the expression that writes a "<|user|>" turn closes it with the end token.
bool ends_user_turns(std::string_view jinja) {
  const size_t user = jinja.find("<|user|>");
  if (user == std::string_view::npos) return false;
  const std::string_view turn = jinja.substr(user, jinja.find("}}", user) - user);
  return has(turn, "eos_token") || has(turn, "</s>") || has(turn, "<|endoftext|>");
}

bool is_mistral(std::string_view jinja) {
  return has(jinja, "[INST]") &&
         (has(jinja, "[AVAILABLE_TOOLS]") || has(jinja, "' [INST] ' + system_message"));
}

// Tried in this order: a family stands before those whose markers it has as well.
const std::vector<ChatFamily>& all_families() {
  using Text = std::string_view;
  static const std::vector<ChatFamily> table = {
      {"phi4",
       [](Text t) {
         return has_all(t, {"<|im_start|>", "<|im_sep|>"});
       },
       {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
       {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
       {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
       "<|im_start|>assistant<|im_sep|>",
       {"<|im_end|>"}},
      {"chatml",
       [](Text t) { return has(t, "<|im_start|>"); },
       {"<|im_start|>system\n", "<|im_end|>\n"},
       {"<|im_start|>user\n", "<|im_end|>\n"},
       {"<|im_start|>assistant\n", "<|im_end|>\n"},
       "<|im_start|>assistant\n",
       {"<|im_end|>"}},
      {"mistral-v7",
       [](Text t) {
         return has_all(t, {"[INST]", "[SYSTEM_PROMPT]"});
       },
       {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
       {"[INST] ", "[/INST]"},
       {" ", "</s>"},
       "",
       {"</s>"}},
      {"mistral-v1",
       [](Text t) { return is_mistral(t) && has(t, " [INST]"); },
       {"", "\n\n"},
       {" [INST] ", " [/INST]"},
       {" ", "</s>"},
       "",
       {"</s>"},
       /*system_in_user=*/true},
      {"mistral-v3-tekken",
       [](Text t) { return is_mistral(t) && has(t, "\"[INST]\""); },
       {"", "\n\n"},
       {"[INST]", "[/INST]"},
       {"", "</s>"},
       "",
       {"</s>"},
       /*system_in_user=*/true},
      {"mistral-v3",
       is_mistral,
       {"", "\n\n"},
       {"[INST] ", "[/INST]"},
       {" ", "</s>"},
       "",
       {"</s>"},
       /*system_in_user=*/true,
       /*trims=*/false,
       /*trims_assistant=*/true},
      {"llama2",
       [](Text t) { return has(t, "[INST]"); },
       {"<<SYS>>\n", "\n<</SYS>>\n\n"},
       {"[INST] ", " [/INST]"},
       {" ", " </s>"},
       "",
       {"</s>"},
       /*system_in_user=*/true,
       /*trims=*/true,
       /*trims_assistant=*/true,
       "<s>"},
      {"phi3",
       [](Text t) {
         return has_all(t, {"<|assistant|>", "<|end|>"});
       },
       {"<|system|>\n", "<|end|>\n"},
       {"<|user|>\n", "<|end|>\n"},
       {"<|assistant|>\n", "<|end|>\n"},
       "<|assistant|>\n",
       {"<|end|>"}},
      {"zephyr",
       ends_user_turns,
       {"<|system|>\n", "{end}\n"},
       {"<|user|>\n", "{end}\n"},
       {"<|assistant|>\n", "{end}\n"},
       "<|assistant|>\n",
       {"{end}"}},
      {"falcon3",
       [](Text t) {
         return has_all(t, {"<|assistant|>", "<|user|>"});
       },
       {"<|system|>\n", "\n"},
       {"<|user|>\n", "\n"},
       {"<|assistant|>\n", "{end}\n"},
       "<|assistant|>\n",
       {"{end}", "<|user|>"}},
      {"gemma",
       [](Text t) { return has(t, "<start_of_turn>"); },
       {"", "\n\n"},
       {"<start_of_turn>user\n", "<end_of_turn>\n"},
       {"<start_of_turn>model\n", "<end_of_turn>\n"},
       "<start_of_turn>model\n",
       {"<end_of_turn>"},
       /*system_in_user=*/true,
       /*trims=*/true,
       /*trims_assistant=*/true},
      {"openchat",
       [](Text t) { return has(t, "GPT4 Correct "); },
       {"", "<|end_of_turn|>"},
       {"GPT4 Correct User: ", "<|end_of_turn|>"},
       {"GPT4 Correct Assistant: ", "<|end_of_turn|>"},
       "GPT4 Correct Assistant:",
       {"<|end_of_turn|>"}},
      {"vicuna",
       [](Text t) {
         return has_all(t, {"USER: ", "ASSISTANT: "});
       },
       {"", "\n\n"},
       {"USER: ", "\n"},
       {"ASSISTANT: ", "{end}\n"},
       "ASSISTANT:",
       {"{end}", "USER:"}},
      {"deepseek-coder",
       [](Text t) {
         return has_all(t, {"### Instruction:", "<|EOT|>"});
       },
       {"", ""},
       {"### Instruction:\n", "\n"},
       {"### Response:\n", "\n<|EOT|>\n"},
       "### Response:\n",
       {"<|EOT|>"}},
      {"command-r",
       [](Text t) {
         return has_all(t, {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"});
       },
       {"<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
       {"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
       {"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
       "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
       {"<|END_OF_TURN_TOKEN|>"},
       /*system_in_user=*/false,
       /*trims=*/true,
       /*trims_assistant=*/true},
      {"llama3",
       [](Text t) {
         return has_all(t, {"<|start_header_id|>", "<|end_header_id|>"});
       },
       {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
       {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
       {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
       "<|start_header_id|>assistant<|end_header_id|>\n\n",
       {"<|eot_id|>", "<|eom_id|>"},
       /*system_in_user=*/false,
       /*trims=*/true,
       /*trims_assistant=*/true},
      {"llama4",
       [](Text t) {
         return has_all(t, {"<|header_start|>", "<|header_end|>"});
       },
       {"<|header_start|>system<|header_end|>\n\n", "<|eot|>"},
       {"<|header_start|>user<|header_end|>\n\n", "<|eot|>"},
       {"<|header_start|>assistant<|header_end|>\n\n", "<|eot|>"},
       "<|header_start|>assistant<|header_end|>\n\n",
       {"<|eot|>", "<|eom|>"},
       /*system_in_user=*/false,
       /*trims=*/true,
       /*trims_assistant=*/true},
      {"deepseek2",
       [](Text t) { return has(t, "'Assistant: ' + message['content'] + eos_token"); },
       {"", "\n\n"},
       {"User: ", "\n\n"},
       {"Assistant: ", kDeepSeekEnd},
       "Assistant:",
       {kDeepSeekEnd}},
      {"deepseek3",
       [](Text t) {
         return has_all(t, {kDeepSeekUser, kDeepSeekAssistant});
       },
       {"", "\n\n"},
       {kDeepSeekUser, ""},
       {kDeepSeekAssistant, kDeepSeekEnd},
       kDeepSeekAssistant,
       {kDeepSeekEnd}},
      {"granite",
       [](Text t) { return has(t, "<|start_of_role|>"); },
       {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
       {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
       {"<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"},
       "<|start_of_role|>assistant<|end_of_role|>",
       {"<|end_of_text|>"}},
  };
  return table;
}

const ChatFamily* find_family(std::string_view name) {
  for (const ChatFamily& family : all_families())
    if (family.name == name) return &family;
  return nullptr;
}

std::string known_families() {
  std::string names;
  for (const ChatFamily& family : all_families())
    names.append(names.empty() ? "" : ", ").append(family.name);
  return names;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n\v\f\r";
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace

ChatTemplate::ChatTemplate(const ChatFamily& family, std::string_view end)
    : family_(&family), end_(end) {
  for (const std::string_view stop : family.stops) stops_.push_back(filled(stop));
}

ChatTemplate ChatTemplate::named(std::string_view family, std::string_view end) {
  if (const ChatFamily* found = find_family(family)) return {*found, end};
  std::string what = "there is no chat template '";
  what.append(family).append("' (known: ").append(known_families()).append(")");
  throw Error(Errc::bad_option, what);
}

ChatTemplate ChatTemplate::of(const GgufFile& file) {
  const std::string_view jinja = file.text("tokenizer.chat_template", "");
  const auto family = recognise(jinja);
  if (!family) {
    std::string what = file.path();
    what.append(jinja.empty() ? " has no tokenizer.chat_template"
                              : ": its tokenizer.chat_template is of no known family");
    what.append("; name the family the model was trained with (known: ");
    what.append(known_families()).append(")");
    throw Error(Errc::unsupported, what);
  }
  std::string_view end = "</s>";
  const int64_t token = file.integer("tokenizer.ggml.eos_token_id", -1);
  std::vector<std::string_view> tokens;
  if (file.has("tokenizer.ggml.tokens")) tokens = file.texts("tokenizer.ggml.tokens");
  if (token >= 0 && static_cast<uint64_t>(token) < tokens.size()) end = tokens[token];
  return {*find_family(*family), end};
}

std::optional<std::string_view> ChatTemplate::recognise(std::string_view jinja) {
  for (const ChatFamily& family : all_families())
    if (family.has_markers(jinja)) return family.name;
  return std::nullopt;
}

std::vector<std::string_view> ChatTemplate::families() {
  std::vector<std::string_view> names;
  for (const ChatFamily& family : all_families()) names.push_back(family.name);
  return names;
}

std::string_view ChatTemplate::family() const {
  return family_->name;
}

std::string ChatTemplate::filled(std::string_view form) const {
  constexpr std::string_view kEnd = "{end}";
  const size_t at = form.find(kEnd);
  if (at == std::string_view::npos) return std::string(form);
  return std::string(form.substr(0, at)).append(end_).append(form.substr(at + kEnd.size()));
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool ask) const {
  std::string text;
  std::string system;  // waits for the user turn it goes into
  bool any_user = false;
  const auto add = [&](const ChatFamily::Turn& turn, std::string_view inside,
                       std::string_view content, bool trims) {
    text.append(filled(turn.before)).append(inside);
    text.append(trims ? trimmed(content) : content).append(filled(turn.after));
  };
  const auto add_user = [&](std::string_view content) {
    if (any_user) text.append(family_->between);
    any_user = true;
    add(family_->user, system, content, family_->trims);
    system.clear();
  };
  for (const ChatMessage& message : messages) {
    if (message.role == "system" && family_->system_in_user) {
      system.append(family_->system.before);
      system.append(family_->trims ? trimmed(message.content) : message.content);
      system.append(family_->system.after);
    } else if (message.role == "system") {
      add(family_->system, "", message.content, family_->trims);
    } else if (message.role == "user") {
      add_user(message.content);
    } else if (message.role == "assistant") {
      add(family_->assistant, "", message.content, family_->trims_assistant);
    } else {
      throw Error(Errc::bad_request, "a message of the chat has the role '" + message.role +
                                         "'; 'system', 'user' and 'assistant' are known");
    }
  }
  if (!system.empty()) add_user("");
  if (ask) text.append(filled(family_->ask));
  return text;
}

std::vector<int32_t> ChatTemplate::stop_tokens(const Tokenizer& tokenizer) const {
  std::vector<int32_t> tokens;
  for (const std::string& stop : stops_)
    if (const int32_t token = tokenizer.find(stop); token >= 0) tokens.push_back(token);
  return tokens;
}

}  // namespace pith
