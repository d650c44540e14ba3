// Quantised weights, whose products are sums of integers unless the options say f32: what sessions
// promise holds in both forms, and the forms lie as close together as docs/numerics.md says.
#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "convert/convert.h"
#include "kernels/kernels.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "support/golden.h"
#include "support/meter_backend.h"
#include "support/same_bits.h"
#include "support/test_data.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

EngineOptions options(MatmulForm matmul, int threads = 2, int tile_rows = 512) {
  return {.threads = threads,
          .cache_bytes = size_t{256} << 20,
          .tile_rows = tile_rows,
          .matmul = matmul};
}

std::vector<float> answer_of_file(const std::string& path, const EngineOptions& how,
                                  const std::string& spec, std::span<const int32_t> prompt) {
  Engine engine(Model::load(path), how);
  const auto session = engine.open(spec);
  engine.prefill(*session, prompt);
  std::vector<float> all = session->logits;
  Session* const one = session.get();
  for (int i = 0; i < 4; ++i) {
    const auto best = std::ranges::max_element(session->logits) - session->logits.begin();
    const auto token = static_cast<int32_t>(best);
    engine.decode({&one, 1}, {&token, 1});
    all.insert(all.end(), session->logits.begin(), session->logits.end());
  }
  return all;
}

class CodedWeights : public ::testing::TestWithParam<MatmulForm> {
 protected:
  void SetUp() override {
    model_.ffn_width = 64;  // whole blocks
    model_.dtype = DType::q8_0;
    path_ = write_tiny_model(model_);
    prompt_ = tiny_tokens(model_, 150);
  }
  std::vector<float> answer_of(const EngineOptions& how, const std::string& spec) const {
    return answer_of_file(path_, how, spec, prompt_);
  }
  TinyModel model_;
  std::string path_;
  std::vector<int32_t> prompt_;
};

TEST_P(CodedWeights, AnswerTheSameWhateverTheTilesAndThreads) {
  const std::vector<float> whole = answer_of(options(GetParam()), "full");
  for (const int tile : {1, 7, 64})
    EXPECT_TRUE(test::same_bits(whole, answer_of(options(GetParam(), 1, tile), "full"))) << tile;
}

TEST_P(CodedWeights, AnswerAsTheFullCacheWhereTheBudgetHoldsThePrompt) {
  const std::vector<float> full = answer_of(options(GetParam()), "full");
  EXPECT_TRUE(test::same_bits(full, answer_of(options(GetParam()), "snapkv:budget=1000")));
}

INSTANTIATE_TEST_SUITE_P(Forms, CodedWeights, ::testing::Values(MatmulForm::int8, MatmulForm::f32),
                         [](const auto& i) { return i.param == MatmulForm::f32 ? "f32" : "int8"; });

// Products with F32 weights are the same in both forms, and so must prompt attention be for them:
// it is of integers where the weights are rounded anyway, and only there.
TEST(PromptAttention, IsOfIntegersUnlessTheModelIsF32) {
  TinyModel model;
  for (const DType dtype : {DType::f16, DType::f32}) {
    model.dtype = dtype;
    const std::string path = write_tiny_model(model);
    const std::vector<int32_t> prompt = tiny_tokens(model, 150);
    EXPECT_EQ(test::same_bits(answer_of_file(path, options(MatmulForm::int8), "full", prompt),
                              answer_of_file(path, options(MatmulForm::f32), "full", prompt)),
              dtype == DType::f32)
        << traits(dtype).name;
  }
}

// ---- How far apart the forms are

// KL divergence of two distributions given as logits.
double divergence(std::span<const float> p, std::span<const float> q) {
  const auto log_sum = [](std::span<const float> x) {
    const double top = *std::ranges::max_element(x);
    double sum = 0;
    for (const float v : x) sum += std::exp(v - top);
    return top + std::log(sum);
  };
  const double log_p = log_sum(p), log_q = log_sum(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i)
    kl += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
  return kl;
}

struct Format {
  const char* name;
  DType dtype;
  double mean, largest;  // of the divergence per token, twice what was measured
};

class TrainedCodes : public ::testing::TestWithParam<Format> {};

INSTANTIATE_TEST_SUITE_P(Engine, TrainedCodes,
                         ::testing::Values(Format{"F16", DType::f16,
                                                  active_kernels().codes_halves ? 1.7e-6 : 7e-7,
                                                  active_kernels().codes_halves ? 2.9e-5 : 1.3e-5},
                                           Format{"Q8_0", DType::q8_0, 2.5e-3, 3e-2},
                                           Format{"Q4_0", DType::q4_0, 3.2e-3, 4e-2},
                                           Format{"Q4_K", DType::q4_k, 8e-4, 2e-2}),
                         [](const auto& i) { return i.param.name; });

