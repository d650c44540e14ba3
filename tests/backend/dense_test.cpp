#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <gtest/gtest.h>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cpu_backend.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernels/kernels.h"
#include "support/attention_oracle.h"
#include "support/same_bits.h"
#include "tensor/codec.h"

namespace pith {
namespace {

using test::normal_numbers;
using test::worst;

// A coded matrix and the numbers its code stands for.
struct Weights {
  std::vector<std::byte> bytes;
  std::vector<float> plain;  // [rows, cols]
  WeightMatrix matrix;

  Weights(DType dtype, int64_t rows, int64_t cols, uint64_t seed = 4)
      : bytes(static_cast<size_t>(rows) * row_bytes(dtype, cols)),
        plain(normal_numbers(static_cast<size_t>(rows * cols), seed, 0.1f)),
        matrix{dtype, bytes.data(), rows, cols} {
    for (int64_t r = 0; r < rows; ++r) {
      float* row = plain.data() + r * cols;
      std::byte* coded = bytes.data() + static_cast<size_t>(r) * row_bytes(dtype, cols);
      encode_row(dtype, row, cols, coded);
      decode_row(dtype, coded, cols, row);
    }
  }
};

using Multiply = void (Backend::*)(ConstMat, const WeightMatrix&, Mat);

std::vector<float> product(Backend& backend, const std::vector<float>& x, const Weights& w,
                           Multiply multiply = &Backend::matmul) {
  const int64_t m = static_cast<int64_t>(x.size()) / w.matrix.cols;
  std::vector<float> out(static_cast<size_t>(m * w.matrix.rows), NAN);
  (backend.*multiply)(ConstMat::packed(x.data(), {m, w.matrix.cols}), w.matrix,
                      Mat::packed(out.data(), {m, w.matrix.rows}));
  return out;
}

std::vector<double> product_oracle(const std::vector<float>& x, const Weights& w) {
  const auto cols = static_cast<size_t>(w.matrix.cols), rows = static_cast<size_t>(w.matrix.rows);
  std::vector<double> out(x.size() / cols * rows);
  for (size_t i = 0; i < out.size(); ++i)
    for (size_t c = 0; c < cols; ++c)
      out[i] += static_cast<double>(x[i / rows * cols + c]) * w.plain[i % rows * cols + c];
  return out;
}

TEST(Matmul, IsTheProductWithEveryWeightFormatWhereAllAreFloats) {
  const auto backend = make_cpu_backend(2, MatmulForm::f32);
  for (const DType dtype :
       {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k})
    for (const int64_t m : {1, 3, 40}) {
      SCOPED_TRACE(::testing::Message() << traits(dtype).name << " times " << m << " rows");
      const Weights w(dtype, 83, 512);
      const std::vector<float> x = normal_numbers(static_cast<size_t>(m * 512), 8);
      EXPECT_LT(worst(product(*backend, x, w), product_oracle(x, w)), 2e-5);
    }
}

// Activations are multiples of a 127th of the largest of their 32: each is off by half of one at
// most, and a product by that times the weights.
TEST(Matmul, CodedActivationsAreOffByHalfACodeAtMost) {
  const auto backend = make_cpu_backend(2);
  for (const DType dtype :
       {DType::q8_0, DType::q4_0, DType::q5_0, DType::q4_k, DType::q5_k, DType::q6_k})
    for (const int64_t m : {1, 3, 40}) {
      SCOPED_TRACE(::testing::Message() << traits(dtype).name << " times " << m << " rows");
      const Weights w(dtype, 83, 512);
      const std::vector<float> x = normal_numbers(static_cast<size_t>(m * 512), 8);
      const std::vector<float> out = product(*backend, x, w);
      const std::vector<double> expected = product_oracle(x, w);
      for (size_t i = 0; i < out.size(); ++i) {
        double bound = 2e-5;
        for (size_t b = 0; b < 512; b += 32) {
          const float* block = x.data() + i / 83 * 512 + b;
          double most = 0, weights = 0;
          for (size_t k = 0; k < 32; ++k) {
            most = std::max(most, std::fabs(double{block[k]}));
            weights += std::fabs(double{w.plain[i % 83 * 512 + b + k]});
          }
          bound += most / 254 * weights;
        }
        ASSERT_NEAR(out[i], expected[i], bound) << "number " << i;
      }
    }
}

TEST(Matmul, AFormWithoutBlocksIsTheSameInBothForms) {
  const Weights w(DType::f16, 83, 100);
  const std::vector<float> x = normal_numbers(7 * 100, 8);
  EXPECT_TRUE(test::same_bits(product(*make_cpu_backend(2), x, w),
                              product(*make_cpu_backend(2, MatmulForm::f32), x, w)));
}

TEST(Matmul, ManyRowsAreCodedInPartsAndTheMemoryIsCounted) {
  const auto backend = make_cpu_backend(2);
  const Weights w(DType::q4_0, 8, 512);
  const int64_t m = 27000;  // 17 MB of codes
  std::vector<float> x(static_cast<size_t>(m * 512));
  const std::vector<float> row = normal_numbers(512, 8);
  for (size_t i = 0; i < x.size(); ++i) x[i] = row[i % 512] * static_cast<float>(i / 512);
  const std::vector<float> out = product(*backend, x, w);
  EXPECT_GE(backend->scratch_bytes(), size_t{15} << 20);
  EXPECT_LE(backend->scratch_bytes(), size_t{24} << 20);
  const auto alone = make_cpu_backend(1);
  for (const int64_t i : {int64_t{0}, int64_t{1}, int64_t{26211}, int64_t{26215}, m - 1}) {
    const std::vector<float> part(x.begin() + i * 512, x.begin() + (i + 1) * 512);
    const std::vector<float> one = product(*alone, part, w);
    EXPECT_EQ(std::memcmp(out.data() + i * 8, one.data(), 8 * sizeof(float)), 0) << "row " << i;
  }
}

class BothForms : public ::testing::TestWithParam<MatmulForm> {};

TEST_P(BothForms, ThreadsAndBatchesDoNotChangeABit) {
  // Shapes with too few rows for the threads, and with enough.
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{40, 256}, {300, 256}})
    for (const DType dtype : {DType::f32, DType::q8_0, DType::q4_k, DType::q6_k}) {
      const Weights w(dtype, rows, cols);
      const std::vector<float> x = normal_numbers(static_cast<size_t>(300 * cols), 8);
      const std::vector<float> one = product(*make_cpu_backend(1, GetParam()), x, w);
      for (const int threads : {2, 7}) {
        const auto backend = make_cpu_backend(threads, GetParam());
        EXPECT_TRUE(test::same_bits(product(*backend, x, w), one)) << threads << " threads";
        for (const int64_t m : {1, 2, 4, 5, 70}) {
          const std::vector<float> part(x.begin(), x.begin() + m * cols);
          const std::vector<float> out = product(*backend, part, w);
          EXPECT_EQ(std::memcmp(out.data(), one.data(), out.size() * sizeof(float)), 0)
              << m << " of 300 rows";
        }
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Matmul, BothForms, ::testing::Values(MatmulForm::int8, MatmulForm::f32),
                         [](const auto& i) { return i.param == MatmulForm::f32 ? "f32" : "int8"; });

// Codes of 14 bits where the target has them, floats elsewhere: an activation and a weight are each
// off by a 16382nd of the largest of their 32 at most.
TEST(PromptMatmul, OfHalvesIsOffByHalfACodeAtMostAndHasTheSameBitsForEveryBatch) {
  const auto one = make_cpu_backend(1), two = make_cpu_backend(2);
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const int64_t cols = 512, m = 41;
    const Weights w(dtype, 83, cols);
    const std::vector<float> x = normal_numbers(static_cast<size_t>(m * cols), 8);
    const std::vector<float> whole = product(*two, x, w, &Backend::matmul_prompt);
    const std::vector<double> exact = product_oracle(x, w);
    for (size_t i = 0; i < whole.size(); ++i) {
      const float *a = x.data() + i / 83 * 512, *b = w.plain.data() + i % 83 * 512;
      double off = 0;
      for (int64_t block = 0; block < cols; block += 32) {
        double most_a = 0, most_b = 0, sum_a = 0, sum_b = 0;
        for (int64_t c = block; c < block + 32; ++c) {
          most_a = std::max(most_a, std::fabs(double{a[c]}));
          most_b = std::max(most_b, std::fabs(double{b[c]}));
          sum_a += std::fabs(double{a[c]});
          sum_b += std::fabs(double{b[c]});
        }
        off += (most_a * sum_b + most_b * sum_a + most_a * most_b / 512) / 16382;
      }
      ASSERT_NEAR(whole[i], exact[i], 1.001 * off) << traits(dtype).name << " " << i;
    }
    for (const int64_t count : {1, 2, 5}) {
      const std::vector<float> some(x.begin() + 7 * cols, x.begin() + (7 + count) * cols);
      const std::vector<float> same(whole.begin() + 7 * 83, whole.begin() + (7 + count) * 83);
      EXPECT_TRUE(test::same_bits(product(*one, some, w, &Backend::matmul_prompt), same))
          << traits(dtype).name << ", " << count << " rows alone";
    }
  }
}

TEST(PromptMatmul, IsTheProductOfFloatsWhereNothingIsCoded) {
  const auto floats = make_cpu_backend(2, MatmulForm::f32), coded = make_cpu_backend(2);
  const auto same = [](Backend& backend, DType dtype, int64_t cols) {
    const Weights w(dtype, 35, cols);
    const std::vector<float> x = normal_numbers(static_cast<size_t>(20 * cols), 8);
    return test::same_bits(product(backend, x, w), product(backend, x, w, &Backend::matmul_prompt));
  };
  EXPECT_TRUE(same(*floats, DType::f16, 512));
  EXPECT_TRUE(same(*coded, DType::f32, 512));
  EXPECT_TRUE(same(*coded, DType::f16, 50));    // no whole blocks of 32
  EXPECT_TRUE(same(*coded, DType::q8_0, 512));  // coded either way
  EXPECT_EQ(same(*coded, DType::f16, 512), !active_kernels().codes_halves);
}

TEST(Matmul, ReadsAndWritesWithStrides) {
  const auto backend = make_cpu_backend(2);
  const Weights w(DType::f32, 35, 64);
  const std::vector<float> x = normal_numbers(5 * 100, 8);
  std::vector<float> out(5 * 50, 9);
  backend->matmul({x.data(), {5, 64}, {100, 1}}, w.matrix, {out.data(), {5, 35}, {50, 1}});
  for (size_t i = 0; i < 5; ++i) {
    const std::vector<float> row(x.begin() + static_cast<int64_t>(i * 100),
                                 x.begin() + static_cast<int64_t>(i * 100 + 64));
    EXPECT_LT(worst(std::span(out).subspan(i * 50, 35), product_oracle(row, w)), 1e-5);
    for (size_t c = 35; c < 50; ++c) EXPECT_EQ(out[i * 50 + c], 9);
  }
}

TEST(Embed, DecodesTheRowsOfItsTokensAndScalesThem) {
  const auto backend = make_cpu_backend(2);
  for (const DType dtype : {DType::f32, DType::q8_0})
    for (const float scale : {1.0f, 11.3f}) {
      const Weights w(dtype, 20, 64);
      const std::vector<int32_t> tokens = {19, 0, 7, 7};
      std::vector<float> out(4 * 64);
      backend->embed(w.matrix, tokens, scale, Mat::packed(out.data(), {4, 64}));
      for (size_t i = 0; i < out.size(); ++i)
        EXPECT_EQ(out[i], w.plain[static_cast<size_t>(tokens[i / 64]) * 64 + i % 64] * scale);
    }
}

TEST(Norms, EqualTheirDefinitionAndMayWorkInPlace) {
  const auto backend = make_cpu_backend(2);
  const int64_t rows = 37, width = 200;
  const std::vector<float> x = normal_numbers(static_cast<size_t>(rows * width), 1, 3);
  const std::vector<float> gain = normal_numbers(200, 2), bias = normal_numbers(200, 3);
  std::vector<double> rms, centred, plain;
  for (size_t r = 0; r < 37; ++r) {
    double sum = 0, squares = 0;
    for (size_t c = 0; c < 200; ++c) {
      sum += x[r * 200 + c];
      squares += static_cast<double>(x[r * 200 + c]) * x[r * 200 + c];
    }
    const double mean = sum / 200, variance = squares / 200 - mean * mean;
    for (size_t c = 0; c < 200; ++c) {
      rms.push_back(x[r * 200 + c] / std::sqrt(squares / 200 + 1e-5) * gain[c]);
      plain.push_back((x[r * 200 + c] - mean) / std::sqrt(variance + 1e-5) * gain[c]);
      centred.push_back(plain.back() + bias[c]);
    }
  }
  std::vector<float> out(x.size());
  const ConstMat from = ConstMat::packed(x.data(), {rows, width});
  const Mat to = Mat::packed(out.data(), {rows, width});
  backend->rms_norm(from, gain, 1e-5f, to);
  EXPECT_LT(worst(out, rms), 1e-5);
  backend->layer_norm(from, gain, bias, 1e-5f, to);
  EXPECT_LT(worst(out, centred), 1e-5);
  backend->layer_norm(from, gain, {}, 1e-5f, to);
  EXPECT_LT(worst(out, plain), 1e-5);
  out = x;
  backend->rms_norm(to, gain, 1e-5f, to);
  EXPECT_LT(worst(out, rms), 1e-5);
}

// ---- rope

struct Turned {
  std::vector<float> inv_freq, x;
  std::vector<int32_t> positions;
  Rope rope;
  int64_t heads, dim;

