#include "calibrate/calibration_file.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "gguf/gguf.h"
#include "policy/defaults.h"
#include "policy/observer.h"
#include "runtime/engine.h"

namespace pith {
namespace {

constexpr std::string_view kType = "general.type", kCalibration = "calibration",
                           kProgress = "calibration progress";
constexpr std::string_view kOurs = "pith.calibration.", kDigest = "pith.calibration.model",
                           kMadeBy = "pith.calibration.made_by",
                           kSignature = "pith.calibration.signature",
                           kDone = "pith.calibration.done";

uint64_t fnv(uint64_t hash, std::span<const std::byte> bytes) {
  for (const std::byte b : bytes) hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3u;
  return hash;
}
constexpr uint64_t kFnvStart = 0xcbf29ce484222325u;

std::string hex(uint64_t hash) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

bool of_kind(std::string_view name, std::string_view kind) {
  return name.size() > kind.size() && name.starts_with(kind) && name[kind.size()] == '.';
}

std::shared_ptr<const GgufFile> open_if_there(const std::string& path) {
  std::error_code none;
  if (path.empty() || !std::filesystem::exists(path, none)) return nullptr;
  return GgufFile::open(path);
}

}  // namespace

std::string text_digest(std::span<const std::byte> bytes) {
  return hex(fnv(kFnvStart, bytes));
}

std::string text_digest(std::span<const std::vector<int32_t>> prompts) {
  uint64_t hash = kFnvStart;
  for (const std::vector<int32_t>& prompt : prompts) {
    const uint64_t size = prompt.size();
    hash = fnv(hash, std::as_bytes(std::span(&size, 1)));
    hash = fnv(hash, std::as_bytes(std::span(prompt)));
  }
  return hex(hash);
}

void add_calibration(const std::string& path, std::string_view model_digest,
                     const CalibrationOrigin& origin, std::span<const CalibrationTensor> tensors) {
  for (const CalibrationTensor& t : tensors)
    PITH_CHECK(of_kind(t.name, origin.kind), "a calibration's tensors carry its name");
  const std::shared_ptr<const GgufFile> before = open_if_there(path);
  if (before) (void)Calibration::load(path, model_digest);  // refuses what is no place for this

  GgufWriter writer(path);
  writer.set_text(kType, kCalibration);
  writer.set_text(kDigest, model_digest);
  writer.set_text(kMadeBy, origin.made_by);
  const std::string own = std::string(kOurs) + origin.kind + ".";
  if (before)
    for (const GgufEntry& entry : before->entries())
      if (entry.key.starts_with(kOurs) && entry.key != kDigest && entry.key != kMadeBy &&
          !entry.key.starts_with(own))
        writer.copy(entry);
  writer.set_text(own + "made_by", origin.made_by);
  writer.set_u64(own + "seed", origin.seed);
  if (!origin.text_digest.empty()) writer.set_text(own + "text_digest", origin.text_digest);
  for (const CalibrationNote& note : origin.notes) {
    PITH_CHECK(of_kind(note.name, origin.kind), "a calibration's notes carry its name");
    writer.set_texts(std::string(kOurs) + note.name, note.texts);
  }

  std::vector<const GgufTensor*> kept;
  if (before)
    for (const GgufTensor& t : before->tensors())
      if (!of_kind(t.name, origin.kind)) kept.push_back(&t);
  for (const GgufTensor* t : kept) writer.add_tensor(t->name, t->dtype, t->dims);
  for (const CalibrationTensor& t : tensors) writer.add_tensor(t.name, DType::f32, t.dims);
  writer.begin();
  for (const GgufTensor* t : kept) writer.write_tensor(t->data);
  for (const CalibrationTensor& t : tensors)
    writer.write_tensor(std::as_bytes(std::span(t.values)));
  writer.finish();
}

SampleSums::SampleSums(std::string path, std::string signature, std::vector<CalibrationTensor> zero)
    : path_(std::move(path)), signature_(std::move(signature)), sums_(std::move(zero)) {
  std::shared_ptr<const GgufFile> file;
  try {
    file = open_if_there(path_);
  } catch (const Error&) {
    return;  // not ours to read; the first sample overwrites it
  }
  if (!file || file->text(kType, "") != kProgress || file->text(kSignature, "") != signature_)
    return;
  for (CalibrationTensor& t : sums_) {
    const std::span<const float> values =
        file->floats(t.name, static_cast<int64_t>(t.values.size()));
    t.values.assign(values.begin(), values.end());
  }
  done_ = static_cast<int>(std::max<int64_t>(file->integer(kDone), 0));
}

void SampleSums::finish_sample() {
  ++done_;
  save();
}

void SampleSums::save() const {
  if (path_.empty()) return;
  GgufWriter writer(path_);
  writer.set_text(kType, kProgress);
  writer.set_text(kSignature, signature_);
  writer.set_i32(kDone, done_);
  for (const CalibrationTensor& t : sums_) writer.add_tensor(t.name, DType::f32, t.dims);
  writer.begin();
  for (const CalibrationTensor& t : sums_) writer.write_tensor(std::as_bytes(std::span(t.values)));
  writer.finish();
}

void look_at_prompt(Engine& engine, std::span<const int32_t> prompt, PromptObserver& observer,
                    const Monitor& monitor) {
  auto policy = std::make_shared<Policy>();
  policy->spec = "a look at a prompt";
  policy->scorer = newest_first();
  policy->budget = even_budget({.rows = 1}, 0);
  policy->reducer = keep_best();
  const auto session = engine.open(policy);
  session->observer = &observer;
  OnlyStops stops(monitor);
  engine.prefill(*session, prompt, stops);
}

}  // namespace pith
