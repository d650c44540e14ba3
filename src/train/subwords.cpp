#include "train/subwords.h"

#include <sentencepiece_trainer.h>
#include <unordered_map>

#include "base/error.h"

namespace pith {
namespace {

class Lines final : public sentencepiece::SentenceIterator {
 public:
  Lines(std::span<const std::string> lines, const std::string& last) : lines_(lines), last_(last) {}
  bool done() const override { return at_ > lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return at_ < lines_.size() ? lines_[at_] : last_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::span<const std::string> lines_;
  const std::string& last_;
  size_t at_ = 0;
};

}  // namespace

std::string train_subwords(std::span<const std::string> lines, int tokens) {
  // Digits and marks of tasks are tokens even where the texts hardly have them.
  std::string ascii;
  for (char c = '!'; c <= '~'; ++c) ascii += c;
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(tokens)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"character_coverage", "0.9998"},
      {"required_chars", ascii},
      {"max_sentence_length", "1000000"},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  Lines iterator(lines, ascii);  // what is required must occur
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  if (!status.ok())
    throw Error(Errc::bad_option, "vocabulary: sentencepiece refuses to learn " +
                                      std::to_string(tokens) +
                                      " tokens from these texts: " + status.ToString());
  return model;
}

}  // namespace pith