  Turned(int64_t heads, int64_t dim, size_t pairs, bool half_split, std::vector<int32_t> where,
         double base = 10000)
      : positions(std::move(where)), heads(heads), dim(dim) {
    for (size_t i = 0; i < pairs; ++i)
      inv_freq.push_back(
          static_cast<float>(std::pow(base, -static_cast<double>(i) / static_cast<double>(pairs))));
    x = normal_numbers(positions.size() * static_cast<size_t>(heads * dim), 6);
    rope = {.inv_freq = inv_freq, .magnitude = 1, .half_split = half_split};
  }
  Turned(const Turned&) = delete;

  void turn(Backend& backend, std::vector<float>& data, int direction) const {
    backend.rope(Cube::packed(data.data(), {static_cast<int64_t>(positions.size()), heads, dim}),
                 positions, rope, direction);
  }

  std::vector<double> oracle() const {
    std::vector<double> out(x.begin(), x.end());
    const size_t pairs = inv_freq.size(), head = static_cast<size_t>(dim);
    for (size_t h = 0; h < out.size() / head; ++h)
      for (size_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(positions[h / static_cast<size_t>(heads)]) *
                             static_cast<double>(inv_freq[i]);
        const size_t a = h * head + (rope.half_split ? i : 2 * i);
        const size_t b = h * head + (rope.half_split ? i + pairs : 2 * i + 1);
        const std::complex<double> z =
            std::complex<double>(x[a], x[b]) * std::polar<double>(rope.magnitude, angle);
        out[a] = z.real();
        out[b] = z.imag();
      }
    return out;
  }
};

std::vector<int32_t> counting(int n, int first = 0) {
  std::vector<int32_t> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

TEST(Rope, TurnsPairsAsComplexNumbersInBothForms) {
  const auto backend = make_cpu_backend(2);
  for (const bool half_split : {false, true})
    for (const size_t pairs : {4u, 20u, 36u}) {  // the last two: all of the head, and part of it
      SCOPED_TRACE(::testing::Message() << pairs << " pairs, half split " << half_split);
      Turned t(3, pairs == 20 ? 48 : static_cast<int64_t>(2 * pairs), pairs, half_split,
               counting(70, 5));
      t.rope.magnitude = pairs == 20 ? 1.3f : 1.0f;
      std::vector<float> out = t.x;
      t.turn(*backend, out, 1);
      EXPECT_LT(worst(out, t.oracle()), 1e-6);
    }
}

TEST(Rope, IsExactAtAMillionTokens) {
  const auto backend = make_cpu_backend(1);
  const Turned t(2, 128, 64, true, {1000000, 999999, 131071, 0, 1});
  std::vector<float> out = t.x;
  t.turn(*backend, out, 1);
  EXPECT_LT(worst(out, t.oracle()), 1e-6);
}

TEST(Rope, IsTakenBackByTurningTheOtherWay) {
  const auto backend = make_cpu_backend(2);
  for (const float magnitude : {1.0f, 1.35f, 0.5f}) {
    Turned t(2, 64, 32, true, counting(40, 65000));
    t.rope.magnitude = magnitude;
    std::vector<float> out = t.x;
    t.turn(*backend, out, 1);
    t.turn(*backend, out, -1);
    EXPECT_LT(worst(out, std::vector<double>(t.x.begin(), t.x.end())), 1e-6);
  }
}

TEST(Rope, ForgetsOldAnglesWhenPositionsFrequenciesOrDirectionChange) {
  const auto backend = make_cpu_backend(2);
  const Turned a(1, 16, 8, true, counting(9)), b(1, 16, 8, true, counting(9, 1)),
      c(1, 16, 8, true, counting(9), 500000), d(1, 16, 8, true, counting(8));
  for (const Turned* t : {&a, &b, &a, &c, &a, &d, &a}) {
    std::vector<float> out = t->x;
    t->turn(*backend, out, 1);
    EXPECT_LT(worst(out, t->oracle()), 1e-6);
  }
}

TEST(Rope, TurnsManyRowsAndLeavesPaddingAlone) {
  const auto backend = make_cpu_backend(2);
  const Turned t(1, 8, 4, true, counting(2500));
  std::vector<float> out(2500 * 12, 4);
  for (size_t r = 0; r < 2500; ++r) std::copy_n(t.x.data() + r * 8, 8, out.data() + r * 12 + 2);
  backend->rope({out.data() + 2, {2500, 1, 8}, {12, 8, 1}}, t.positions, t.rope, 1);
  const std::vector<double> expected = t.oracle();
  for (size_t i = 0; i < out.size(); ++i) {
    const bool inside = i % 12 >= 2 && i % 12 < 10;
    ASSERT_NEAR(out[i], inside ? expected[i / 12 * 8 + i % 12 - 2] : 4, 2e-6);
  }
}

TEST(Rope, WithoutFrequenciesChangesNothing) {
  const auto backend = make_cpu_backend(1);
  Turned t(2, 16, 0, false, counting(4));
  std::vector<float> out = t.x;
  t.turn(*backend, out, 1);
  EXPECT_EQ(out, t.x);
}

// ---- number by number

TEST(Activations, EqualTheirDefinition) {
  const auto backend = make_cpu_backend(2);
  const int64_t rows = 41, width = 300;
  const std::vector<float> x = normal_numbers(static_cast<size_t>(rows * width), 1, 3);
  const std::vector<float> up = normal_numbers(x.size(), 2);
  const ConstMat from = ConstMat::packed(x.data(), {rows, width});
  const ConstMat by = ConstMat::packed(up.data(), {rows, width});
  std::vector<float> out(x.size());
  const Mat to = Mat::packed(out.data(), {rows, width});
  const auto expected = [&](auto f) {
    std::vector<double> all;
    for (size_t i = 0; i < x.size(); ++i)
      all.push_back(f(static_cast<double>(x[i]), static_cast<double>(up[i])));
    return all;
  };
  const auto tanh_form = [](double a) {
    return a / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (a + 0.044715 * a * a * a)));
  };
  backend->gate(Gate::silu, from, by, to);
  EXPECT_LT(worst(out, expected([](double a, double b) { return a / (1 + std::exp(-a)) * b; })),
            2e-6);
  backend->gate(Gate::gelu_tanh, from, by, to);
  EXPECT_LT(worst(out, expected([&](double a, double b) { return tanh_form(a) * b; })), 2e-6);
  backend->gelu(from, to);
  EXPECT_LT(
      worst(out, expected([](double a, double) { return a / 2 * std::erfc(-a / std::sqrt(2.0)); })),
      2e-6);
  out = x;
  backend->add(by, to);
  EXPECT_LT(worst(out, expected([](double a, double b) { return a + b; })), 1e-6);
  out = x;
  backend->clamp(1.5f, to);
  EXPECT_LT(worst(out, expected([](double a, double) { return std::clamp(a, -1.5, 1.5); })), 1e-9);
  out = x;
  backend->softcap(4, to);
  EXPECT_LT(worst(out, expected([](double a, double) { return 4 * std::tanh(a / 4); })), 2e-6);
  out = x;
  backend->add_row(std::span(up).first(300), to);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(out[i], x[i] + up[i % 300]);
  out = x;
  backend->gate(Gate::silu, to, by, to);  // in place
  EXPECT_LT(worst(out, expected([](double a, double b) { return a / (1 + std::exp(-a)) * b; })),
            2e-6);
}

