// A name for contents: tells them from others, and protects against nobody.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace pith {

class Digest {
 public:
  Digest();
  void add(const void* data, size_t bytes);
  std::string text() const;  // of all that was added: XXH3, 32 hexadecimal digits

 private:
  struct State;
  struct Free {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, Free> state_;
};

}  // namespace pith
