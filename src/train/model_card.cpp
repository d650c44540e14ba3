#include "train/model_card.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "gguf/gguf.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

std::string fixed(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// "Dickens_Bleak_1853" is "Dickens, Bleak (1853)".
std::string title_of(const std::string& name) {
  const size_t first = name.find('_'), last = name.rfind('_');
  if (first == name.npos) return name;
  std::string title = name.substr(0, first) + ", ";
  const bool dated = last > first && name.size() - last == 5;
  title += name.substr(first + 1, dated ? last - first - 1 : name.npos);
  if (dated) title += " (" + name.substr(last + 1) + ")";
  std::ranges::replace(title, '_', ' ');
  return title;
}

std::string titles(const TrainConfig& config, bool held_out) {
  const std::set<std::string> held(config.held_out.begin(), config.held_out.end());
  std::set<std::string> names;
  for (const std::string& folder : config.texts) {
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error))
      if (entry->path().extension() == ".txt" &&
          held.contains(entry->path().stem().string()) == held_out)
        names.insert(title_of(entry->path().stem().string()));
  }
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : "; ") + name;
  return out;
}

std::string percent(int right, int all) {
  return all > 0 ? fixed(100.0 * right / all, 0) + " %" : "-";
}

std::string first_weights_of(const TrainConfig& config) {
  if (!config.first_model.empty())
    return "those of an earlier run, " + fs::path(config.first_model).filename().string();
  return config.beginning == Beginning::recall
             ? "a constructed circuit that copies, all else random"
             : "random";
}

}  // namespace

std::string model_card(const TrainConfig& config, const GgufFile& file, const Examination& e) {
  int64_t weights = 0;
  for (const GgufTensor& tensor : file.tensors()) weights += tensor.elements();
  const NetworkShape& s = config.shape;
  const auto line = [](const std::string& name, const std::string& value) {
    return "| " + name + " | " + value + " |\n";
  };
  std::string card = "# " + config.name + "\n\n" + config.description + "\n\n| | |\n|---|---|\n";
  card += line("architecture", "llama, " + std::to_string(s.layers) + " layers of width " +
                                   std::to_string(s.width) + ", " + std::to_string(s.query_heads) +
                                   " query heads and " + std::to_string(s.heads) + " heads of " +
                                   std::to_string(s.dim) + ", feed-forward " +
                                   std::to_string(s.ffn_width));
  card += line("weights", fixed(static_cast<double>(weights) / 1e6, 2) + " M");
  card += line("context", std::to_string(s.context) + " tokens");
  card += line("vocabulary", std::to_string(s.vocab) + " tokens, BPE with byte fallback, trained");
  card += line("learnt from",
               fixed(static_cast<double>(file.integer("pith.trained.tokens", 0)) / 1e6, 1) +
                   " M tokens, of " + fixed(static_cast<double>(config.total_tokens()) / 1e6, 1) +
                   " M planned" +
                   (config.first_model.empty() ? "" : ", after those of its first weights") +
                   "; loss.svg shows the course");
  card += line("first weights", first_weights_of(config));
  card += line("seed", std::to_string(config.seed));
  card += line("licence", "Apache-2.0");
  card +=
      "\nMade by `pith-train pretrain` from the configuration beside this file, and measured by "
      "`pith-train card`.\n\n## What it can do\n\nMeasured by the engine with the file itself. "
      "Answers are greedy and right only if every token is; the cache is full unless said "
      "otherwise, and prompts hold the question when a cache is cut (query-aware).\n\n| | |\n"
      "|---|---|\n";
  card += line("text held out", fixed(e.bits_per_byte, 3) + " bits per byte (" +
                                    std::to_string(e.text_tokens) + " tokens in windows of " +
                                    std::to_string(e.context) + ")");
  card +=
      line("a passage of " + std::to_string(e.copy_tokens) + " tokens",
           fixed(e.first_copy, 3) + " nats a token; its second copy " + fixed(e.second_copy, 3));
  card += "\nRight answers by depth, of " + std::to_string(e.options.samples) +
          " samples each (seed " + std::to_string(e.options.seed) +
          "):\n\n| task | cache | tokens |";
  for (int d = 0; d < e.options.depths; ++d)
    card +=
        " " + std::to_string(e.options.depths > 1 ? 100 * d / (e.options.depths - 1) : 50) + " % |";
  card += " all |\n|---|---|---|";
  for (int d = 0; d <= e.options.depths; ++d) card += "---|";
  card += "\n";
  for (const DepthResult& row : e.lookups) {
    card += "| " + std::string(lookup_name(row.lookup)) + " | `" + row.spec + "` | " +
            std::to_string(row.length) + " |";
    int all = 0;
    for (const int right : row.right) {
      card += " " + std::to_string(right) + " |";
      all += right;
    }
    card += " " + percent(all, static_cast<int>(row.right.size()) * e.options.samples) + " |\n";
  }
  card +=
      "\n## What it learnt from\n\nGenerated tasks (docs/training.md) and novels in the public "
      "domain, which are not part of this repository: " +
      titles(config, false) + ".\n";
  if (const std::string held = titles(config, true); !held.empty())
    card += "\nHeld out, and used for the figures above: " + held + ".\n";
  card +=
      "\nIt is an instrument for judging caches: it writes English-like text and knows nothing "
      "of the world.\n";
  return card;
}

}  // namespace pith
