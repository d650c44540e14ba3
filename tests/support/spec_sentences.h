// What a spec is answered with, for the tests of the spec grammar.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "policy/registry.h"

namespace pith::test {

inline KvShape llama_shape() {
  return {.layers = 32, .query_heads = 32, .heads = 8, .dim = 128, .width = 4096};
}

// The sentence that refuses the spec, or its canonical text after "ok: ".
inline std::string answer(std::string_view spec, const KvShape& shape = llama_shape()) {
  try {
    return "ok: " + make_policy(spec, shape)->spec;
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace pith::test