// ---- memory

TEST(Gather, CopiesTheNamedRows) {
  const auto backend = make_cpu_backend(2);
  const std::vector<float> x = normal_numbers(500 * 24, 3);
  std::vector<int32_t> rows;
  for (int i = 0; i < 700; ++i) rows.push_back(i * 37 % 500);  // in any order, some twice
  std::vector<float> out(700 * 24);
  backend->gather(ConstMat::packed(x.data(), {500, 24}), rows, Mat::packed(out.data(), {700, 24}));
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_EQ(out[i], x[static_cast<size_t>(rows[i / 24]) * 24 + i % 24]);
}

TEST(Gather, MovesAscendingRowsInPlace) {
  const std::vector<float> x = normal_numbers(3000 * 100, 3);
  std::vector<int32_t> rows;
  for (int r = 0; r < 3000; ++r)
    if (r % 7 < 3 || r == 2999) rows.push_back(r);
  for (const int threads : {1, 2, 4}) {
    std::vector<float> memory = x;
    const auto kept = static_cast<int64_t>(rows.size());
    make_cpu_backend(threads)->gather(ConstMat::packed(memory.data(), {3000, 100}), rows,
                                      Mat::packed(memory.data(), {kept, 100}));
    for (size_t i = 0; i < rows.size() * 100; ++i)
      ASSERT_EQ(memory[i], x[static_cast<size_t>(rows[i / 100]) * 100 + i % 100]);
  }
}

