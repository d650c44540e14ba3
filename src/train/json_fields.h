// What configurations in JSON have in common.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace pith {

using Json = nlohmann::json;

// A JSON file; comments are allowed. Throws io, or bad_option where it is none.
Json read_json(const std::string& path);
// A path as a file says it: relative ones begin at the file's folder.
std::string beside(const std::string& file, const std::string& path);

// An object whose fields are all taken, or complained about.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail("is not an object");
  }

  template <typename T>
  void take(const char* name, T& into) {
    known_.insert(name);
    const auto found = json_.find(name);
    if (found == json_.end()) return;
    try {
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
        // 2e6 is a whole number, too.
        const double value = found->get<double>();
        if (value != std::floor(value) || std::fabs(value) > 9e15) fail_field(name);
        into = static_cast<T>(value);
      } else {
        into = found->get<T>();
      }
    } catch (const Json::exception&) {
      fail_field(name);
    }
  }
  const Json* part(const char* name) {
    known_.insert(name);
    const auto found = json_.find(name);
    return found == json_.end() ? nullptr : &*found;
  }
  void done() const {
    for (const auto& [key, value] : json_.items())
      if (!known_.contains(key)) fail("has the unknown field '" + key + "'");
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Errc::bad_option, where_ + " " + what);
  }
  [[noreturn]] void fail_field(const char* name) const {
    fail(std::string("has a value of the wrong kind in '") + name + "'");
  }

 private:
  const Json& json_;
  std::string where_;
  std::set<std::string> known_;
};

// "mix": names of tasks and how often each is drawn. Throws where it is missing, or a task is
// unknown or needs more than `length` tokens.
std::vector<std::pair<std::string, double>> read_mix(Fields& fields, int length);

}  // namespace pith
