// What a run learns from: its vocabulary, its texts as tokens, and the rows that are drawn from
// them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "convert/vocabulary.h"
#include "text/tokenizer.h"
#include "train/corpus.h"
#include "train/sample.h"
#include "train/train_config.h"

namespace pith {

struct SplitTexts {
  std::vector<TextFile> files;
  std::vector<const TextFile*> learnt, held_out;  // of `files`
};
// Throws io; bad_option if a name is none of theirs, or nothing is left to learn from.
SplitTexts read_split(std::span<const std::string> folders, std::span<const std::string> held_out);

struct Materials {
  Vocabulary vocabulary;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Corpus> learnt, held_out;  // held_out: learnt from in no step
};

// Reads the texts; learns the vocabulary at a folder's first start and keeps it there as
// vocabulary.gguf (and vocabulary.model, for other tools), or takes that of the configuration's
// first_model. Throws io, bad_option, bad_file, unsupported.
Materials prepare_materials(const TrainConfig& config, const std::string& folder, Monitor& monitor);

// The vocabulary a model file carries. Throws unsupported where it is not SentencePiece-style.
Vocabulary read_vocabulary_of(const class GgufFile& file);

// Rows [first, last) of those numbered from `number` on: the same for the same numbers, whoever
// asks and however they are cut into batches.
Batch make_rows(const TrainConfig& config, const Stage& stage, const Tokenizer& tokenizer,
                const Corpus& corpus, uint64_t number, int first, int last);

}  // namespace pith
