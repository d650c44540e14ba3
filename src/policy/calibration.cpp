#include "policy/calibration.h"

#include <deque>

#include "base/error.h"
#include "gguf/gguf.h"

namespace pith {
namespace {

constexpr std::string_view kType = "general.type", kTypeName = "calibration";
constexpr std::string_view kDigest = "pith.calibration.model";
constexpr std::string_view kMadeBy = "pith.calibration.made_by";
constexpr std::string_view kNotes = "pith.calibration.";

class FromFile final : public Calibration {
 public:
  explicit FromFile(std::shared_ptr<const GgufFile> file) : file_(std::move(file)) {
    if (file_->text(kType, "") != kTypeName)
      throw Error(Errc::bad_file,
                  file_->path() + ": not a calibration file; general.type says something else");
    digest_ = file_->text(kDigest);
  }

  bool has(std::string_view name) const override { return file_->has_tensor(name); }

  std::span<const float> tensor(std::string_view name, size_t expected) const override {
    return file_->floats(name, static_cast<int64_t>(expected));
  }

  size_t size(std::string_view name) const override {
    return file_->has_tensor(name) ? static_cast<size_t>(file_->tensor(name).elements()) : 0;
  }

  std::vector<std::string> texts(std::string_view name) const override {
    const std::string key = std::string(kNotes) + std::string(name);
    if (!file_->has(key)) return {};
    const std::vector<std::string_view> found = file_->texts(key);
    return {found.begin(), found.end()};
  }

  std::string_view model_digest() const override { return digest_; }
  std::string path() const override { return file_->path(); }
  std::string content_digest() const override { return file_->content_digest(); }

 private:
  std::shared_ptr<const GgufFile> file_;
  std::string digest_;
};

class Blank final : public Calibration {
 public:
  bool has(std::string_view) const override { return true; }

  std::span<const float> tensor(std::string_view, size_t expected) const override {
    return zeros_.emplace_back(expected, 0.0f);
  }

  size_t size(std::string_view) const override { return 0; }
  std::vector<std::string> texts(std::string_view) const override { return {}; }
  std::string_view model_digest() const override { return {}; }
  std::string path() const override { return {}; }
  std::string content_digest() const override { return {}; }

 private:
  mutable std::deque<std::vector<float>> zeros_;  // spans into them stay valid
};

}  // namespace

std::shared_ptr<const Calibration> Calibration::load(const std::string& path,
                                                     std::string_view model_digest) {
  auto calibration = std::make_shared<FromFile>(GgufFile::open(path));
  const std::string_view made_for = calibration->model_digest();
  if (!model_digest.empty() && made_for != model_digest)
    throw Error(Errc::bad_file, path + ": made for another model (its digest is " +
                                    std::string(made_for) + ", this model's " +
                                    std::string(model_digest) + "); calibrate this one");
  return calibration;
}

std::shared_ptr<const Calibration> Calibration::blank() {
  return std::make_shared<Blank>();
}

void save_calibration(const std::string& path, std::string_view model_digest,
                      std::string_view made_by, std::span<const CalibrationTensor> tensors) {
  GgufWriter writer(path);
  writer.set_text(kType, kTypeName);
  writer.set_text(kDigest, model_digest);
  writer.set_text(kMadeBy, made_by);
  for (const CalibrationTensor& t : tensors) writer.add_tensor(t.name, DType::f32, t.dims);
  writer.begin();
  for (const CalibrationTensor& t : tensors)
    writer.write_tensor(std::as_bytes(std::span(t.values)));
  writer.finish();
}

}  // namespace pith
