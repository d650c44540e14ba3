// KV-Distill adapters with random numbers, or with none that does anything.
#pragma once

#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <unistd.h>
#include <vector>

#include "base/random.h"
#include "gguf/gguf.h"
#include "gtest/gtest.h"
#include "tensor/kv_shape.h"

namespace pith::test {

struct ToyAdapter {
  bool zero = false;                              // lora_b: nothing is added
  int layer = 0, rank = 4, hidden = 6, fold = 0;  // hidden 0: a linear scorer
  std::string digest = "m";
  float size = 0.3f;  // of what is added, for inputs of size 1
};

inline void write_adapter(const std::string& path, const KvShape& shape, const ToyAdapter& toy) {
  GgufWriter out(path);
  out.set_text("general.type", "adapter");
  out.set_text("pith.adapter.method", "kvdistill");
  out.set_text("pith.adapter.model", toy.digest);
  out.set_u32("kvdistill.layer", static_cast<uint32_t>(toy.layer));
  out.set_u32("kvdistill.rank", static_cast<uint32_t>(toy.rank));
  out.set_u32("kvdistill.fold", static_cast<uint32_t>(toy.fold));
  std::vector<std::vector<float>> tensors;
  Random random(91);
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols, float size) {
    std::vector<float>& values = tensors.emplace_back();
    for (int64_t i = 0; i < rows * cols; ++i) values.push_back(random.uniform(-size, size));
    out.add_tensor(name, DType::f32, std::array{cols, rows});
  };
  const int64_t width = shape.width, inputs = toy.hidden > 0 ? toy.hidden : width;
  if (toy.hidden > 0) {
    add("scorer.up.weight", toy.hidden, width, 1);
    add("scorer.up.bias", 1, toy.hidden, 0.5f);
  }
  add("scorer.down.weight", 1, inputs, 1);
  add("scorer.down.bias", 1, 1, 1);
  const int64_t queries = int64_t{shape.query_heads} * shape.dim,
                rows = int64_t{shape.heads} * shape.dim, rank = toy.rank;
  const struct {
    const char* name;
    int64_t inputs, outputs;
  } sides[] = {
      {"q", width, queries}, {"k", width, rows}, {"v", width, rows}, {"output", queries, width}};
  for (int l = 0; l < shape.layers; ++l)
    for (const auto& side : sides) {
      const std::string at = "blk." + std::to_string(l) + ".attn_" + side.name + ".weight.lora_";
      add(at + "a", rank, side.inputs, 1 / std::sqrt(static_cast<float>(side.inputs)));
      add(at + "b", side.outputs, rank, toy.zero ? 0.0f : toy.size);
    }
  out.begin();
  for (const std::vector<float>& values : tensors)
    out.write_tensor(std::as_bytes(std::span(values)));
  out.finish();
}

// In a folder of this process; the same file for the same shape.
inline std::string toy_adapter(const KvShape& shape, const ToyAdapter& toy = {}) {
  const auto folder = std::filesystem::path(::testing::TempDir()) /
                      ("pith_toy_adapter_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::string name;
  for (const int part : {shape.layers, shape.query_heads, shape.heads, shape.dim, shape.width,
                         toy.layer, toy.rank, toy.hidden, toy.fold, toy.zero ? 1 : 0})
    name += std::to_string(part) + "_";
  const std::string path = (folder / (name + toy.digest + ".gguf")).string();
  if (!std::filesystem::exists(path)) write_adapter(path, shape, toy);
  return path;
}

}  // namespace pith::test
