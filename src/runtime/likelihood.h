// What logits say about a token and about each other.
#pragma once

#include <cstdint>
#include <span>

namespace pith {

// -log p(token), natural.
double negative_log_likelihood(std::span<const float> logits, int32_t token);
// Sum over p of p * log(p / q), natural, of the distributions that the logits stand for.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);
// The most likely token; ties go to the lower id.
int32_t most_likely(std::span<const float> logits);

}  // namespace pith
