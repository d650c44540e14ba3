// What a network is trained on: rows of tokens, each of which counts as a target or does not.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pith {

// What a token is, as something to predict. The order is that of reports.
enum class TokenRole : uint8_t {
  context,  // cannot or need not be predicted: random keys, values before they are asked
  text,     // language
  copy,     // seen before in the same order: a second copy
  answer,   // asked for: found in the context, or nowhere
};
inline constexpr int kTokenRoles = 4;
inline constexpr std::array<std::string_view, kTokenRoles> kRoleNames = {"context", "text", "copy",
                                                                         "answer"};

struct Sample {
  std::vector<int32_t> tokens;
  std::vector<TokenRole> roles;  // of each token; the first one is never a target
};

// Rows of equal length, each one token longer than what the network reads.
struct Batch {
  int rows = 0, length = 0;
  std::vector<int32_t> tokens;   // [rows, length + 1]
  std::vector<TokenRole> roles;  // [rows, length + 1]
};

// Of the targets of one role.
struct RoleScore {
  double loss = 0;                 // summed, in nats
  int64_t targets = 0, right = 0;  // right: the likeliest token is the target
};

struct BatchScore {
  std::array<RoleScore, kTokenRoles> roles;
  BatchScore& operator+=(const BatchScore& other) {
    for (size_t i = 0; i < roles.size(); ++i) {
      roles[i].loss += other.roles[i].loss;
      roles[i].targets += other.roles[i].targets;
      roles[i].right += other.roles[i].right;
    }
    return *this;
  }
};

}  // namespace pith
