#include "convert/hf_config.h"

#include <cmath>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/hf_folder.h"

namespace pith::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

HfConfig read_config(const json& config) {
  const std::string folder = fresh_folder();
  write_file(folder + "config.json", config.dump());
  return read_hf_config(folder);
}

// The sentence and kind of refusal after one change to a good file.
std::string refusal(const char* model, Errc expected, const std::function<void(json&)>& change) {
  json config = hf_config(tiny_model(model));
  change(config);
  try {
    read_config(config);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), expected) << e.what();
    EXPECT_THAT(e.what(), HasSubstr("config.json: "));
    return e.what();
  }
  return "it was accepted";
}

TEST(HfConfig, RefusesByNameWhatTheEngineDoesNotCompute) {
  const auto sentence = [](const char* model, const char* key, const json& value) {
    return refusal(model, Errc::unsupported, [&](json& c) { c[json::json_pointer(key)] = value; });
  };
  EXPECT_THAT(sentence("llama", "/architectures/0", "GPT2LMHeadModel"),
              HasSubstr("'GPT2LMHeadModel'"));
  EXPECT_THAT(sentence("llama", "/mlp_bias", true), HasSubstr("'mlp_bias'"));
  EXPECT_THAT(sentence("llama", "/hidden_act", "relu"), HasSubstr("'relu'"));
  EXPECT_THAT(sentence("llama", "/partial_rotary_factor", 0.5),
              HasSubstr("'partial_rotary_factor'"));
  EXPECT_THAT(sentence("llama", "/quantization_config", {{"quant_method", "gptq"}}),
              HasSubstr("'quantization_config'"));
  EXPECT_THAT(sentence("llama", "/rope_scaling", {{"type", "dynamic"}, {"factor", 2}}),
              HasSubstr("'dynamic'"));
  EXPECT_THAT(sentence("llama_yarn", "/rope_scaling/truncate", false), HasSubstr("truncate"));
  EXPECT_THAT(sentence("llama", "/head_dim", 20), HasSubstr("multiples of 8"));
  EXPECT_THAT(sentence("qwen2", "/use_sliding_window", true), HasSubstr("'use_sliding_window'"));
  EXPECT_THAT(sentence("gemma2", "/hidden_activation", "gelu"), HasSubstr("'gelu'"));
  EXPECT_THAT(sentence("gemma2", "/layer_types",
                       {"full_attention", "sliding_attention", "sliding_attention"}),
              HasSubstr("'layer_types'"));
  EXPECT_THAT(sentence("mpt", "/attn_config/alibi", false), HasSubstr("'attn_config.alibi'"));
  EXPECT_THAT(sentence("mpt", "/attn_config/qk_ln", true), HasSubstr("qk_ln"));
  EXPECT_THAT(sentence("mpt", "/no_bias", false), HasSubstr("'no_bias'"));
  EXPECT_THAT(sentence("mpt", "/logit_scale", "inv_sqrt_d_model"), HasSubstr("'logit_scale'"));
}

TEST(HfConfig, NamesTheFieldThatIsMissingOrSenseless) {
  const auto sentence = [](const char* model, const char* key, const json& value) {
    return refusal(model, Errc::bad_file, [&](json& c) {
      if (value.is_null())
        c.erase(key);
      else
        c[key] = value;
    });
  };
  EXPECT_THAT(sentence("llama", "hidden_size", {}), HasSubstr("'hidden_size' is missing"));
  EXPECT_THAT(sentence("llama", "architectures", {}), HasSubstr("'architectures' is missing"));
  EXPECT_THAT(sentence("llama", "architectures", "LlamaForCausalLM"), HasSubstr("list of names"));
  EXPECT_THAT(sentence("llama", "hidden_size", "64"), HasSubstr("not a whole number"));
  EXPECT_THAT(sentence("llama", "num_hidden_layers", 1e9), HasSubstr("between 1 and 4096"));
  EXPECT_THAT(sentence("llama", "num_hidden_layers", -1), HasSubstr("between 1 and 4096"));
  EXPECT_THAT(sentence("llama", "num_key_value_heads", 3), HasSubstr("does not divide"));
  EXPECT_THAT(sentence("llama", "rms_norm_eps", 0), HasSubstr("must be positive"));
  EXPECT_THAT(sentence("llama", "rope_theta", 0), HasSubstr("larger than 1"));
  EXPECT_THAT(sentence("llama", "rope_scaling", {{"type", "linear"}}),
              HasSubstr("'rope_scaling.factor'"));
  EXPECT_THAT(sentence("llama", "rope_scaling", {{"type", "linear"}, {"factor", -2}}),
              HasSubstr("'rope_scaling.factor' must be positive"));
  EXPECT_THAT(sentence("gemma2", "attn_logit_softcapping", -1), HasSubstr("not be negative"));
}

