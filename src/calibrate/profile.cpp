#include "calibrate/profile.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "calibrate/calibration_file.h"
#include "kernels/kernels.h"

namespace pith {
namespace {

// One tensor with all sums, the least shares, and the full cache's scores that others of the same
// sample are compared with.
class Sums {
 public:
  Sums(const ProfilePlan& plan, const KvShape& shape, const std::string& path)
      : plan_(plan),
        specs_(plan.specs.size()),
        masses_(static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads + 1)),
        sums_(path, signature(plan), zero(plan, shape)) {}

  int done() const { return sums_.done(); }

  void add(const ProfileJob& job, const ProfileSample& sample) {
    PITH_CHECK(sample.kept.size() == masses_, "a sample has a share for every head");
    float& full = sums_.at(2)[sample_index(job)];
    if (job.spec == 0) full = static_cast<float>(sample.score);
    const double difference = sample.score - full;
    const double bytes = sample.bytes / sample.prompt_tokens;
    add(job, kCount, 1);
    add(job, kScore, sample.score);
    add(job, kDifference, difference);
    add(job, kSquare, difference * difference);
    add(job, kBytes, bytes);
    float& most = at(job, kMostBytes);
    most = std::max(most, static_cast<float>(bytes));
    add(job, kTokens, sample.prompt_tokens);
    if (job.timed) {
      add(job, kTimed, 1);
      add(job, kTimedTokens, sample.prompt_tokens);
      add(job, kFirstSeconds, sample.first_seconds);
      add(job, kTokenSeconds, sample.token_seconds);
    }
    add(job, kMass, sample.mass);
    const std::span<float> least = sums_.at(1).subspan(cell(job) * masses_, masses_);
    for (size_t i = 0; i < masses_; ++i) least[i] = std::min(least[i], sample.kept[i]);
    sums_.finish_sample();
  }

  Profile profile() const {
    Profile profile;
    profile.protocol = plan_.protocol;
    profile.machine = plan_.machine;
    profile.tasks = plan_.tasks;
    for (size_t l = 0; l < plan_.lengths.size(); ++l) {
      const std::span<const float> full = fields(l, 0);
      profile.lengths.push_back(full[kTokens] / full[kCount]);
      profile.samples.push_back(static_cast<int>(full[kCount]));
      if (full[kScore] <= 0)
        throw Error(Errc::bad_request,
                    "the model answers nothing at " + std::to_string(plan_.lengths[l]) +
                        " tokens, even with its full cache; name other lengths or tasks");
    }
    for (size_t s = 0; s < specs_; ++s) {
      ProfilePoint& point = profile.points.emplace_back();
      point.spec = plan_.specs[s];
      for (size_t l = 0; l < plan_.lengths.size(); ++l)
        point.cells.push_back(cell_of(l, s, profile));
    }
    mark_front(profile);
    return profile;
  }

 private:
  // Sums over the samples of one spec at one length.
  enum Field : size_t {
    kCount,
    kScore,
    kDifference,  // from the full cache's score of the same sample
    kSquare,      // of that
    kBytes,       // per token
    kMostBytes,   // the same, of all
    kTokens,
    kTimedTokens,
    kFirstSeconds,
    kTimed,
    kTokenSeconds,
    kMass,
    kFields
  };

  static std::string signature(const ProfilePlan& plan) {
    std::string text = "profile 1; " + plan.protocol + "; " + plan.machine + "; " + plan.settings +
                       "; seed " + std::to_string(plan.seed) + "; samples " +
                       std::to_string(plan.samples) + "; lengths";
    for (const int length : plan.lengths) text += " " + std::to_string(length);
    text += "; tasks";
    for (const std::string& task : plan.tasks) text += " " + task;
    text += "; specs";
    for (const std::string& spec : plan.specs) text += " " + spec;
    return text;
  }

  static std::vector<CalibrationTensor> zero(const ProfilePlan& plan, const KvShape& shape) {
    const auto specs = static_cast<int64_t>(plan.specs.size()),
               lengths = static_cast<int64_t>(plan.lengths.size());
    const int64_t masses = int64_t{shape.layers} * (shape.heads + 1);
    const int64_t samples =
        lengths * static_cast<int64_t>(plan.tasks.size()) * int64_t{plan.samples};
    const auto filled = [](int64_t count, float value) {
      return std::vector<float>(static_cast<size_t>(count), value);
    };
    constexpr auto kAll = static_cast<int64_t>(kFields);
    return {{"sums", {kAll, specs, lengths}, filled(kAll * specs * lengths, 0)},
            {"least", {masses, specs, lengths}, filled(masses * specs * lengths, 1)},
            {"full", {samples}, filled(samples, 0)}};
  }

