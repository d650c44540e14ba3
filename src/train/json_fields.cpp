#include "train/json_fields.h"

#include <filesystem>
#include <fstream>

#include "train/tasks.h"

namespace pith {

Json read_json(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw Error(Errc::io, path + ": cannot be opened");
  try {
    return Json::parse(in, nullptr, true, /*ignore_comments=*/true);
  } catch (const Json::parse_error& error) {
    throw Error(Errc::bad_option, path + ": is no JSON: " + error.what());
  }
}

std::string beside(const std::string& file, const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
  return (folder / path).lexically_normal().string();
}

std::vector<std::pair<std::string, double>> read_mix(Fields& fields, int length) {
  const Json* mix = fields.part("mix");
  if (mix == nullptr || !mix->is_object() || mix->empty())
    fields.fail("needs 'mix', which says how often each task is drawn");
  std::vector<std::pair<std::string, double>> out;
  for (const auto& [name, weight] : mix->items()) {
    const Task* task = find_task(name);
    if (task == nullptr) {
      std::string known;
      for (const Task& t : tasks()) known.append(known.empty() ? "" : ", ").append(t.name);
      fields.fail("has the unknown task '" + name + "'; known are " + known);
    }
    if (!weight.is_number() || weight.get<double>() <= 0)
      fields.fail("has a weight for '" + name + "' that is not a positive number");
    if (length < task->shortest)
      fields.fail("is too short for '" + name + "', which needs " + std::to_string(task->shortest));
    out.emplace_back(name, weight.get<double>());
  }
  return out;
}

}  // namespace pith
