#include "runtime/session_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <xxhash.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "gguf/names.h"
#include "kv/head_image.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'P', 'I', 'T', 'H', 'S', 'E', 'S', 'S'};
constexpr uint32_t kVersion = 2;
constexpr size_t kPageAlignment = 64;
constexpr size_t kTrailerBytes = 24;  // length, checksum

class FileWriter {
 public:
  explicit FileWriter(const std::string& path) : file_(path), hash_(XXH3_createState()) {
    XXH3_128bits_reset(hash_.get());
  }

  void bytes(const void* data, size_t size) {
    XXH3_128bits_update(hash_.get(), data, size);
    file_.write(data, size);
  }
  template <class T>
  void number(T value) {
    align(sizeof value);
    bytes(&value, sizeof value);
  }
  template <class T>
  void numbers(std::span<const T> values) {
    number(static_cast<uint64_t>(values.size()));
    bytes(values.data(), values.size_bytes());
  }
  void text(std::string_view value) { numbers(std::span<const char>(value.data(), value.size())); }
  void page(std::span<const std::byte> data) {
    align(kPageAlignment);
    bytes(data.data(), data.size());
  }
  void commit() {
    align(sizeof(uint64_t));
    number(file_.position() + kTrailerBytes);
    const XXH128_hash_t sum = XXH3_128bits_digest(hash_.get());
    file_.write(&sum.low64, sizeof sum.low64);
    file_.write(&sum.high64, sizeof sum.high64);
    file_.commit();
  }

 private:
  void align(size_t to) {
    constexpr char kZeros[kPageAlignment] = {};
    bytes(kZeros, (to - file_.position() % to) % to);
  }
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  OutputFile file_;
  std::unique_ptr<XXH3_state_t, Free> hash_;
};

// Every read asks whether the bytes are there. What it gives out points into the file.
class FileReader {
 public:
  FileReader(std::span<const std::byte> bytes, const std::string& path)
      : bytes_(bytes), path_(path) {}

  [[noreturn]] void fail(const std::string& why) const {
    throw Error(Errc::bad_file, path_ + ": " + why);
  }

  std::span<const std::byte> take(size_t size, size_t alignment) {
    const size_t gap = (alignment - at_ % alignment) % alignment;
    if (gap > bytes_.size() - at_ || size > bytes_.size() - at_ - gap)
      fail("the session ends in the middle of its data; the file is damaged");
    at_ += gap + size;
    return bytes_.subspan(at_ - size, size);
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value, sizeof value).data(), sizeof value);
    return value;
  }
  template <class T>
  std::span<const T> numbers() {
    const auto count = number<uint64_t>();
    if (count > bytes_.size() / sizeof(T))
      fail("a list is longer than the file; the file is damaged");
    const auto raw = take(static_cast<size_t>(count) * sizeof(T), sizeof(T));
    return {reinterpret_cast<const T*>(raw.data()), static_cast<size_t>(count)};
  }
  std::string_view text() {
    const std::span<const char> raw = numbers<char>();
    return {raw.data(), raw.size()};
  }
  bool done() const { return bytes_.size() - at_ < sizeof(uint64_t); }  // but for alignment

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  size_t at_ = 0;
};

// The bytes between the start and the trailer, once everything about them was found right.
std::span<const std::byte> checked_bytes(const MappedFile& file) {
  const std::span<const std::byte> all = file.bytes();
  const auto fail = [&](const std::string& why) {
    throw Error(Errc::bad_file, file.path() + ": " + why);
  };
  if (all.size() < sizeof kMagic + sizeof kVersion + kTrailerBytes ||
      std::memcmp(all.data(), kMagic, sizeof kMagic) != 0)
    fail("not a session that 'pith run --save' wrote");
  uint32_t version = 0;
  std::memcpy(&version, all.data() + sizeof kMagic, sizeof version);
  if (version != kVersion)
    fail("the session has format version " + std::to_string(version) + " and this program reads " +
         std::to_string(kVersion) + "; save it again");
  uint64_t length = 0;
  XXH128_hash_t sum;
  const std::byte* trailer = all.data() + all.size() - kTrailerBytes;
  std::memcpy(&length, trailer, sizeof length);
  std::memcpy(&sum.low64, trailer + 8, sizeof sum.low64);
  std::memcpy(&sum.high64, trailer + 16, sizeof sum.high64);
  if (length != all.size()) fail("the session is cut short or has bytes behind its end");
  const std::span<const std::byte> covered = all.first(all.size() - kTrailerBytes + sizeof length);
  if (XXH128_isEqual(XXH3_128bits(covered.data(), covered.size()), sum) == 0)
    fail("the checksum is wrong: the file was changed or damaged after it was saved");
  return covered.first(covered.size() - sizeof length);
}

