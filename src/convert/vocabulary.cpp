#include "convert/vocabulary.h"

namespace pith {

void Vocabulary::set(int32_t id, std::string text, TokenKind kind, float score) {
  if (id >= size()) pad_to(id + 1);
  const auto i = static_cast<size_t>(id);
  tokens[i] = std::move(text);
  kinds[i] = kind;
  if (model == "llama") scores[i] = score;
}

void Vocabulary::pad_to(int size) {
  for (int id = this->size(); id < size; ++id) {
    tokens.push_back("[PAD" + std::to_string(id) + "]");
    kinds.push_back(TokenKind::unused);
    if (model == "llama") scores.push_back(kNeverMerged);
  }
}

void add_token(Vocabulary& v, int32_t id, std::string text, bool special) {
  if (id == v.unknown && v.model == "llama") return;  // stays the unknown token
  if (!special && v.model == "llama") {
    // Added tokens are matched before spaces become marks, so they are kept with spaces.
    constexpr std::string_view kSpaceMark = "\xe2\x96\x81";
    for (size_t at; (at = text.find(kSpaceMark)) != std::string::npos;)
      text.replace(at, kSpaceMark.size(), " ");
  }
  v.set(id, std::move(text), special ? TokenKind::control : TokenKind::user_defined,
        Vocabulary::kNeverMerged);
}

void write_vocabulary(GgufWriter& out, const Vocabulary& v) {
  const auto id = [&](const char* key, int32_t value) {
    if (value >= 0) out.set_u32(key, static_cast<uint32_t>(value));
  };
  std::vector<int32_t> kinds;
  for (const TokenKind kind : v.kinds) kinds.push_back(static_cast<int32_t>(kind));
  out.set_text("tokenizer.ggml.model", v.model);
  out.set_text("tokenizer.ggml.pre", v.pre);
  out.set_texts("tokenizer.ggml.tokens", v.tokens);
  if (!v.scores.empty()) out.set_f32s("tokenizer.ggml.scores", v.scores);
  out.set_i32s("tokenizer.ggml.token_type", kinds);
  if (!v.merges.empty()) out.set_texts("tokenizer.ggml.merges", v.merges);
  id("tokenizer.ggml.bos_token_id", v.begin);
  id("tokenizer.ggml.eos_token_id", v.end);
  id("tokenizer.ggml.unknown_token_id", v.unknown);
  id("tokenizer.ggml.padding_token_id", v.padding);
  id("tokenizer.ggml.eot_token_id", v.end_of_turn);
  out.set_bool("tokenizer.ggml.add_bos_token", v.add_begin);
  out.set_bool("tokenizer.ggml.add_eos_token", v.add_end);
  if (v.model == "llama") out.set_bool("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
  if (!v.chat_template.empty()) out.set_text("tokenizer.chat_template", v.chat_template);
  if (!v.named_templates.empty()) {
    std::vector<std::string> names;
    for (const auto& [name, text] : v.named_templates) {
      names.push_back(name);
      out.set_text("tokenizer.chat_template." + name, text);
    }
    out.set_texts("tokenizer.chat_templates", names);
  }
}

}  // namespace pith
