#include "convert/json_file.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "gguf/names.h"

namespace pith {
namespace {

using nlohmann::json;

constexpr int kDepth = 64;

// Parse events go through here before anything is built, so that deep nesting costs nothing.
class Guard {
 public:
  explicit Guard(const std::string& file) : file_(file) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    if (depth > kDepth)
      throw Error(Errc::bad_file,
                  file_ + ": is nested more than " + std::to_string(kDepth) + " levels deep");
    switch (event) {
      case json::parse_event_t::object_start:
        names_.emplace_back();
        break;
      case json::parse_event_t::object_end:
        names_.pop_back();
        break;
      case json::parse_event_t::key:
        if (!names_.back().insert(parsed.get_ref<const std::string&>()).second)
          throw Error(Errc::bad_file, file_ + ": " +
                                          shown_name(parsed.get_ref<const std::string&>()) +
                                          " appears twice in one object");
        break;
      default:
        break;
    }
    return true;
  }

 private:
  const std::string& file_;
  std::vector<std::unordered_set<std::string>> names_;  // of the objects that are open
};

}  // namespace

JsonView JsonView::parse(std::span<const std::byte> text, const std::string& name) {
  const char* begin = reinterpret_cast<const char*>(text.data());
  JsonView view;
  view.file_ = name;
  try {
    Guard guard(name);
    view.root_ = std::make_shared<const json>(
        json::parse(begin, begin + text.size(), std::ref(guard), true, false));
  } catch (const json::exception& e) {
    const auto* at = dynamic_cast<const json::parse_error*>(&e);
    const size_t byte = at ? std::min(at->byte, text.size()) : 0;
    throw Error(Errc::bad_file, name + ": is not valid JSON (line " +
                                    std::to_string(1 + std::count(begin, begin + byte, '\n')) +
                                    ")");
  }
  view.value_ = view.root_.get();
  if (!view.value_->is_object()) throw Error(Errc::bad_file, name + ": is not a JSON object");
  return view;
}

JsonView JsonView::read(const std::string& path, size_t limit_bytes) {
  const MappedFile file(path);
  if (file.bytes().size() > limit_bytes)
    throw Error(Errc::bad_file, path + ": is larger than " + std::to_string(limit_bytes >> 20) +
                                    " MiB, which no such file needs");
  return parse(file.bytes(), path);
}

void JsonView::fail(const std::string& key, const std::string& why) const {
  throw Error(Errc::bad_file, file_ + ": " + shown_name(prefix_ + key) + ' ' + why);
}

const json* JsonView::find(const std::string& key) const {
  const auto it = value_->find(key);
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

const json& JsonView::at(const std::string& key) const {
  const json* found = find(key);
  if (!found) fail(key, "is missing");
  return *found;
}

JsonView JsonView::element(const json& element, const std::string& key) const {
  if (!element.is_object()) fail(key, "is not an object");
  JsonView view = *this;
  view.value_ = &element;
  view.prefix_ = prefix_ + key + ".";
  return view;
}

JsonView JsonView::object(const std::string& key) const {
  return element(at(key), key);
}

int64_t JsonView::integer(const std::string& key, int64_t low, int64_t high) const {
  const json& value = at(key);
  const double number = value.is_number() ? value.get<double>() : 0.5;
  if (number != std::floor(number)) fail(key, "is not a whole number");
  // Doubles beyond 2^63 do not convert; everything read here is far below.
  if (number < static_cast<double>(low) || number > static_cast<double>(high))
    fail(key, "is not between " + std::to_string(low) + " and " + std::to_string(high));
  return value.is_number_integer() ? value.get<int64_t>() : static_cast<int64_t>(number);
}

int64_t JsonView::integer(const std::string& key, int64_t low, int64_t high,
                          int64_t fallback) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double JsonView::number(const std::string& key) const {
  const json& value = at(key);
  if (!value.is_number() || !std::isfinite(value.get<double>())) fail(key, "is not a number");
  return value.get<double>();
}

double JsonView::number(const std::string& key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool JsonView::boolean(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_boolean()) fail(key, "is neither true nor false");
  return at(key).get<bool>();
}

std::string JsonView::text(const std::string& key) const {
  if (!at(key).is_string()) fail(key, "is not a text");
  return at(key).get<std::string>();
}

std::string JsonView::text(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

}  // namespace pith