void write_head(FileWriter& to, const HeadImage& image) {
  to.number(static_cast<int64_t>(image.sealed_pages));
  to.numbers(image.tiers);
  to.numbers(image.positions);
  to.numbers(image.scores);
  to.numbers(image.summaries);
  to.numbers(image.pseudo);
  for (const auto* pages : {&image.k, &image.v}) {
    to.number(static_cast<uint64_t>(pages->size()));
    for (const std::span<const std::byte> page : *pages) {
      to.number(static_cast<uint64_t>(page.size()));
      to.page(page);
    }
  }
}

HeadImage read_head(FileReader& from) {
  HeadImage image;
  const auto sealed = from.number<int64_t>();
  if (sealed < 0 || sealed > std::numeric_limits<int>::max()) from.fail("the file is damaged");
  image.sealed_pages = static_cast<int>(sealed);
  image.tiers = from.numbers<uint8_t>();
  image.positions = from.numbers<int32_t>();
  image.scores = from.numbers<float>();
  image.summaries = from.numbers<float>();
  image.pseudo = from.numbers<float>();
  for (auto* pages : {&image.k, &image.v}) {
    const auto count = from.number<uint64_t>();
    for (uint64_t p = 0; p < count; ++p) {
      const auto size = from.number<uint64_t>();
      pages->push_back(from.take(size, kPageAlignment));
    }
  }
  return image;
}

struct DroppedImage {
  std::span<const int32_t> positions;
  std::span<const float> scales;
  std::span<const uint16_t> halves;
};

DroppedImage read_dropped(FileReader& from, size_t tokens, size_t width) {
  DroppedImage image;
  image.positions = from.numbers<int32_t>();
  image.scales = from.numbers<float>();
  image.halves = from.numbers<uint16_t>();
  const size_t count = image.positions.size();
  std::vector<int32_t> sorted(image.positions.begin(), image.positions.end());
  std::ranges::sort(sorted);
  if (count > tokens || image.scales.size() != count || image.halves.size() != count * width ||
      std::ranges::adjacent_find(sorted) != sorted.end() ||
      (count > 0 && (sorted.front() < 0 || sorted.back() >= static_cast<int64_t>(tokens))))
    from.fail("a layer has dropped tokens that cannot be; the file is damaged");
  return image;
}

}  // namespace

void save_session(const Session& session, const Model& model, const std::string& path) {
  PITH_CHECK(!session.prefill, "a session is saved between prompts");
  const KvShape& shape = model.config().shape;
  FileWriter to(path);
  to.bytes(kMagic, sizeof kMagic);
  to.number(kVersion);
  to.text(model.config().digest);
  to.text(session.policy->spec);
  to.text(session.policy->files_digest);
  to.numbers(std::span<const int32_t>(session.tokens));

  const Compressor::State state = session.compressor.state();
  to.numbers(std::span<const int>(state.budgets));
  for (const int64_t x :
       {state.prompt_tokens, state.tokens, state.shift, int64_t{state.steps}, state.stats.rows_seen,
        state.stats.rows_kept, state.stats.layers_revised, state.stats.rows_recoded})
    to.number(x);
  for (const double x : {state.stats.score_seen, state.stats.score_kept, state.stats.prompt_seconds,
                         state.stats.step_seconds})
    to.number(x);
  to.numbers(std::span<const float>(session.logits));
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h)
      write_head(to, std::as_const(*session.store).at(l, h).image());
  for (int l = 0; session.policy->store.keeps_dropped && l < shape.layers; ++l) {
    const DroppedTokens& dropped = session.store->dropped(l);
    to.numbers(dropped.positions());
    to.numbers(dropped.scales());
    to.numbers(dropped.halves());
  }
  to.commit();
}

