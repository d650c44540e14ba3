#include "apps/bench_bound.h"

#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "support/meter_backend.h"
#include "support/tiny_model.h"

namespace pith::test {
namespace {

double products(const Work& work) {
  return work.float_products + work.word_products + work.byte_products;
}

TEST(BenchBound, CountsTheMultiplyAddsOfAPromptAndNoneThatAMethodSaves) {
  const TinyModel& tiny = tiny_model("llama");
  const auto model = Model::load(write_tiny_model(tiny));
  const KvShape& shape = model->config().shape;
  double before = 0;
  for (const char* spec : {"fastkv:tsp_layer=0,tsp_rate=0.5,budget=0.2", "full"}) {
    MeterBackend meter;
    PagePool pool(size_t{256} << 20);
    Forward forward(*model, meter, 64);
    Session session(shape, make_policy(spec, shape), pool, {});
    PromptWork work(*model, MatmulForm::int8);
    session.observer = &work;
    session.feed(tiny_tokens(tiny, 300));
    while (session.prefill) ASSERT_NE(forward.prefill_tile(session), Progress::starved);
    EXPECT_EQ(products(work.work()), static_cast<double>(meter.products)) << spec;
    EXPECT_GT(products(work.work()), before);
    before = products(work.work());
  }
}

TEST(BenchBound, ChargesPromptsOfHalvesForIntegersWhereTheyAreMetAsSuch) {
  TinyModel tiny;
  tiny.ffn_width = 64;
  tiny.dtype = DType::f16;
  const auto model = Model::load(write_tiny_model(tiny));
  const KvShape& shape = model->config().shape;
  MeterBackend meter;
  PagePool pool(size_t{64} << 20);
  Forward forward(*model, meter, 64);
  Session session(shape, make_policy("full", shape), pool, {});
  PromptWork work(*model, MatmulForm::int8);
  session.observer = &work;
  session.feed(tiny_tokens(tiny, 100));
  while (session.prefill) ASSERT_NE(forward.prefill_tile(session), Progress::starved);
  const double last_row = double{1} * tiny.vocab * tiny.width;
  const double layers = static_cast<double>(meter.prompt_products);
  EXPECT_EQ(work.work().float_products,
            active_kernels().codes_halves ? last_row : last_row + layers);
  EXPECT_EQ(products(work.work()), static_cast<double>(meter.products));
}

TEST(BenchBound, ChargesATokenForWeightsAndTheRowsOfTheCache) {
  const TinyModel& tiny = tiny_model("llama_tied");
  const auto model = Model::load(write_tiny_model(tiny));
  Engine engine(model, {.threads = 1, .cache_bytes = size_t{64} << 20});
  const auto session = engine.open("full:page=32");
  engine.prefill(*session, tiny_tokens(tiny, 320));
  const Work work = token_work(*model, MatmulForm::int8, *session->store, Quant::f16, true);
  const double weights =
      tiny.layers * (2.0 * tiny.width * tiny.query_heads * tiny.dim +
                     2.0 * tiny.width * tiny.heads * tiny.dim + 3.0 * tiny.width * tiny.ffn_width) +
      double{1} * tiny.vocab * tiny.width;
  const double rows = 320.0 * tiny.layers;
  EXPECT_EQ(work.float_products, weights + rows * 2 * tiny.query_heads * tiny.dim);
  EXPECT_EQ(work.byte_products, 0);  // F32 weights
  // Of F32 weights and f16 rows; a page of 32 rows has a record of its own.
  const double bytes = weights * 4 + rows * 2 * tiny.heads * tiny.dim * 2;
  EXPECT_GE(work.read_bytes, bytes);
  EXPECT_LE(work.read_bytes, bytes + rows / 32 * 2 * tiny.heads * 64);

  const Work some = token_work(*model, MatmulForm::int8, *session->store, Quant::f16, false);
  EXPECT_EQ(some.float_products, weights);
  EXPECT_EQ(some.read_bytes, weights * 4);
}

TEST(BenchBound, IsWhicheverTakesLonger) {
  const Roofline roof{.flops = 100, .word_ops = 200, .byte_ops = 400, .read_bytes = 10};
  const Work work{
      .float_products = 50, .word_products = 100, .byte_products = 200, .read_bytes = 29};
  EXPECT_DOUBLE_EQ(bound_of(work, roof).seconds, 3);
  EXPECT_EQ(bound_of(work, roof).by, "arithmetic");
  EXPECT_DOUBLE_EQ(bound_of({.float_products = 50, .read_bytes = 31}, roof).seconds, 3.1);
  EXPECT_EQ(bound_of({.float_products = 50, .read_bytes = 31}, roof).by, "memory");
  // Where nobody measured the arithmetic, nothing is claimed about it.
  EXPECT_EQ(bound_of(work, {.read_bytes = 10}).seconds, 0);
}

}  // namespace
}  // namespace pith::test
