// How soon a prompt can be stopped: the monitor is asked between steps of bounded work, however
// large a tile is, and whenever it says stop, nothing of the prompt stays.
#include <algorithm>
#include <gtest/gtest.h>

#include "base/error.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "support/meter_backend.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

class Asked final : public Monitor {
 public:
  explicit Asked(MeterBackend& meter) : meter_(meter) {}
  bool stopped() const override {
    ++times;
    longest = std::max(longest, meter_.products);
    meter_.products = 0;
    return false;
  }
  mutable int times = 0;
  mutable int64_t longest = 0;  // multiply-adds between two questions

 private:
  MeterBackend& meter_;
};

class StopAfter final : public Monitor {
 public:
  explicit StopAfter(int questions) : left_(questions) {}
  bool stopped() const override { return left_-- <= 0; }

 private:
  mutable int left_;
};

// Few weights and rows of many query heads: its attention costs as much as a large model's.
const std::shared_ptr<const Model>& wide_model() {
  static const auto model = [] {
    TinyModel shape = tiny_model("llama");
    shape.name = "wide";
    shape.query_heads = 32;
    shape.heads = 1;
    shape.dim = 64;
    return Model::load(write_tiny_model(shape));
  }();
  return model;
}

// How often a monitor was asked in the last tile of a layer of such a prompt; what no step exceeds
// is checked on the way.
int questions_of_the_last_tile(int tokens, int tile_rows) {
  MeterBackend meter;
  Asked monitor(meter);
  PagePool pool(size_t{1} << 30);
  Forward forward(*wide_model(), meter, tile_rows);
  const KvShape& shape = wide_model()->config().shape;
  Session session(shape, make_policy("full", shape), pool, {});
  session.feed(tiny_tokens(tiny_model("llama"), tokens));
  int in_tile = 0;
  while (session.prefill && session.prefill->layer == 0) {
    const int before = monitor.times;
    EXPECT_NE(forward.prefill_tile(session, monitor), Progress::starved);
    in_tile = monitor.times - before;
  }
  EXPECT_LE(monitor.longest, int64_t{1} << 35) << tokens << " in tiles of " << tile_rows;
  EXPECT_LE(meter.widest_tile, 512) << tokens << " in tiles of " << tile_rows;
  return in_tile;
}

TEST(Interrupt, IsAskedForMoreOftenTheMoreWorkATileIs) {
  const int small = questions_of_the_last_tile(1024, 512),
            wide = questions_of_the_last_tile(8192, 8192),
            late = questions_of_the_last_tile(65536, 8192);
  EXPECT_GE(small, 5);
  EXPECT_GE(wide, 16 * small / 2);  // sixteen times the rows
  EXPECT_GE(late, wide + 32);       // the same rows over fifteen times the keys
}

TEST(Interrupt, LeavesTheSessionAsItWasWhereverATileIsStopped) {
  const TinyModel& tiny = tiny_model("llama");
  const auto model = Model::load(write_tiny_model(tiny));
  const auto first = tiny_tokens(tiny, 90, 1), second = tiny_tokens(tiny, 600, 2);
  for (const char* spec : {"full", "kvzip:budget=0.3"}) {
    Engine engine(model, {.threads = 1, .cache_bytes = size_t{256} << 20, .tile_rows = 8192});
    const auto session = engine.open(spec);
    engine.prefill(*session, first);
    const std::vector<float> logits = session->logits;
    const int64_t rows = session->store->rows();
    const auto held = [&] {  // spare room of the lanes may come and go
      std::vector<size_t> bytes;
      for (const MemoryClass what :
           {MemoryClass::pages_k, MemoryClass::pages_v, MemoryClass::pseudo, MemoryClass::prompt})
        bytes.push_back(engine.pool().used_bytes(what));
      return bytes;
    };
    const std::vector<size_t> before = held();
    int interrupted = 0;
    for (int questions = 0;; questions = questions * 3 / 2 + 1) {
      StopAfter stop(questions);
      try {
        engine.prefill(*session, second, stop);
        break;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), Errc::interrupted);
      }
      ++interrupted;
      ASSERT_EQ(session->tokens.size(), first.size());
      ASSERT_EQ(session->store->rows(), rows);
      ASSERT_EQ(session->logits, logits);
      ASSERT_EQ(held(), before);
    }
    EXPECT_GT(interrupted, 5) << spec;
    const auto untouched = engine.open(spec);
    engine.prefill(*untouched, first);
    engine.prefill(*untouched, second);
    EXPECT_EQ(session->logits, untouched->logits) << spec;
  }
}

TEST(Interrupt, StepsOfALargeTileAddUpToTheSameBits) {
  const TinyModel& tiny = tiny_model("llama");
  const auto model = Model::load(write_tiny_model(tiny));
  const auto prompt = tiny_tokens(tiny, 600);
  for (const char* spec : {"full", "h2o:budget=0.2", "kvzip:budget=0.3", "xattention"}) {
    std::vector<float> logits[2];
    for (const int large : {0, 1}) {
      Engine engine(
          model, {.threads = 1, .cache_bytes = size_t{256} << 20, .tile_rows = large ? 8192 : 512});
      const auto session = engine.open(spec);
      engine.prefill(*session, prompt);
      const int32_t token = 70;
      Session* const one = session.get();
      engine.decode({&one, 1}, {&token, 1});
      logits[large] = session->logits;
    }
    EXPECT_EQ(logits[0], logits[1]) << spec;
  }
}

}  // namespace
}  // namespace pith::test