std::unique_ptr<Session> load_session(const std::string& path, const Model& model, Backend& ops,
                                      PagePool& pool, const SamplingOptions& sampling,
                                      const PolicyOf& policy_of) {
  const MappedFile file(path);
  const ModelConfig& config = model.config();
  const KvShape& shape = config.shape;
  FileReader from(checked_bytes(file), path);
  from.take(sizeof kMagic + sizeof kVersion, 1);
  if (from.text() != config.digest)
    from.fail("the session was saved with another model than " + model.file().path() +
              "; load it with the one it was saved with");
  auto session = std::make_unique<Session>(shape, policy_of(from.text()), pool, sampling);
  if (from.text() != session->policy->files_digest)
    from.fail("a file that '" + session->policy->spec +
              "' names has other contents than when the session was saved; put the old one back");
  const std::span<const int32_t> tokens = from.numbers<int32_t>();
  for (const int32_t t : tokens)
    if (t < 0 || t >= config.vocab) from.fail("the session holds a token that the model lacks");

  Compressor::State state;
  const std::span<const int> budgets = from.numbers<int>();
  if (budgets.size() != static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads))
    from.fail("the session has not one budget per head; the file is damaged");
  state.budgets.assign(budgets.begin(), budgets.end());
  for (int64_t* x : {&state.prompt_tokens, &state.tokens, &state.shift})
    *x = from.number<int64_t>();
  state.steps = static_cast<int>(from.number<int64_t>());
  for (int64_t* x : {&state.stats.rows_seen, &state.stats.rows_kept, &state.stats.layers_revised,
                     &state.stats.rows_recoded})
    *x = from.number<int64_t>();
  for (double* x : {&state.stats.score_seen, &state.stats.score_kept, &state.stats.prompt_seconds,
                    &state.stats.step_seconds})
    *x = from.number<double>();
  const std::span<const float> logits = from.numbers<float>();
  if (logits.size() != (tokens.empty() ? 0 : static_cast<size_t>(config.vocab)))
    from.fail("the session has not one logit per word of the vocabulary; the file is damaged");

  std::vector<HeadImage> images;
  size_t needed = 0;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      const HeadCache& head = std::as_const(*session->store).at(l, h);
      images.push_back(read_head(from));
      const std::string why = head.why_not(images.back(), session->policy->reader.get());
      if (!why.empty())
        from.fail("layer " + std::to_string(l) + ", head " + std::to_string(h) + " " + why +
                  "; the file is damaged");
      needed += head.restore_bytes(images.back());
    }
  std::vector<DroppedImage> dropped;
  for (int l = 0; session->policy->store.keeps_dropped && l < shape.layers; ++l) {
    dropped.push_back(read_dropped(from, tokens.size(), static_cast<size_t>(shape.width)));
    needed += session->store->dropped(l).growth(static_cast<int>(dropped.back().positions.size()));
  }
  if (!from.done()) from.fail("the session has bytes that belong to nothing; the file is damaged");
  if (needed > pool.free_bytes())
    throw Error(Errc::no_memory,
                path + ": the session needs " + mebibytes(needed) + " of cache memory and " +
                    std::to_string(pool.free_bytes() >> 20) + " MiB are free; raise --kv-memory");
  for (size_t i = 0; i < images.size(); ++i)
    session->store->at(static_cast<int>(i) / shape.heads, static_cast<int>(i) % shape.heads)
        .restore(images[i], session->policy->reader.get());
  for (size_t l = 0; l < dropped.size(); ++l)
    session->store->dropped(static_cast<int>(l))
        .restore(dropped[l].positions, dropped[l].scales, dropped[l].halves);
  session->compressor.restore(state, ops, config.shape.ropes);
  session->tokens.assign(tokens.begin(), tokens.end());
  session->logits.assign(logits.begin(), logits.end());
  return session;
}

}  // namespace pith
