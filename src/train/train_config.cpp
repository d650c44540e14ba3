#include "train/train_config.h"

#include "base/error.h"
#include "train/cosine_rate.h"
#include "train/json_fields.h"

namespace pith {
namespace {

void read_model(const Json& json, const std::string& path, NetworkShape& shape) {
  Fields model(json, path + ": 'model'");
  model.take("layers", shape.layers);
  model.take("width", shape.width);
  model.take("query_heads", shape.query_heads);
  model.take("heads", shape.heads);
  model.take("head_dim", shape.dim);
  model.take("feed_forward", shape.ffn_width);
  model.take("context", shape.context);
  model.take("rope_base", shape.rope_base);
  model.take("norm_eps", shape.norm_eps);
  model.done();
}

Stage read_stage(const Json& json, const std::string& where) {
  Stage stage;
  Fields fields(json, where);
  fields.take("tokens", stage.tokens);
  fields.take("length", stage.length);
  fields.take("rows", stage.rows);
  if (stage.tokens < 1 || stage.length < 16 || stage.rows < 1)
    fields.fail("needs 'tokens', a 'length' of 16 or more and 'rows'");
  stage.mix = read_mix(fields, stage.length);
  fields.done();
  return stage;
}

}  // namespace

TrainConfig read_train_config(const std::string& path) {
  const Json json = read_json(path);
  TrainConfig c;
  Fields fields(json, path + ":");
  fields.take("name", c.name);
  fields.take("description", c.description);
  fields.take("seed", c.seed);
  fields.take("texts", c.texts);
  fields.take("held_out", c.held_out);
  fields.take("vocabulary_tokens", c.vocabulary_tokens);
  fields.take("vocabulary_bytes", c.vocabulary_bytes);
  if (const Json* model = fields.part("model")) read_model(*model, path, c.shape);
  std::string beginning = "recall";
  fields.take("beginning", beginning);
  if (beginning.ends_with(".gguf"))
    c.first_model = beside(path, beginning);
  else if (beginning != "recall" && beginning != "random")
    fields.fail("'beginning' is '" + beginning + "'; known are recall, random and .gguf files");
  c.beginning = beginning == "random" ? Beginning::random : Beginning::recall;
  fields.take("rate", c.rate);
  fields.take("floor", c.floor);
  fields.take("warm_up_tokens", c.warm_up_tokens);
  fields.take("answer_weight", c.answer_weight);
  fields.take("copy_weight", c.copy_weight);
  fields.take("context_weight", c.context_weight);
  fields.take("decay", c.decay);
  fields.take("beta1", c.beta1);
  fields.take("beta2", c.beta2);
  fields.take("clip", c.clip);
  fields.take("recompute_from", c.recompute_from);
  fields.take("parts", c.parts);
  fields.take("measure_tokens", c.measure_tokens);
  fields.take("checkpoint_seconds", c.checkpoint_seconds);
  if (const Json* stages = fields.part("stages")) {
    if (!stages->is_array()) fields.fail_field("stages");
    for (const Json& stage : *stages)
      c.stages.push_back(
          read_stage(stage, path + ": stage " + std::to_string(c.stages.size() + 1)));
  }
  fields.done();
  if (c.name.empty()) fields.fail("needs a 'name'");
  if (c.texts.empty()) fields.fail("needs 'texts', folders of .txt files");
  if (c.stages.empty()) fields.fail("needs 'stages'");
  if (c.vocabulary_tokens < 320 || c.vocabulary_tokens > 65536)
    fields.fail("'vocabulary_tokens' must be between 320 and 65536");
  if (!(c.rate > 0)) fields.fail("'rate' must be positive");
  if (c.parts < 1) fields.fail("'parts' must be 1 or more");
  if (c.measure_tokens < 1) fields.fail("'measure_tokens' must be positive");
  c.shape.vocab = c.vocabulary_tokens;
  check_shape(c.shape);
  for (const Stage& stage : c.stages)
    if (stage.length > c.shape.context)
      fields.fail("has a stage that is longer than the model's context");
  for (std::string& text : c.texts) text = beside(path, text);
  return c;
}

int64_t TrainConfig::total_tokens() const {
  int64_t total = 0;
  for (const Stage& stage : stages) total += stage.tokens;
  return total;
}

const Stage& stage_at(const TrainConfig& config, int64_t tokens) {
  for (const Stage& stage : config.stages) {
    if (tokens < stage.tokens) return stage;
    tokens -= stage.tokens;
  }
  return config.stages.back();
}

double rate_at(const TrainConfig& config, int64_t tokens) {
  const CosineRate rate{.rate = config.rate,
                        .floor = config.floor,
                        .warm_up = static_cast<double>(config.warm_up_tokens),
                        .total = static_cast<double>(config.total_tokens())};
  return rate.at(static_cast<double>(tokens));
}

}  // namespace pith
