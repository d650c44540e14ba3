// pith-train-vocabulary LINES TOKENS MODEL: learns a vocabulary from a text file's lines. Run by
// pith-train; train/subwords.h says why it is a program of its own.
// pith-train-vocabulary --encode MODEL: the tokens of standard input as sentencepiece sees them.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

#include "base/output_file.h"
#include "train/subwords.h"

namespace {

int encode(const char* model) {
  sentencepiece::SentencePieceProcessor processor;
  if (const auto status = processor.Load(model); !status.ok()) {
    std::fprintf(stderr, "pith-train-vocabulary: %s\n", status.ToString().c_str());
    return 1;
  }
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  std::vector<int> tokens;
  if (!processor.Encode(text, &tokens).ok()) return 1;
  for (const int token : tokens) std::printf("%d\n", token);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--encode") return encode(argv[2]);
  if (argc != 4) {
    std::fprintf(stderr,
                 "usage: pith-train-vocabulary LINES TOKENS MODEL\n"
                 "       pith-train-vocabulary --encode MODEL < TEXT\n");
    return 2;
  }
  try {
    std::vector<std::string> lines;
    std::ifstream in(argv[1]);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    pith::write_file(argv[3], pith::train_subwords(lines, std::atoi(argv[2])));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pith-train-vocabulary: %s\n", error.what());
    return 1;
  }
}
