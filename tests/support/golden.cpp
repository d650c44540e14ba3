#include "support/golden.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace pith::test {

Golden read_golden(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json all = nlohmann::json::parse(file);
  Golden golden;
  for (const nlohmann::json& p : all.at("prompts"))
    golden.prompts.push_back({p.at("text"), p.at("ids"), p.at("last_logits_top10"),
                              p.at("logits_first8"), p.at("logsumexp"), p.at("greedy_ids")});
  for (const nlohmann::json& s : all.at("stories"))
    golden.stories.push_back(
        {s.at("index"), s.at("n_tokens"), s.at("nll_sum"), s.value("ids", std::vector<int32_t>{})});
  return golden;
}

std::vector<std::string> read_stories(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> stories;
  for (const nlohmann::json& story : nlohmann::json::parse(file))
    stories.push_back(story.is_string() ? story.get<std::string>()
                                        : story.begin()->get<std::string>());
  return stories;
}

}  // namespace pith::test
