// How long work reports itself and is stopped. The library neither prints nor handles signals;
// a command passes a Monitor that does.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace pith {

class Monitor {
 public:
  virtual ~Monitor() = default;
  // `done` of `total` units of the work named `what` ("prefill", "quantize") are finished.
  virtual void progress(std::string_view /*what*/, int64_t /*done*/, int64_t /*total*/) {}
  // Something the user should know though the work goes on: one sentence.
  virtual void warn(std::string_view /*sentence*/) {}
  // Asked at least a few times a second; true once the user wants out.
  virtual bool stopped() const { return false; }
  // Throws Errc::interrupted if stopped.
  void check() const;

  static Monitor& silent();
};

}  // namespace pith
