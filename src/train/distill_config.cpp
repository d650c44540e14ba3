#include "train/distill_config.h"

#include "base/error.h"
#include "train/cosine_rate.h"
#include "train/json_fields.h"

namespace pith {

DistillConfig read_distill_config(const std::string& path) {
  const Json json = read_json(path);
  DistillConfig c;
  Fields fields(json, path + ":");
  fields.take("name", c.name);
  fields.take("model", c.model);
  fields.take("beginning", c.beginning);
  fields.take("texts", c.texts);
  fields.take("held_out", c.held_out);
  fields.take("seed", c.seed);
  fields.take("layer", c.layer);
  fields.take("rank", c.adapter.rank);
  c.adapter.alpha = 2 * c.adapter.rank;
  fields.take("alpha", c.adapter.alpha);
  fields.take("scorer_width", c.scorer_width);
  fields.take("fold", c.adapter.fold);
  fields.take("sinks", c.adapter.sinks);
  std::string damping = "multiply";
  fields.take("damping", damping);
  if (damping != "multiply" && damping != "add" && damping != "gradient")
    fields.fail("'damping' is '" + damping + "'; known are multiply, add and gradient");
  c.learner.damping = damping == "add"        ? Damping::add
                      : damping == "gradient" ? Damping::gradient
                                              : Damping::multiply;
  fields.take("lambda", c.learner.forward);
  fields.take("rate", c.rate);
  fields.take("floor", c.floor);
  fields.take("warm_up_steps", c.warm_up_steps);
  fields.take("decay", c.learner.decay);
  fields.take("beta1", c.learner.beta1);
  fields.take("beta2", c.learner.beta2);
  fields.take("clip", c.learner.clip);
  fields.take("steps", c.steps);
  fields.take("rows", c.rows);
  fields.take("length", c.length);
  fields.take("shortest", c.shortest);
  fields.take("least_retention", c.least_retention);
  fields.take("most_retention", c.most_retention);
  fields.take("measure_steps", c.measure_steps);
  fields.take("checkpoint_seconds", c.checkpoint_seconds);
  if (c.length < 32) fields.fail("'length' must be 32 or more");
  if (c.shortest == 0) c.shortest = c.length / 4;
  if (c.shortest < 16 || c.shortest > c.length)
    fields.fail("'shortest' must be between 16 and 'length'");
  c.mix = read_mix(fields, c.length);
  fields.done();
  if (c.name.empty()) fields.fail("needs a 'name'");
  if (c.model.empty()) fields.fail("needs a 'model', the GGUF file that is distilled");
  if (c.texts.empty()) fields.fail("needs 'texts', folders of .txt files");
  if (!(c.rate > 0)) fields.fail("'rate' must be positive");
  if (!(c.learner.forward >= 0 && c.learner.forward <= 1))
    fields.fail("'lambda' must be between 0 and 1");
  if (!(c.least_retention > 0 && c.least_retention <= c.most_retention && c.most_retention <= 1))
    fields.fail(
        "'least_retention' and 'most_retention' must be shares, the one no more than the "
        "other");
  if (c.steps < 1 || c.rows < 1 || c.measure_steps < 1)
    fields.fail("'steps', 'rows' and 'measure_steps' must be 1 or more");
  for (std::string& text : c.texts) text = beside(path, text);
  c.model = beside(path, c.model);
  if (!c.beginning.empty()) c.beginning = beside(path, c.beginning);
  return c;
}

double rate_at(const DistillConfig& config, int64_t step) {
  const CosineRate rate{.rate = config.rate,
                        .floor = config.floor,
                        .warm_up = static_cast<double>(config.warm_up_steps),
                        .total = static_cast<double>(config.steps)};
  return rate.at(static_cast<double>(step));
}

}  // namespace pith
