// Messages to a prompt, in the forms instruction-tuned models were trained with. Families are known
// by name; a model's own Jinja template is not run but recognised by the markers it writes.
//
// The prompt lacks the begin token: encode it with Tokenizer::encode_prompt and parse_special.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

class GgufFile;
class Tokenizer;
struct ChatFamily;

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  // Throws bad_option, with the known families, if there is none of that name. `end` is the name
  // of the model's end token, which some families write after each turn.
  static ChatTemplate named(std::string_view family, std::string_view end = "</s>");
  // The family of a file's tokenizer.chat_template. Throws unsupported, with the known families,
  // if there is no template or none that is recognised.
  static ChatTemplate of(const GgufFile& file);
  // The name of the family whose markers a template's text has.
  static std::optional<std::string_view> recognise(std::string_view jinja);
  static std::vector<std::string_view> families();

  std::string_view family() const;
  // All messages in order; with `ask`, followed by what begins the assistant's answer. Families
  // without a turn for system messages put them before the next user message. Throws bad_request
  // for another role.
  std::string render(std::span<const ChatMessage> messages, bool ask = true) const;
  // What ends the assistant's turn, as text and, where the vocabulary has it, as tokens. Models
  // may also stop at Tokenizer::ends_generation.
  const std::vector<std::string>& stops() const { return stops_; }
  std::vector<int32_t> stop_tokens(const Tokenizer& tokenizer) const;

 private:
  ChatTemplate(const ChatFamily& family, std::string_view end);
  std::string filled(std::string_view form) const;  // with the end token's name

  const ChatFamily* family_;
  std::string end_;
  std::vector<std::string> stops_;
};

}  // namespace pith
