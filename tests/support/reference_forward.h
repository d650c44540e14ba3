// What a model file answers, computed slowly from the definitions in float64. It shares nothing
// with the engine but the GGUF reader and the scalar decoding of weight formats, and is therefore
// the oracle of the engine's forward pass and of the converters.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gguf/gguf.h"

namespace pith::test {

class ReferenceForward {
 public:
  explicit ReferenceForward(std::shared_ptr<const GgufFile> file);
  explicit ReferenceForward(const std::string& path);
  ~ReferenceForward();

  // Appends a token to the text; the logits after it, [vocab]. Full attention over everything
  // fed so far, as far as the layer's window allows.
  std::vector<double> feed(int32_t token);
  void clear();  // forgets the text

  // The same a layer at a time and in any order: a token passes a layer, reading those at its own
  // or smaller positions that have passed it before. `paid`: what it pays to each position, summed
  // over the heads; 0 where nothing is.
  void embed(int position, int32_t token);
  std::vector<double> pass(int position, int layer);
  std::vector<double> logits(int position) const;
  int layers() const;
  const std::vector<double>& hidden(int position) const;  // of a token, behind the layers it passed
  void forget(int position);                              // a token's keys and values in all layers

  // What the low-rank matrices of an adapter file add (policy/adapter.h) to tokens that pass from
  // now on: to keys and values, and to queries and outputs.
  void set_adapter(std::shared_ptr<const GgufFile> file);
  void adapt(bool keys_and_values, bool queries_and_outputs);
  void read_from(int position);  // tokens that pass from now on read no earlier one

  int vocab() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Logits after every token, [tokens][vocab].
std::vector<std::vector<double>> reference_logits(const std::string& path,
                                                  std::span<const int32_t> tokens);

// ln(sum of exp), without overflow.
double log_sum_exp(std::span<const double> logits);
int32_t argmax(std::span<const double> logits);  // the first of equals

}  // namespace pith::test