  size_t cell(const ProfileJob& job) const {
    return static_cast<size_t>(job.length) * specs_ + static_cast<size_t>(job.spec);
  }
  size_t sample_index(const ProfileJob& job) const {
    const size_t task =
        static_cast<size_t>(job.length) * plan_.tasks.size() + static_cast<size_t>(job.task);
    return task * static_cast<size_t>(plan_.samples) + static_cast<size_t>(job.sample);
  }
  float& at(const ProfileJob& job, Field field) { return sums_.at(0)[cell(job) * kFields + field]; }
  void add(const ProfileJob& job, Field field, double value) {
    float& sum = at(job, field);
    sum = static_cast<float>(sum + value);
  }
  std::span<const float> fields(size_t length, size_t spec) const {
    return sums_.at(0).subspan((length * specs_ + spec) * kFields, kFields);
  }

  ProfileCell cell_of(size_t length, size_t spec, const Profile& profile) const {
    const std::span<const float> own = fields(length, spec), full = fields(length, 0);
    const double n = own[kCount];
    ProfileCell cell;
    cell.score = own[kScore] / full[kScore];
    const double mean = own[kDifference] / n;
    const double spread = std::max(0.0, own[kSquare] / n - mean * mean);
    if (n > 1) cell.score_error = std::sqrt(spread / (n - 1)) / (full[kScore] / n);
    cell.bytes = own[kBytes] / n;
    cell.most_bytes = own[kMostBytes];
    if (own[kTimed] > 0) {
      cell.first_seconds = own[kFirstSeconds] / own[kTimedTokens] * profile.lengths[length];
      cell.token_seconds = own[kTokenSeconds] / own[kTimed];
    }
    cell.mass = std::min(1.0, own[kMass] / n);
    const std::span<const float> least =
        sums_.at(1).subspan((length * specs_ + spec) * masses_, masses_);
    cell.least_mass.assign(least.begin(), least.end());
    return cell;
  }

  const ProfilePlan& plan_;
  const size_t specs_, masses_;
  SampleSums sums_;
};

}  // namespace

std::vector<std::string> profile_candidates() {
  std::vector<std::string> specs = {"full", "full:cache=q8", "kivi:bits=4", "kivi:bits=2"};
  const auto add = [&](const std::string& method, std::initializer_list<const char*> amounts,
                       std::initializer_list<const char*> bits) {
    for (const char* amount : amounts)
      for (const std::string bit : bits)
        specs.push_back(method + amount +
                        (bit == "16"  ? ""
                         : bit == "8" ? ",cache=q8"
                                      : "+kivi:bits=" + bit));
  };
  add("snapkv:budget=", {"0.02", "0.05", "0.1", "0.2", "0.4"}, {"16", "8", "4", "2"});
  add("coverage:mass=", {"0.5", "0.8", "0.9", "0.95", "0.98"}, {"16", "8", "4", "2"});
  for (const char* method : {"adakv", "pyramidkv", "dynamickv", "fastkv"})
    add(std::string(method) + ":budget=", {"0.02", "0.05", "0.1", "0.2"}, {"16", "4"});
  return specs;
}

Profile measure_profile(const ProfilePlan& plan, const KvShape& shape,
                        const std::string& progress_file,
                        const std::function<ProfileSample(const ProfileJob&)>& measure,
                        Monitor& monitor) {
  PITH_CHECK(!plan.specs.empty() && !plan.tasks.empty() && !plan.lengths.empty() &&
                 plan.samples > 0 && std::ranges::is_sorted(plan.lengths),
             "a plan has specs, tasks, samples, and lengths in order");
  Sums sums(plan, shape, progress_file);
  const int done = sums.done();
  std::vector<ProfileJob> jobs;
  int64_t total = 0;
  for (int length = 0; length < static_cast<int>(plan.lengths.size()); ++length)
    for (int sample = 0; sample < plan.samples; ++sample)
      for (int task = 0; task < static_cast<int>(plan.tasks.size()); ++task)
        for (int spec = 0; spec < static_cast<int>(plan.specs.size()); ++spec) {
          jobs.push_back({length, task, sample, spec, sample == 0 && task == 0});
          if (static_cast<int>(jobs.size()) > done)
            total += plan.lengths[static_cast<size_t>(length)];
        }
  int64_t read = 0;
  for (size_t i = static_cast<size_t>(done); i < jobs.size(); ++i) {
    monitor.check();
    monitor.progress("profile", read, total);
    sums.add(jobs[i], measure(jobs[i]));
    read += plan.lengths[static_cast<size_t>(jobs[i].length)];
  }
  monitor.progress("profile", total, total);
  return sums.profile();
}

std::string machine_line(int threads) {
  std::string name = "unknown processor", line;
  std::ifstream info("/proc/cpuinfo");
  while (std::getline(info, line)) {
    const size_t colon = line.find(": ");
    if (!line.starts_with("model name") || colon == std::string::npos) continue;
    name = line.substr(colon + 2);
    break;
  }
  return name + ", " + std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") +
         std::string(active_kernels().name);
}

}  // namespace pith
