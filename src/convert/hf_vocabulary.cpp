#include "convert/hf_vocabulary.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/mapped_file.h"
#include "convert/json_file.h"
#include "convert/sentencepiece.h"
#include "convert/tokenizer_json.h"

namespace pith {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

class Folder {
 public:
  Folder(const std::string& folder, const HfConfig& config, Monitor& monitor)
      : base_(folder), c_(config), monitor_(monitor) {}

  Vocabulary read() {
    read_tokens();
    read_added_tokens();
    if (v_.size() > c_.vocab)
      throw Error(Errc::bad_file, base_.string() + ": its tokenizer has " +
                                      std::to_string(v_.size()) + " tokens, but the model only " +
                                      std::to_string(c_.vocab));
    v_.pad_to(static_cast<int>(c_.vocab));
    for (int32_t id = 0; id < v_.size(); ++id) ids_.emplace(v_.tokens[static_cast<size_t>(id)], id);
    read_special_ids();
    read_frame();
    read_chat_template();
    return std::move(v_);
  }

 private:
  std::optional<JsonView> json_file(const char* name) const {
    const fs::path path = base_ / name;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return std::nullopt;
    return JsonView::read(path.string());
  }

  // tokenizer.model is preferred, because it has the scores themselves.
  void read_tokens() {
    tokenizer_ = json_file("tokenizer.json");
    config_ = json_file("tokenizer_config.json");
    const fs::path model = base_ / "tokenizer.model";
    std::error_code ignored;
    if (fs::exists(model, ignored)) {
      const MappedFile file(model.string());
      if (!tokenizer_ || looks_like_sentencepiece(file.bytes())) {
        v_ = read_sentencepiece(file.bytes(), model.string(), monitor_);
        if (tokenizer_) add_tokens(v_, *tokenizer_, c_.vocab);
        if (c_.gemma()) v_.add_space_prefix = false;
        return;
      }
    }
    if (!tokenizer_)
      throw Error(Errc::bad_file,
                  base_.string() + ": has neither tokenizer.json nor tokenizer.model");
    v_ = read_tokenizer_json(*tokenizer_, c_.vocab, monitor_);
    if (v_.model == "gpt2" && v_.pre == "gpt-2" && c_.arch == "mpt") v_.pre = "mpt";
  }

  void read_added_tokens() {
    if (const std::optional<JsonView> added = json_file("added_tokens.json")) {
      const std::set<std::string> there(v_.tokens.begin(), v_.tokens.end());
      for (const auto& [text, id] : added->value().items())
        if (!there.contains(text))
          add_token(v_, static_cast<int32_t>(added->integer(text, 0, c_.vocab - 1)), text, false);
    }
    if (!config_ || !config_->has("added_tokens_decoder")) return;
    const JsonView decoder = config_->object("added_tokens_decoder");
    for (const auto& [key, entry] : decoder.value().items()) {
      int64_t id = -1;
      const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
      if (parsed.ptr != key.data() + key.size() || id < 0 || id >= c_.vocab)
        decoder.fail(key, "is not the id of a token of the model");
      const JsonView token = decoder.object(key);
      add_token(v_, static_cast<int32_t>(id), token.text("content"),
                token.boolean("special", false));
    }
  }

  int32_t id_of(const std::string& text) const {
    const auto it = ids_.find(text);
    return it == ids_.end() ? -1 : it->second;
  }
  // A special token by name, as tokenizer_config.json has it: a text or {"content": text}.
  int32_t named_in_config(const std::string& key) const {
    if (!config_ || !config_->has(key)) return -1;
    const json& value = config_->at(key);
    const std::string text = value.is_string()   ? value.get<std::string>()
                             : value.is_object() ? config_->object(key).text("content", "")
                                                 : "";
    return text.empty() ? -1 : id_of(text);
  }
  // All ids a config file gives: a number or a list of numbers.
  std::vector<int32_t> ids_in(const std::optional<JsonView>& file, const std::string& key) const {
    std::vector<int32_t> ids;
    if (!file || !file->has(key)) return ids;
    const json& value = file->at(key);
    const auto add = [&](const json& id) {
      if (id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(c_.vocab))
        ids.push_back(id.get<int32_t>());
    };
    if (value.is_array())
      for (const json& id : value) add(id);
    else
      add(value);
    return ids;
  }
  void choose(int32_t& id, const std::string& name) const {
    if (const int32_t named = named_in_config(name + "_token"); named >= 0) {
      id = named;
      return;
    }
    for (const char* file : {"generation_config.json", "config.json"})
      if (const std::vector<int32_t> ids = ids_in(json_file(file), name + "_token_id");
          !ids.empty()) {
        id = ids[0];
        return;
      }
  }

