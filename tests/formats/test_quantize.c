// Quantising by a search: against llama.cpp's files, by its own promises, and on hard blocks.
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "core/rng.h"
#include "formats/block.h"
#include "formats/gguf.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

static const BlockType searched[] = {BLOCK_Q2_K, BLOCK_Q3_K, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_IQ4_NL, BLOCK_IQ4_XS};
static const BlockType weighed[] = {BLOCK_Q2_K,   BLOCK_Q3_K, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_IQ4_NL,
                                    BLOCK_IQ4_XS, BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0, BLOCK_Q5_1};
enum { SEARCHED = sizeof searched / sizeof *searched, WEIGHED = sizeof weighed / sizeof *weighed, COLUMNS = 768, ROWS = 24 };

// sum of importance (x - x')^2 over rows; importance NULL: 1.
static double squared_error(const void *blocks, BlockType type, const float *x, const float *importance, int64_t rows, int64_t columns) {
  float *back = memory_new((size_t)(rows * columns), sizeof *back);
  block_traits(type)->dequantize(back, blocks, rows * columns);
  double error = 0;
  for (int64_t i = 0; i < rows * columns; i++) {
    assert_true(isfinite(back[i]));
    error += (importance ? importance[i % columns] : 1) * ((double)x[i] - back[i]) * ((double)x[i] - back[i]);
  }
  free(back);
  return error;
}

static void *quantized(BlockType type, const float *x, const float *importance, int64_t rows, int64_t columns) {
  int64_t row_bytes = block_row_bytes(type, columns);
  char *blocks = memory_new((size_t)(rows * row_bytes), 1);
  for (int64_t row = 0; row < rows; row++) block_traits(type)->quantize(blocks + row * row_bytes, x + row * columns, importance, columns);
  return blocks;
}

static double error_of(BlockType type, const float *x, const float *importance, const float *measure, int64_t rows, int64_t columns) {
  void *blocks = quantized(type, x, importance, rows, columns);
  double error = squared_error(blocks, type, x, measure, rows, columns);
  free(blocks);
  return error;
}

// Every tensor of llama.cpp's files of the same weights: never more than a hundredth above its squared error.
static void errors_are_no_larger_than_llama_cpp_s(void **state) {
  (void)state;
  static const char *const files[] = {"q2_k",   "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m",
                                      "q5_k_s", "q5_k_m", "q6_k",   "iq4_nl", "iq4_xs"};
  char *source_path = shared_path("golden/quant/gguf/f32.gguf");
  if (!source_path) skip_test("golden/quant is not here");
  Gguf source;
  assert_ok(gguf_open(&source, source_path));
  int compared[BLOCK_GGUF_END] = {0};
  for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
    char *name = memory_format("golden/quant/gguf/%s.gguf", files[f]), *path = shared_path(name);
    Gguf theirs;
    assert_non_null(path);
    assert_ok(gguf_open(&theirs, path));
    for (int64_t t = 0; t < theirs.tensor_count; t++) {
      const GgufTensor *tensor = &theirs.tensors[t], *x = gguf_find_tensor(&source, tensor->name);
      BlockType type = (BlockType)tensor->type;
      if (block_traits(type)->elements == 1) continue;
      double their_error = squared_error(tensor->data, type, x->data, NULL, x->shape[1], x->shape[0]);
      double our_error = error_of(type, x->data, NULL, NULL, x->shape[1], x->shape[0]);
      if (our_error > 1.01 * their_error) fail_msg("%s, %s: %g is above %g", files[f], tensor->name, our_error, their_error);
      compared[type]++;
    }
    gguf_close(&theirs);
    free(path);
    free(name);
  }
  for (int i = 0; i < SEARCHED; i++) assert_true(compared[searched[i]] > 0);
  gguf_close(&source);
  free(source_path);
}

static void fill_rows(float *x, float *importance, uint64_t seed) {
  Rng rng = rng_new(seed, RNG_STREAM_TEST);
  fill_normal(x, ROWS * COLUMNS, 0.02, &rng);
  fill_normal(importance, COLUMNS, 1.5, &rng);
  for (int i = 0; i < COLUMNS; i++) importance[i] = expf(importance[i]);
  for (int i = 0; i < ROWS * COLUMNS; i += 101) x[i] *= 6;
}

static void importance_lowers_the_error_that_it_weighs(void **state) {
  (void)state;
  static float x[ROWS * COLUMNS], importance[COLUMNS];
  fill_rows(x, importance, 3);
  for (int i = 0; i < WEIGHED; i++) {
    double with = error_of(weighed[i], x, importance, importance, ROWS, COLUMNS),
           without = error_of(weighed[i], x, NULL, importance, ROWS, COLUMNS);
    if (!(with < 0.97 * without)) fail_msg("%s: %g with importance, %g without", block_traits(weighed[i])->name, with, without);
  }
}

