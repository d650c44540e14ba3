#include "train/adapter_layout.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace pith {

double AdapterShape::scale() const {
  return alpha / std::sqrt(static_cast<double>(rank));
}

void check_adapter(const AdapterShape& a, const NetworkShape& n) {
  const auto require = [](bool good, const char* name, const std::string& why) {
    if (!good) throw Error(Errc::bad_option, std::string("'") + name + "' " + why);
  };
  require(n.layers >= 2, "model", "must have two layers or more");
  require(a.layer >= 0 && a.layer <= n.layers - 2, "layer",
          "must be between 0 and " + std::to_string(n.layers - 2) + ", a layer before the last");
  require(a.rank >= 1 && a.rank <= n.width, "rank",
          "must be between 1 and the model's width, " + std::to_string(n.width));
  require(a.alpha > 0 && std::isfinite(a.alpha), "alpha", "must be positive");
  require(a.hidden >= 0 && a.hidden <= 65536, "scorer_width", "must be between 0 and 65536");
  require(a.fold >= 0 && a.fold % 128 == 0, "fold", "must be a multiple of 128, or 0");
  require(a.sinks >= 0 && a.sinks <= 64, "sinks", "must be between 0 and 64");
}

AdapterLayout::AdapterLayout(const NetworkShape& n, const AdapterShape& a) {
  if (a.hidden > 0) {
    add("scorer.up.weight", a.hidden, n.width);
    add("scorer.up.bias", 1, a.hidden, true);
  }
  add("scorer.down.weight", 1, a.hidden > 0 ? a.hidden : n.width);
  add("scorer.down.bias", 1, 1, true);
  const int64_t queries = int64_t{n.query_heads} * n.dim, rows = int64_t{n.heads} * n.dim;
  for (int l = 0; l < n.layers; ++l) {
    const struct {
      const char* name;
      int64_t inputs, outputs;
    } sides[] = {{"q", n.width, queries},
                 {"k", n.width, rows},
                 {"v", n.width, rows},
                 {"output", queries, n.width}};
    for (const auto& side : sides) {
      const std::string at = "blk." + std::to_string(l) + ".attn_" + side.name + ".weight.lora_";
      add(at + "a", a.rank, side.inputs);
      add(at + "b", side.outputs, a.rank);
    }
  }
}

void AdapterLayout::add(std::string name, int64_t rows, int64_t cols, bool vector) {
  all_.push_back({std::move(name), rows, cols, size_, vector});
  size_ += rows * cols;
}

const Parameter* AdapterLayout::find(const std::string& name) const {
  const auto found = std::ranges::find(all_, name, &Parameter::name);
  return found == all_.end() ? nullptr : &*found;
}

std::vector<float> first_adapter(const AdapterLayout& layout, uint64_t seed) {
  // Chosen tokens begin with nearly all of their attention: sigmoid(3) is 0.95.
  constexpr float kFirstBias = 3;
  std::vector<float> values(static_cast<size_t>(layout.size()));
  Random random(seed, uint64_t{1} << 60);
  for (const Parameter& p : layout.all()) {
    float* const at = values.data() + p.offset;
    if (p.name == "scorer.down.bias") *at = kFirstBias;
    if (p.vector || p.name.ends_with("lora_b")) continue;
    const float size = 1 / std::sqrt(static_cast<float>(p.cols));
    for (int64_t i = 0; i < p.size(); ++i) at[i] = size * random.normal();
  }
  return values;
}

}  // namespace pith