TEST(Gather, OfNoRowsDoesNothing) {
  const auto backend = make_cpu_backend(2);
  std::vector<float> x(8, 1);
  backend->gather(ConstMat::packed(x.data(), {1, 8}), {}, Mat::packed(x.data(), {0, 8}));
  EXPECT_EQ(x, std::vector<float>(8, 1));
}

TEST(Allocate, GivesZeroedMemoryOfTheSizeAskedFor) {
  const auto backend = make_cpu_backend(1);
  const auto memory = backend->allocate(300000);
  ASSERT_EQ(memory->bytes(), 300000u);
  auto* bytes = static_cast<unsigned char*>(memory->data());
  EXPECT_TRUE(std::all_of(bytes, bytes + 300000, [](unsigned char b) { return b == 0; }));
  bytes[0] = bytes[299999] = 1;
  EXPECT_EQ(backend->allocate(0)->bytes(), 0u);
}

TEST(Allocate, SaysSoWhenTheSystemHasNoMore) {
  const auto backend = make_cpu_backend(1);
  try {
    backend->allocate(size_t{1} << 60);
    FAIL() << "a billion gigabytes were given";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::no_memory);
    EXPECT_NE(std::string(error.what()).find("MiB"), std::string::npos) << error.what();
  }
}

TEST(CpuBackend, NamesItselfAndCountsItsThreads) {
  const auto backend = make_cpu_backend(3);
  EXPECT_EQ(backend->name(), "cpu");
  EXPECT_EQ(backend->threads().count(), 3);
  EXPECT_GE(make_cpu_backend(0)->threads().count(), 1);
}

}  // namespace
}  // namespace pith
