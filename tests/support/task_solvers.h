// Oracles of generated tasks: they read a prompt as a careful person would, and know nothing of how
// it was made.
#pragma once

#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "eval/task.h"

namespace pith::test {

// The answer to a question, from the sample's texts alone.
std::string solve(const std::string& task, const Sample& sample, size_t question);

// A tokenizer of words with the blank in front of them, digits and signs; text survives it.
class ToyText final : public TokenText {
 public:
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> tokens) const override;

 private:
  mutable std::unordered_map<std::string_view, int32_t> ids_;
  mutable std::deque<std::string> pieces_;  // what the keys look at
};

}  // namespace pith::test
