#include "support/small_vocabularies.h"

#include "text/byte_letters.h"

namespace pith::test {

std::unique_ptr<OwnedSpec> small_sentencepiece(
    const std::vector<std::pair<std::string, float>>& pieces) {
  auto owned = std::make_unique<OwnedSpec>();
  owned->spec.model = "llama";
  add_token(*owned, "<unk>", kUnknown);
  add_token(*owned, "<s>", kControl);
  add_token(*owned, "</s>", kControl);
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte)
    add_token(*owned, std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", kByte);
  for (const auto& [piece, score] : pieces) add_token(*owned, piece, kNormal, score);
  owned->spec.begin = 1;
  owned->spec.end = 2;
  owned->spec.unknown = 0;
  return owned;
}

std::unique_ptr<OwnedSpec> small_byte_level(const std::vector<std::string>& merges,
                                            const std::vector<std::string>& special) {
  auto owned = std::make_unique<OwnedSpec>();
  owned->spec.model = "gpt2";
  owned->spec.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte)
    add_token(*owned, letters_of_bytes(std::string(1, static_cast<char>(byte))), kNormal);
  for (const std::string& merge : merges) {
    std::string both = merge;
    both.erase(both.find(' ', 1), 1);
    add_token(*owned, both, kNormal);
    owned->spec.merges.push_back(owned->keep(merge));
  }
  for (const std::string& name : special) add_token(*owned, name, kControl);
  return owned;
}

int32_t add_token(OwnedSpec& owned, std::string name, int64_t type, float score) {
  VocabularySpec& spec = owned.spec;
  spec.tokens.push_back(owned.keep(std::move(name)));
  spec.types.push_back(type);
  if (spec.model == "llama") spec.scores.push_back(score);
  return static_cast<int32_t>(spec.tokens.size()) - 1;
}

}  // namespace pith::test