TEST(HfConfig, Llama3DivisorsKeepShortWavesAndDivideLongOnes) {
  // Llama 3.1's own numbers: head 128, base 500,000, factor 8, 8,192 tokens, 1 and 4.
  HfConfig c;
  c.dim = 128;
  c.rope_base = 500000;
  c.scaling = RopeScaling::llama3;
  c.scaling_factor = 8;
  c.original_context = 8192;
  const std::vector<float> d = c.rope_divisors();
  ASSERT_EQ(d.size(), 64u);
  // Waves: pair 28 has 1,959 tokens (under 8,192 / 4), pair 35 8,228 (over 8,192 / 1).
  for (int pair = 0; pair <= 28; ++pair) EXPECT_EQ(d[static_cast<size_t>(pair)], 1) << pair;
  for (int pair = 35; pair < 64; ++pair) EXPECT_EQ(d[static_cast<size_t>(pair)], 8) << pair;
  for (int pair = 29; pair < 35; ++pair) {
    const double wave = 2 * M_PI * std::pow(500000, pair / 64.0);
    const double smooth = (8192 / wave - 1) / (4 - 1);
    EXPECT_NEAR(1 / d[static_cast<size_t>(pair)], (1 - smooth) / 8 + smooth, 1e-6) << pair;
  }
}

TEST(HfConfig, YarnKeepsTheAttentionFactorThatTheModelWasTrainedWith) {
  json config = hf_config(tiny_model("llama_yarn"));
  EXPECT_EQ(read_config(config).attention_factor, 1);
  const double own = 1 + 0.1 * std::log(4.0);
  config["rope_scaling"]["attention_factor"] = 1.0;
  EXPECT_NEAR(read_config(config).attention_factor * own, 1.0, 1e-12);
  config["rope_scaling"].erase("attention_factor");
  config["rope_scaling"]["mscale"] = 1.0;
  config["rope_scaling"]["mscale_all_dim"] = 0.5;
  EXPECT_NEAR(read_config(config).attention_factor * own, own / (1 + 0.05 * std::log(4.0)), 1e-12);
}

TEST(HfConfig, ReadsBothSpellingsOfRotation) {
  json config = hf_config(tiny_model("gemma3"));
  const HfConfig old = read_config(config);
  config["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1234.0}}}};
  config.erase("rope_scaling");
  config.erase("rope_theta");
  const HfConfig now = read_config(config);
  EXPECT_EQ(now.rope_base, old.rope_base);
  EXPECT_EQ(now.scaling, RopeScaling::linear);
  EXPECT_EQ(now.scaling_factor, old.scaling_factor);
  EXPECT_EQ(old.local_rope_base, 10000);
  EXPECT_EQ(now.local_rope_base, 1234);
}

TEST(HfConfig, ReadsThePeriodOfSlidingLayersFromEitherPlace) {
  json config = hf_config(tiny_model("gemma3"));  // 7 layers, the usual period of 6
  EXPECT_EQ(read_config(config).window_pattern, 0);
  const json s = "sliding_attention", f = "full_attention";
  config["layer_types"] = {s, s, f, s, s, f, s};
  EXPECT_EQ(read_config(config).window_pattern, 3);
  config["layer_types"] = {f, f, f, f, f, f, f};
  EXPECT_EQ(read_config(config).window, 0);
  config["layer_types"] = {s, s, s, s, s, s, s};
  EXPECT_EQ(read_config(config).window_pattern, 8);  // no layer is the eighth
}

}  // namespace
}  // namespace pith::test
