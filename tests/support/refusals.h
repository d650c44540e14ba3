// What an action is refused with.
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "gtest/gtest.h"

namespace pith::test {

// The sentence of the error; that there is one, and of which code, is expected.
inline std::string told_by(Errc code, const std::function<void()>& fails) {
  try {
    fails();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

// The sentence of an error of whatever code.
inline std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

}  // namespace pith::test