// More bits leave less: a mistake in the packing of a type would stand out by far.
static void each_type_is_as_exact_as_its_bits(void **state) {
  (void)state;
  static const struct {
    BlockType type;
    double most;  // of the relative squared error of normal values with outliers
  } limits[] = {{BLOCK_Q2_K, 0.085},  {BLOCK_Q3_K, 0.034},    {BLOCK_Q4_K, 0.0070},  {BLOCK_Q5_K, 0.0018},
                {BLOCK_Q6_K, 5.5e-4}, {BLOCK_IQ4_NL, 0.0095}, {BLOCK_IQ4_XS, 0.0095}};
  static float x[ROWS * COLUMNS], importance[COLUMNS];
  fill_rows(x, importance, 4);
  double squares = 0;
  for (int i = 0; i < ROWS * COLUMNS; i++) squares += (double)x[i] * x[i];
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    double error = error_of(limits[i].type, x, NULL, NULL, ROWS, COLUMNS) / squares;
    if (!(error < limits[i].most)) fail_msg("%s: %g", block_traits(limits[i].type)->name, error);
  }
}

// Zeros, constants, one value alone, numbers near the ends of binary16, NaN and infinity, importance of zero: everything that is
// written can be read, and what the type can say exactly is said so.
static void hard_blocks_stay_finite(void **state) {
  (void)state;
  enum { CASES = 9, N = 256 };
  static float x[CASES][N], importance[2][N];
  for (int j = 0; j < N; j++) {
    x[1][j] = 0.5f;
    x[2][j] = -0.5f;
    x[3][j] = j == 77 ? -3.0f : 0;
    x[4][j] = (j % 7 - 3) * 2e4f;
    x[5][j] = (j % 7 - 3) * 1e-9f;
    x[6][j] = j % 3 ? NAN : 0.25f;
    x[7][j] = j == 5 ? INFINITY : j == 6 ? -INFINITY : 1;
    x[8][j] = (j % 16) * 1.0f;
    importance[1][j] = j % 2 ? 1e30f : 0;
  }
  for (int c = 0; c < CASES; c++) {
    for (int i = 0; i < WEIGHED; i++) {
      for (int w = 0; w < 3; w++) {
        const BlockTraits *traits = block_traits(weighed[i]);
        uint8_t blocks[N * 4];
        float back[N];
        if (w == 0 && traits->elements == 32 && traits->type != BLOCK_IQ4_NL) continue;  // rounded to nearest: test_block.c
        traits->quantize(blocks, x[c], w ? importance[w - 1] : NULL, N);
        traits->dequantize(back, blocks, N);
        for (int j = 0; j < N && c != 7; j++) {
          if (!isfinite(back[j])) fail_msg("%s, case %d: value %d is not finite", traits->name, c, j);
          if (c == 0 && back[j] != 0) fail_msg("%s: 0 becomes %g", traits->name, (double)back[j]);
          if ((c == 1 || c == 2) && fabsf(back[j] - x[c][j]) > 0.02f)
            fail_msg("%s: %g becomes %g", traits->name, (double)x[c][j], (double)back[j]);
          if (c == 3 && fabsf(back[j] - x[c][j]) > 0.05f && w < 2)
            fail_msg("%s: %g becomes %g", traits->name, (double)x[c][j], (double)back[j]);
        }
      }
    }
  }
}

// Rows whose last blocks do not fill the eight that are searched together: the same bits as in a longer row of zeros.
static void blocks_of_32_do_not_depend_on_their_place_in_a_row(void **state) {
  (void)state;
  static const BlockType small[] = {BLOCK_IQ4_NL, BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0, BLOCK_Q5_1};
  static float x[ROWS * COLUMNS], importance[COLUMNS];
  fill_rows(x, importance, 5);
  for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
    for (int64_t columns = 32; columns <= 288; columns += 32) {
      int64_t whole = columns / 256 * 256;
      uint8_t a[4 * 288], b[4 * 288];
      block_traits(small[i])->quantize(a, x, importance, columns);
      block_traits(small[i])->quantize(b, x + whole, importance + whole, columns - whole ? columns - whole : 32);
      if (columns > whole) {
        int64_t at = block_row_bytes(small[i], whole);
        assert_memory_equal(a + at, b, (size_t)block_row_bytes(small[i], columns - whole));
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(errors_are_no_larger_than_llama_cpp_s),
      cmocka_unit_test(importance_lowers_the_error_that_it_weighs),
      cmocka_unit_test(each_type_is_as_exact_as_its_bits),
      cmocka_unit_test(hard_blocks_stay_finite),
      cmocka_unit_test(blocks_of_32_do_not_depend_on_their_place_in_a_row),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
