// A calibration file with random numbers for everything that methods read.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>

#include "base/random.h"
#include "gtest/gtest.h"
#include "policy/calibration.h"
#include "tensor/kv_shape.h"

namespace pith::test {

inline std::string toy_calibration(const KvShape& shape, const std::string& model_digest = "m") {
  std::string path = ::testing::TempDir() + "toy_calibration_" + model_digest;
  for (const int part : {shape.layers, shape.query_heads, shape.heads, shape.dim})
    path += "_" + std::to_string(part);
  path += ".gguf";
  if (std::filesystem::exists(path)) return path;
  Random random(77);
  std::vector<CalibrationTensor> tensors;
  const auto add = [&](const char* name, std::vector<int64_t> dims) {
    int64_t count = 1;
    for (const int64_t dim : dims) count *= dim;
    CalibrationTensor& tensor = tensors.emplace_back();
    tensor.name = name;
    tensor.dims = std::move(dims);
    for (int64_t i = 0; i < count; ++i) tensor.values.push_back(random.uniform(0.0f, 1.0f));
  };
  for (const char* name :
       {"heads.induction", "heads.echo", "heads.logit", "heads.retrieval", "entropy.heads"})
    add(name, {shape.query_heads, shape.layers});
  add("spans.score", {shape.heads, shape.layers});
  add("queries.direction", {shape.dim, shape.heads, shape.layers});
  add("basis.k_channel_harm", {shape.dim, shape.heads, shape.layers});
  add("basis.k_channels", {shape.dim, shape.heads, shape.layers});
  for (size_t i = 0; i < tensors.back().values.size(); ++i)
    tensors.back().values[i] = static_cast<float>(i % static_cast<size_t>(shape.dim));
  for (const std::string side : {"basis.k", "basis.v"}) {
    add(side.c_str(), {shape.dim, shape.dim, shape.heads, shape.layers});
    add((side + "_harm").c_str(), {shape.dim, shape.heads, shape.layers});
    add((side + "_rank").c_str(), {shape.heads, shape.layers});
    std::ranges::fill(tensors.back().values, static_cast<float>(shape.dim));
  }
  add("basis.unturned_k", {shape.dim, shape.dim, shape.heads, shape.layers});
  add("basis.unturned_k_harm", {shape.dim, shape.heads, shape.layers});
  for (const char* name : {"basis.unturned_k_rank", "basis.unturned_v_rank"}) {
    add(name, {shape.heads, shape.layers});
    std::ranges::fill(tensors.back().values, static_cast<float>(shape.dim));
  }
  save_calibration(path, model_digest, "a test", tensors);
  return path;
}

}  // namespace pith::test
