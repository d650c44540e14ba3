#include "convert/tokenizer_json.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "convert/pre_tokenizer.h"
#include "gguf/names.h"

namespace pith {
namespace {

using nlohmann::json;

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

struct Merge {
  std::string left, right;
};

bool is_byte_name(std::string_view text) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return text.size() == 6 && text.starts_with("<0x") && hex(text[3]) && hex(text[4]) &&
         text[5] == '>';
}

// Steps of a normalizer or pre-tokenizer, which is one of them or a sequence.
std::vector<JsonView> steps_of(const JsonView& tokenizer, const std::string& key,
                               const std::string& list) {
  if (!tokenizer.has(key)) return {};
  const JsonView first = tokenizer.object(key);
  if (first.text("type") != "Sequence") return {first};
  const json& steps = first.at(list);
  if (!steps.is_array()) first.fail(list, "is not a list");
  std::vector<JsonView> out;
  for (const json& step : steps) out.push_back(first.element(step, list));
  return out;
}

class Reader {
 public:
  Reader(const JsonView& tokenizer, int64_t limit, Monitor& monitor)
      : all_(tokenizer), model_(tokenizer.object("model")), limit_(limit), monitor_(monitor) {}

  Vocabulary run() {
    const std::string type = model_.text("type", "BPE");
    if (type != "BPE")
      throw Error(Errc::unsupported, all_.file() + ": a tokenizer of type " + shown_name(type) +
                                         " is not supported; BPE is");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!model_.text(key, "").empty())
        throw Error(Errc::unsupported,
                    all_.file() + ": 'model." + key + "' is set, which is not supported");
    const bool fallback = model_.boolean("byte_fallback", false);
    v_.model = fallback ? "llama" : "gpt2";
    read_tokens();
    read_merges();
    if (fallback)
      finish_sentencepiece();
    else
      finish_byte_level();
    add_tokens(v_, all_, limit_);
    return std::move(v_);
  }

 private:
  void read_tokens() {
    const JsonView vocab = model_.object("vocab");
    for (const auto& [text, value] : vocab.value().items()) {
      const auto id = static_cast<int32_t>(vocab.integer(text, 0, limit_ - 1));
      const bool taken = id < v_.size() && v_.kinds[static_cast<size_t>(id)] != TokenKind::unused;
      if (taken) vocab.fail(text, "has an id that another token has too");
      v_.set(id, text, is_byte_name(text) ? TokenKind::byte : TokenKind::normal);
    }
    if (v_.size() == 0) model_.fail("vocab", "is empty");
    const std::string unknown = model_.text("unk_token", "");
    if (!unknown.empty() && vocab.has(unknown)) {
      v_.unknown = static_cast<int32_t>(vocab.integer(unknown, 0, limit_ - 1));
      if (v_.model == "llama") v_.kinds[static_cast<size_t>(v_.unknown)] = TokenKind::unknown;
    }
  }

  void read_merges() {
    const json& merges = model_.at("merges");
    if (!merges.is_array()) model_.fail("merges", "is not a list");
    const json& vocab = model_.at("vocab");
    for (const json& merge : merges) {
      Merge m;
      if (merge.is_string()) {  // "left right"
        const std::string& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
          fail_merge();
        m = {text.substr(0, space), text.substr(space + 1)};
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        m = {merge[0].get<std::string>(), merge[1].get<std::string>()};
      }
      if (!vocab.contains(m.left) || !vocab.contains(m.right) || !vocab.contains(m.left + m.right))
        fail_merge();
      merges_.push_back(std::move(m));
    }
  }
  [[noreturn]] void fail_merge() const {
    model_.fail("merges", "holds an entry " + std::to_string(merges_.size()) +
                              " that is not a pair of tokens whose union is a token");
  }

