// Adds the time until its end to a count of seconds.
#pragma once

#include <chrono>

namespace pith {

class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    const auto spent = std::chrono::steady_clock::now() - start_;
    seconds_ += std::chrono::duration<double>(spent).count();
  }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace pith
