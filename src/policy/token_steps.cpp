#include "policy/token_steps.h"

#include <algorithm>
#include <string>

#include "policy/select.h"

namespace pith {

std::vector<TokenStep> steps_option(Options& o, const KvShape& shape, std::string_view fallback,
                                    std::string_view doc) {
  const std::string text = o.text("steps", fallback, doc);
  constexpr const char* kForm = "steps like 16:0.5/24:0.3, layer and tokens or share of the prompt";
  std::vector<TokenStep> steps;
  for (size_t at = 0; at <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find('/', at), text.size());
    const std::string step = text.substr(at, end - at);
    const size_t colon = step.find(':');
    TokenStep parsed;
    const std::string digits = step.substr(0, colon);
    if (colon == std::string::npos || digits.empty() || digits.size() > 6 ||
        !std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; }) ||
        !parse_amount(step.substr(colon + 1), parsed.keeps) || parsed.keeps.bytes > 0)
      o.refuse("steps", std::string(kForm) + ", not '" + step + "'");
    parsed.layer = std::stoi(digits);
    if (parsed.layer >= shape.layers)
      o.refuse("steps", "of layers below " + std::to_string(shape.layers) + ", not '" + step + "'");
    if (!can_select(shape, parsed.layer))
      o.refuse("steps",
               "at layers without a sliding window, which " + digits + " of this model has");
    if (!steps.empty()) {
      const TokenStep& before = steps.back();
      if (parsed.layer <= before.layer)
        o.refuse("steps", "in the order of layers, each named once");
      if ((parsed.keeps.rows > before.keeps.rows && before.keeps.rows > 0) ||
          (parsed.keeps.share > before.keeps.share && before.keeps.share > 0))
        o.refuse("steps", "such that later ones keep no more: tokens do not come back");
    }
    steps.push_back(parsed);
    at = end + 1;
  }
  return steps;
}

bool can_select(const KvShape& shape, int layer) {
  return shape.window(layer) == 0 ||
         std::ranges::find(shape.windows, 0) == shape.windows.end();  // no layer is better
}

int selecting_layer_near(const KvShape& shape, int wanted) {
  for (int d = 0; d < shape.layers; ++d)
    for (const int layer : {wanted + d, wanted - d})
      if (layer >= 0 && layer < std::max(1, shape.layers - 1) && can_select(shape, layer))
        return layer;
  return 0;
}

std::vector<float> paid_by_last(const LayerTap& tap, int queries) {
  const int64_t rows = static_cast<int64_t>(tap.rows.positions.size());
  ConstCube q = tap.window_q;  // other roles may have asked for more queries
  const int64_t window = std::min<int64_t>(queries, q.dim[0]);
  q.data += (q.dim[0] - window) * q.stride[0];
  q.dim[0] = window;
  std::vector<float> memory(static_cast<size_t>(tap.shape.query_heads * rows));
  const Mat mass = Mat::packed(memory.data(), {tap.shape.query_heads, rows});
  tap.ops.window_mass(
      {.q = q, .k = tap.rows.k, .positions = tap.rows.positions, .rule = tap.rule, .out = mass});
  return summed(mass);
}

std::vector<float> summed(ConstMat scores) {
  std::vector<float> total(static_cast<size_t>(scores.dim[1]));
  for (int64_t h = 0; h < scores.dim[0]; ++h)
    for (size_t r = 0; r < total.size(); ++r) total[r] += scores.row(h)[r];
  return total;
}

void travel_on(std::span<const float> totals, int keep, Protect protect, StreamPlan& plan) {
  if (keep >= static_cast<int>(totals.size())) return;
  top_rows(totals, keep, protect, plan.rows);
}

}  // namespace pith
