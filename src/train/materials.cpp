#include "train/materials.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "gguf/gguf.h"
#include "train/subwords.h"
#include "train/tasks.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

// Paragraphs spread over all texts, and what tasks consist of besides words.
std::vector<std::string> vocabulary_lines(const SplitTexts& texts, const TrainConfig& config) {
  std::vector<std::string> lines;
  size_t all = 0;
  for (const TextFile* file : texts.learnt) all += file->text.size();
  const double share = static_cast<double>(config.vocabulary_bytes) / static_cast<double>(all);
  for (const TextFile* file : texts.learnt) {
    const std::string_view text = file->text;
    double owed = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      owed += share * static_cast<double>(end - at);
      if (owed > 0 && end > at) {
        owed -= static_cast<double>(end - at);
        lines.emplace_back(text.substr(at, end - at));
      }
      at = end + 1;
    }
  }
  return lines;
}

// The run's vocabulary: learnt at the first start, or that of the model the run begins with.
std::shared_ptr<const GgufFile> open_vocabulary(const std::string& path, const TrainConfig& config,
                                                const SplitTexts& texts, Monitor& monitor) {
  if (!fs::exists(path)) {
    monitor.progress("vocabulary", 0, 1);
    const Vocabulary vocabulary =
        config.first_model.empty()
            ? vocabulary_of_lines(vocabulary_lines(texts, config), config.vocabulary_tokens,
                                  fs::path(path).replace_extension("model").string())
            : read_vocabulary_of(*GgufFile::open(config.first_model));
    GgufWriter out(path);
    out.set_text("general.architecture", "llama");
    out.set_text("general.name", config.name + " (vocabulary)");
    write_vocabulary(out, vocabulary);
    out.begin();
    out.finish();
    monitor.progress("vocabulary", 1, 1);
  }
  return GgufFile::open(path);
}

}  // namespace

SplitTexts read_split(std::span<const std::string> folders, std::span<const std::string> held_out) {
  SplitTexts texts;
  texts.files = read_texts(folders);
  std::set<std::string> held(held_out.begin(), held_out.end());
  for (const TextFile& file : texts.files)
    (held.erase(file.name) > 0 ? texts.held_out : texts.learnt).push_back(&file);
  if (!held.empty())
    throw Error(Errc::bad_option, "held_out: no file of 'texts' is named '" + *held.begin() + "'");
  if (texts.learnt.empty())
    throw Error(Errc::bad_option, "texts: there is no .txt file to learn from in these folders");
  return texts;
}

Vocabulary read_vocabulary_of(const GgufFile& file) {
  if (file.text("tokenizer.ggml.model", "") != "llama")
    throw Error(Errc::unsupported,
                file.path() +
                    ": 'tokenizer.ggml.model' is not 'llama', the SentencePiece-style "
                    "vocabulary that the trainer writes");
  Vocabulary v;
  v.model = "llama";
  for (const std::string_view token : file.texts("tokenizer.ggml.tokens"))
    v.tokens.emplace_back(token);
  v.scores = file.numbers("tokenizer.ggml.scores");
  for (const int64_t kind : file.integers("tokenizer.ggml.token_type"))
    v.kinds.push_back(static_cast<TokenKind>(kind));
  v.begin = static_cast<int32_t>(file.integer("tokenizer.ggml.bos_token_id"));
  v.end = static_cast<int32_t>(file.integer("tokenizer.ggml.eos_token_id"));
  v.unknown = static_cast<int32_t>(file.integer("tokenizer.ggml.unknown_token_id"));
  v.add_begin = file.boolean("tokenizer.ggml.add_bos_token", true);
  v.add_space_prefix = file.boolean("tokenizer.ggml.add_space_prefix", false);
  return v;
}

Materials prepare_materials(const TrainConfig& config, const std::string& folder,
                            Monitor& monitor) {
  const std::string path = (fs::path(folder) / "vocabulary.gguf").string();
  const SplitTexts texts = read_split(config.texts, config.held_out);
  const auto file = open_vocabulary(path, config, texts, monitor);
  Materials m;
  m.vocabulary = read_vocabulary_of(*file);
  if (m.vocabulary.size() != config.vocabulary_tokens)
    throw Error(Errc::bad_option, path + ": has " + std::to_string(m.vocabulary.size()) +
                                      " tokens where the configuration says " +
                                      std::to_string(config.vocabulary_tokens) +
                                      "; train in another folder");
  m.tokenizer = Tokenizer::load(*file);
  m.learnt = std::make_unique<Corpus>(texts.learnt, *m.tokenizer, monitor);
  m.held_out = std::make_unique<Corpus>(texts.held_out.empty() ? texts.learnt : texts.held_out,
                                        *m.tokenizer, monitor);
  return m;
}

Batch make_rows(const TrainConfig& config, const Stage& stage, const Tokenizer& tokenizer,
                const Corpus& corpus, uint64_t number, int first, int last) {
  constexpr uint64_t kNumbersPerRow = uint64_t{1} << 20;
  const TaskSource source{tokenizer, corpus};
  double sum = 0;
  for (const auto& [name, weight] : stage.mix) sum += weight;
  Batch batch;
  batch.rows = last - first;
  batch.length = stage.length;
  for (int row = first; row < last; ++row) {
    Random random(config.seed, (number + static_cast<uint64_t>(row)) * kNumbersPerRow);
    double drawn = random.uniform() * sum;
    const Task* task = nullptr;
    for (const auto& [name, weight] : stage.mix) {
      task = find_task(name);
      if ((drawn -= weight) < 0) break;
    }
    const Sample sample = make_sample(*task, source, random, stage.length + 1);
    batch.tokens.insert(batch.tokens.end(), sample.tokens.begin(), sample.tokens.end());
    batch.roles.insert(batch.roles.end(), sample.roles.begin(), sample.roles.end());
  }
  return batch;
}

}  // namespace pith
