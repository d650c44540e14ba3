// JSON files of other people's models: parsed with limits, read with types. Whatever is wrong with
// one ends in an Error{bad_file} that names the file and the field.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

namespace pith {

// An object of a JSON file. Cheap to copy; the parsed file lives as long as any view of it.
// A member that is null counts as absent.
class JsonView {
 public:
  // Refuses files over `limit_bytes`, nesting over 64 levels and names that appear twice in one
  // object. `name` is used in messages.
  static JsonView parse(std::span<const std::byte> text, const std::string& name);
  static JsonView read(const std::string& path, size_t limit_bytes = size_t{128} << 20);

  const nlohmann::json& value() const { return *value_; }
  const std::string& file() const { return file_; }

  bool has(const std::string& key) const { return find(key) != nullptr; }
  // The member as it is; throws if absent.
  const nlohmann::json& at(const std::string& key) const;
  JsonView object(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  int64_t integer(const std::string& key, int64_t low, int64_t high, int64_t fallback) const;
  double number(const std::string& key) const;  // finite
  double number(const std::string& key, double fallback) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  // `element` belongs to `key`, for instance one entry of an array.
  JsonView element(const nlohmann::json& element, const std::string& key) const;

  // "config.json: 'rope_scaling.factor' is missing", with the file's path.
  [[noreturn]] void fail(const std::string& key, const std::string& why) const;

 private:
  const nlohmann::json* find(const std::string& key) const;
  std::shared_ptr<const nlohmann::json> root_;
  const nlohmann::json* value_ = nullptr;
  std::string file_, prefix_;  // prefix: "rope_scaling."
};

}  // namespace pith