TEST_P(TrainedCodes, DivergeFromTheFloatFormByWhatTheDocsSay) {
  PITH_NEEDS_DATA("stories3m/golden.json");
  PITH_NEEDS_DATA("tinystories-1000/tinystories_1000.json");
  const std::string folder = data_path("stories3m");
  const std::string plain = fresh_folder() + "plain.gguf";
  const std::string path = fresh_folder() + "coded.gguf";
  convert_llama2c(folder + "/stories3M-q80.bin", folder + "/tok4096.bin", plain, DType::f32);
  quantize(plain, path, GetParam().dtype);
  const std::vector<std::string> texts =
      read_stories(data_path("tinystories-1000/tinystories_1000.json"));

  const auto model = Model::load(path);
  Engine floats(model, options(MatmulForm::f32)), coded(model, options(MatmulForm::int8));
  double sum = 0, largest = 0;
  int tokens = 0;
  for (size_t story = 0; story < 3; ++story) {
    std::vector<int32_t> ids = floats.tokenizer().encode_prompt(texts.at(story), false);
    ids.resize(std::min<size_t>(ids.size(), 200));
    std::vector<std::vector<float>> expected;
    const auto reference = floats.open("full");
    floats.prefill_all(*reference, ids, [&](int, std::span<const float> logits) {
      expected.emplace_back(logits.begin(), logits.end());
    });
    const auto session = coded.open("full");
    coded.prefill_all(*session, ids, [&](int row, std::span<const float> logits) {
      const double kl = divergence(expected[static_cast<size_t>(row)], logits);
      sum += kl;
      largest = std::max(largest, kl);
      ++tokens;
    });
  }
  EXPECT_LE(sum / tokens, GetParam().mean);
  EXPECT_LE(largest, GetParam().largest);
}

TEST(PromptMatmul, IsOfLayersThatReadAPromptNeitherOfTheUnembeddingNorOfGeneratedTokens) {
  TinyModel tiny;
  tiny.ffn_width = 64;
  tiny.dtype = DType::f16;
  const auto model = Model::load(write_tiny_model(tiny));
  const KvShape& shape = model->config().shape;
  int64_t weights = 0, read = 0;  // the last layer needs keys and values, and one row of the rest
  for (const LayerWeights& w : model->weights().layers) {
    const bool last = &w == &model->weights().layers.back();
    for (const WeightMatrix& m : {w.wk, w.wv, w.wq, w.wo, w.gate, w.up, w.down}) {
      const bool cached = m.data == w.wk.data || m.data == w.wv.data;
      weights += m.rows * m.cols;
      read += m.rows * m.cols * (last && !cached ? 1 : 100);
    }
  }
  MeterBackend meter;
  PagePool pool(size_t{64} << 20);
  Forward forward(*model, meter, 64);
  Session session(shape, make_policy("full", shape), pool, {});
  session.feed(tiny_tokens(tiny, 100));
  while (forward.prefill_tile(session) == Progress::more) continue;
  EXPECT_EQ(meter.prompt_products, read);
  meter.products = meter.prompt_products = 0;
  Session* const sessions[] = {&session};
  const int32_t token[] = {1};
  ASSERT_EQ(forward.decode_step(sessions, token), Progress::done);
  EXPECT_EQ(meter.prompt_products, 0);
  EXPECT_EQ(meter.products, weights + int64_t{1} * tiny.vocab * tiny.width);
}

TEST(PromptAttention, IsSummedInIntegersInModelsWhoseWeightsAreNotF32) {
  for (const DType dtype : {DType::f32, DType::f16, DType::q8_0}) {
    TinyModel tiny;
    tiny.ffn_width = 64;
    tiny.dtype = dtype;
    const auto model = Model::load(write_tiny_model(tiny));
    const KvShape& shape = model->config().shape;
    MeterBackend meter;
    PagePool pool(size_t{64} << 20);
    Forward forward(*model, meter, 64);
    Session session(shape, make_policy("full", shape), pool, {});
    session.feed(tiny_tokens(tiny, 100));
    while (forward.prefill_tile(session) == Progress::more) continue;
    EXPECT_EQ(meter.integer_jobs > 0, dtype != DType::f32);
    EXPECT_EQ(meter.float_jobs > 0, dtype == DType::f32);
  }
}

}  // namespace
}  // namespace pith::test
