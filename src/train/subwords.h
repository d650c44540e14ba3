// Trains a vocabulary: byte-pair encoding with byte fallback by sentencepiece, every digit a token
// of its own, no blank put in front of text and nothing normalised, so that a text's tokens, put
// together, are the text.
//
// sentencepiece and libtorch each bring a protobuf, and a process that loads both ends before
// main. This one source is therefore a program's own (pith-train-vocabulary), which
// vocabulary_of_lines runs.
#pragma once

#include <span>
#include <string>

#include "convert/vocabulary.h"

namespace pith {

// A sentencepiece model of `tokens` tokens, with the 256 bytes, <unk>, <s> and </s>. Deterministic.
// Throws bad_option where the lines are too few for so many tokens. Not linked into pith-train.
std::string train_subwords(std::span<const std::string> lines, int tokens);

// The same through the program beside this one: writes `model` and, for the program, `model`.txt.
// Throws what train_subwords throws, or unsupported where the program is not there.
Vocabulary vocabulary_of_lines(std::span<const std::string> lines, int tokens,
                               const std::string& model);

}  // namespace pith