  // SentencePiece merges the pair whose union has the best score, this format the pair that comes
  // first in its list. So a token's score is how early it can be made, and the two agree as long
  // as a token's pairs stand together in the list, which is how SentencePiece models are exported.
  void finish_sentencepiece() {
    std::map<std::string, std::pair<size_t, size_t>> made;  // token -> first and last place
    std::map<std::string, size_t> ways;
    for (size_t rank = 0; rank < merges_.size(); ++rank) {
      const std::string token = merges_[rank].left + merges_[rank].right;
      const auto [it, is_new] = made.try_emplace(token, rank, rank);
      it->second.second = rank;
      ++ways[token];
    }
    const bool together = std::ranges::all_of(
        made, [&](const auto& m) { return m.second.second - m.second.first + 1 == ways[m.first]; });
    if (!together)
      monitor_.warn(all_.file() +
                    ": its merges cannot be written exactly as scores; some texts may become "
                    "other tokens than in training");
    const auto& vocab = model_.at("vocab").get_ref<const json::object_t&>();
    for (const auto& [token, place] : made)
      v_.scores[vocab.at(token).get<size_t>()] = -static_cast<float>(place.first);
    for (size_t id = 0; id < v_.tokens.size(); ++id)  // never made by a merge
      if (v_.kinds[id] == TokenKind::normal && !made.contains(v_.tokens[id]))
        v_.scores[id] = Vocabulary::kNeverMerged;

    for (const JsonView& step : steps_of(all_, "normalizer", "normalizers")) {
      const std::string type = step.text("type");
      if (type == "Prepend" && step.text("prepend") == kSpaceMark)
        v_.add_space_prefix = true;
      else if (type != "Replace")
        warn_of_normalizer(type);
    }
    for (const JsonView& step : steps_of(all_, "pre_tokenizer", "pretokenizers")) {
      const bool marks = step.text("type") == "Metaspace";
      if (marks)
        v_.add_space_prefix =
            step.text("prepend_scheme",
                      step.boolean("add_prefix_space", true) ? "always" : "never") != "never";
    }
  }

  void finish_byte_level() {
    for (const Merge& m : merges_) {
      // A space inside a token would read as the one between; byte-level alphabets have none.
      if ((m.left + m.right).find(' ') != std::string::npos) model_.fail("merges", "holds a space");
      v_.merges.push_back(m.left + " " + m.right);
    }
    for (const JsonView& step : steps_of(all_, "normalizer", "normalizers"))
      // NFC changes no text that is typed or printed nowadays, and no GGUF engine applies it.
      if (const std::string type = step.text("type"); type != "NFC") warn_of_normalizer(type);
    const std::string pre = name_pre_tokenizer(all_);
    if (!pre.empty())
      v_.pre = pre;
    else
      monitor_.warn(all_.file() +
                    ": splits text into words in a way this program does not know; 'default' "
                    "is written instead, and some texts will become other tokens than in training");
  }

  void warn_of_normalizer(const std::string& type) {
    monitor_.warn(all_.file() + ": its normalizer " + shown_name(type) +
                  " is not applied; some texts may become other tokens than in training");
  }

  JsonView all_, model_;
  int64_t limit_;
  Monitor& monitor_;
  Vocabulary v_;
  std::vector<Merge> merges_;
};

}  // namespace

void add_tokens(Vocabulary& v, const JsonView& tokenizer, int64_t limit) {
  if (!tokenizer.has("added_tokens")) return;
  const json& tokens = tokenizer.at("added_tokens");
  if (!tokens.is_array()) tokenizer.fail("added_tokens", "is not a list");
  for (const json& entry : tokens) {
    const JsonView token = tokenizer.element(entry, "added_tokens");
    const auto id = static_cast<int32_t>(token.integer("id", 0, limit - 1));
    add_token(v, id, token.text("content"), token.boolean("special", false));
  }
}

Vocabulary read_tokenizer_json(const JsonView& tokenizer, int64_t limit, Monitor& monitor) {
  return Reader(tokenizer, limit, monitor).run();
}

}  // namespace pith
