#include "policy/profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "gguf/names.h"

namespace pith {
namespace {

constexpr size_t kMostPoints = 4096, kMostLengths = 64;

struct Column {
  const char* name;
  double ProfileCell::*value;
  double most;  // values above are damage
};
// What is one number per spec and length. Shares are of something of which there is not much more.
constexpr std::array<Column, 7> kColumns = {
    {{"profile.score", &ProfileCell::score, 1e3},
     {"profile.score_error", &ProfileCell::score_error, 1e3},
     {"profile.bytes", &ProfileCell::bytes, 1e12},
     {"profile.most_bytes", &ProfileCell::most_bytes, 1e12},
     {"profile.first_seconds", &ProfileCell::first_seconds, 1e9},
     {"profile.token_seconds", &ProfileCell::token_seconds, 1e9},
     {"profile.mass", &ProfileCell::mass, 1.001}}};

size_t masses(const KvShape& shape) {
  return static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads + 1);
}

std::string one_text(const Calibration& file, const char* name) {
  const std::vector<std::string> texts = file.texts(name);
  return texts.size() == 1 ? texts[0] : "";
}

}  // namespace

void mark_front(Profile& profile) {
  const auto beats = [&](const ProfilePoint& a, const ProfilePoint& b) {
    bool better = false;
    for (size_t i = 0; i < profile.lengths.size(); ++i) {
      const ProfileCell &x = a.cells[i], &y = b.cells[i];
      if (x.score < y.score || x.bytes > y.bytes) return false;
      better |= x.score > y.score || x.bytes < y.bytes;
    }
    return better;
  };
  for (ProfilePoint& point : profile.points)
    point.front =
        std::ranges::none_of(profile.points, [&](const auto& o) { return beats(o, point); });
}

Profile read_profile(const Calibration& file, const KvShape& shape) {
  const auto damaged = [&](const std::string& what) {
    throw Error(Errc::bad_file, file.path() + ": " + what +
                                    "; the profile is damaged: run `pith calibrate profile` again");
  };
  if (!file.has("profile.lengths"))
    throw Error(Errc::bad_file,
                file.path() + ": holds no profile; `pith calibrate profile` adds one");
  Profile profile;
  const std::vector<std::string> specs = file.texts("profile.specs");
  const size_t lengths = file.size("profile.lengths");
  if (specs.empty() || specs.size() > kMostPoints) damaged("profile.specs names no specs");
  if (lengths == 0 || lengths > kMostLengths) damaged("profile.lengths has no lengths");
  for (const float length : file.tensor("profile.lengths", lengths)) {
    if (!(length >= 1 && length < 1e9f) ||
        (!profile.lengths.empty() && length <= profile.lengths.back()))
      damaged("profile.lengths does not ascend");
    profile.lengths.push_back(length);
  }
  for (const float count : file.tensor("profile.samples", lengths)) {
    if (!(count >= 1 && count < 1e9f)) damaged("profile.samples has something else than counts");
    profile.samples.push_back(static_cast<int>(count));
  }
  for (const std::string& spec : specs) {
    if (spec.empty() || spec.starts_with("auto"))
      damaged("profile.specs has " + shown_name(spec) + " among its specs");
    profile.points.push_back({spec, std::vector<ProfileCell>(lengths), false});
  }
  for (const Column& column : kColumns) {
    const std::span<const float> values = file.tensor(column.name, specs.size() * lengths);
    for (size_t i = 0; i < values.size(); ++i) {
      // Not a number, too.
      if (!(values[i] >= 0 && values[i] <= column.most))
        damaged(std::string(column.name) + " has values that nothing can measure");
      profile.points[i / lengths].cells[i % lengths].*column.value = values[i];
    }
  }
  const size_t each = masses(shape);
  const std::span<const float> mass =
      file.tensor("profile.least_mass", specs.size() * lengths * each);
  for (size_t i = 0; i < specs.size() * lengths; ++i) {
    const std::span<const float> part = mass.subspan(i * each, each);
    if (std::ranges::any_of(part, [](float m) { return !(m >= 0 && m <= 1.001f); }))
      damaged("profile.least_mass has shares beyond 1");
    profile.points[i / lengths].cells[i % lengths].least_mass.assign(part.begin(), part.end());
  }
  profile.protocol = one_text(file, "profile.protocol");
  profile.machine = one_text(file, "profile.machine");
  profile.tasks = file.texts("profile.tasks");
  mark_front(profile);
  return profile;
}

std::vector<CalibrationTensor> profile_tensors(const Profile& profile, const KvShape& shape) {
  const auto points = static_cast<int64_t>(profile.points.size()),
             lengths = static_cast<int64_t>(profile.lengths.size());
  std::vector<CalibrationTensor> tensors;
  const auto add = [&](const char* name, std::vector<int64_t> dims) -> std::vector<float>& {
    tensors.push_back({name, std::move(dims), {}});
    return tensors.back().values;
  };
  std::vector<float>& own = add("profile.lengths", {lengths});
  for (const double length : profile.lengths) own.push_back(static_cast<float>(length));
  std::vector<float>& samples = add("profile.samples", {lengths});
  for (const int count : profile.samples) samples.push_back(static_cast<float>(count));
  for (const Column& column : kColumns) {
    std::vector<float>& values = add(column.name, {lengths, points});
    for (const ProfilePoint& point : profile.points)
      for (const ProfileCell& cell : point.cells)
        values.push_back(static_cast<float>(cell.*column.value));
  }
  std::vector<float>& mass =
      add("profile.least_mass", {shape.heads + 1, shape.layers, lengths, points});
  for (const ProfilePoint& point : profile.points)
    for (const ProfileCell& cell : point.cells) {
      PITH_CHECK(cell.least_mass.size() == masses(shape), "a cell has a share for every head");
      mass.insert(mass.end(), cell.least_mass.begin(), cell.least_mass.end());
    }
  std::vector<float>& front = add("profile.front", {points});
  for (const ProfilePoint& point : profile.points) front.push_back(point.front ? 1.0f : 0.0f);
  return tensors;
}

std::vector<CalibrationNote> profile_notes(const Profile& profile) {
  std::vector<std::string> specs;
  for (const ProfilePoint& point : profile.points) specs.push_back(point.spec);
  return {{"profile.specs", specs},
          {"profile.protocol", {profile.protocol}},
          {"profile.machine", {profile.machine}},
          {"profile.tasks", profile.tasks}};
}

}  // namespace pith