  void read_special_ids() {
    choose(v_.begin, "bos");
    choose(v_.end, "eos");
    choose(v_.padding, "pad");
    choose(v_.unknown, "unk");
    // Instruct models end a turn with a token of their own, besides the end of the text.
    for (const int32_t id : ids_in(json_file("generation_config.json"), "eos_token_id")) {
      static constexpr std::string_view kTurnEnds[] = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>",
                                                       "<|end|>"};
      if (id != v_.end && std::ranges::count(kTurnEnds, v_.tokens[static_cast<size_t>(id)]) > 0)
        v_.end_of_turn = id;
    }
  }

  // Which special tokens frame a prompt: the post-processor's template, unless
  // tokenizer_config.json decides.
  void read_frame() {
    if (tokenizer_) {
      v_.add_begin = v_.add_end = false;
      if (tokenizer_->has("post_processor"))
        read_post_processor(tokenizer_->object("post_processor"));
    }
    if (config_) {
      v_.add_begin = config_->boolean("add_bos_token", v_.add_begin);
      v_.add_end = config_->boolean("add_eos_token", v_.add_end);
    }
    v_.add_begin = v_.add_begin && v_.begin >= 0;
    v_.add_end = v_.add_end && v_.end >= 0;
  }
  void read_post_processor(const JsonView& processor) {
    const std::string type = processor.text("type");
    if (type == "Sequence") {
      const json& all = processor.at("processors");
      if (!all.is_array()) processor.fail("processors", "is not a list");
      for (const json& one : all) {
        const JsonView inner = processor.element(one, "processors");
        if (inner.text("type") != "Sequence") read_post_processor(inner);
      }
    } else if (type == "TemplateProcessing") {
      const json& single = processor.at("single");
      if (!single.is_array() || single.empty()) processor.fail("single", "is not a list");
      v_.add_begin = special_id(processor, single.front()) == v_.begin && v_.begin >= 0;
      v_.add_end = special_id(processor, single.back()) == v_.end && v_.end >= 0;
    }
  }
  int32_t special_id(const JsonView& processor, const json& piece) const {
    const JsonView view = processor.element(piece, "single");
    return view.has("SpecialToken") ? id_of(view.object("SpecialToken").text("id")) : -1;
  }

  void read_chat_template() {
    const fs::path file = base_ / "chat_template.jinja";
    std::error_code ignored;
    if (fs::exists(file, ignored)) {
      const MappedFile text(file.string());
      v_.chat_template.assign(reinterpret_cast<const char*>(text.bytes().data()),
                              text.bytes().size());
      return;
    }
    if (config_ && config_->has("chat_template")) return read_template_entry(*config_);
    if (const std::optional<JsonView> other = json_file("chat_template.json"))
      if (other->has("chat_template")) read_template_entry(*other);
  }
  // One template, or a list of named ones of which "default" is the one.
  void read_template_entry(const JsonView& file) {
    const json& value = file.at("chat_template");
    if (!value.is_array()) {
      v_.chat_template = file.text("chat_template");
      return;
    }
    for (const json& entry : value) {
      const JsonView one = file.element(entry, "chat_template");
      const std::string name = one.text("name");
      if (name == "default")
        v_.chat_template = one.text("template");
      else if (!name.empty() && std::ranges::all_of(name, [](unsigned char c) {
                 return std::isalnum(c) || c == '_' || c == '-';
               }))
        v_.named_templates.emplace_back(name, one.text("template"));
    }
  }

  fs::path base_;
  const HfConfig& c_;
  Monitor& monitor_;
  std::optional<JsonView> tokenizer_, config_;
  Vocabulary v_;
  std::unordered_map<std::string, int32_t> ids_;  // the first of equal texts, once v_ is complete
};

}  // namespace

Vocabulary read_hf_vocabulary(const std::string& folder, const HfConfig& config, Monitor& monitor) {
  return Folder(folder, config, monitor).read();
}

}  // namespace pith
