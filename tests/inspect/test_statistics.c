// Statistics beside their definitions in extended precision, for every type and for sizes around the pieces in which values are read.
#include <float.h>
#include <math.h>

#include "inspect/statistics.h"
#include "tests/support/test.h"

static const int64_t sizes[] = {0, 1, 2, 255, 256, 2047, 2048, 2049, 262143, 262144, 262145, 700001};

static void assert_near(const char *what, int64_t n, double actual, long double expected, long double scale) {
  if (!(fabsl(actual - expected) <= 1e-13L * scale)) fail_msg("%s of %lld values: %.17g, not %.17Lg", what, (long long)n, actual, expected);
}

static void check(const ValueSource *source, const double *values, ThreadPool *pool) {
  Statistics s;
  statistics_compute(&s, source, 1, pool);
  int64_t n = source->count, count = 0, zeros = 0, nans = 0, infinities = 0;
  long double sum = 0, squares = 0, deviation = 0, minimum = 0, maximum = 0;
  for (int64_t i = 0; i < n; i++) {
    long double x = values[i];
    nans += isnan(x), infinities += isinf(x) != 0, zeros += x == 0;
    if (!isfinite(x)) continue;
    if (count == 0 || x < minimum) minimum = x;
    if (count == 0 || x > maximum) maximum = x;
    count++, sum += x, squares += x * x;
  }
  long double mean = count ? sum / count : 0, scale = fmaxl(fabsl(minimum), fabsl(maximum));
  for (int64_t i = 0; i < n; i++)
    if (isfinite(values[i])) deviation += (values[i] - mean) * (values[i] - mean);
  assert_int_equal(s.count, count);
  assert_int_equal(s.zeros, zeros);
  assert_int_equal(s.nans, nans);
  assert_int_equal(s.infinities, infinities);
  assert_true(s.minimum == (double)minimum && s.maximum == (double)maximum);
  assert_near("mean", n, s.mean, mean, scale);
  assert_near("deviation", n, s.deviation, count ? sqrtl(deviation / count) : 0, scale);
  assert_near("rms", n, s.rms, count ? sqrtl(squares / count) : 0, scale);
}

static void float_statistics_equal_their_definition(void **state) {
  (void)state;
  ThreadPool *pool = pool_new(2);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (int spoilt = 0; spoilt < 2; spoilt++) {
      int64_t n = sizes[i];
      Rng rng = rng_new(100 + i, RNG_STREAM_TEST);
      float *floats = memory_new((size_t)n + 1, sizeof *floats);
      double *values = memory_new((size_t)n + 1, sizeof *values);
      fill_normal(floats, n, 2, &rng);
      for (int64_t j = 0; j < n; j++) {
        if (spoilt) floats[j] = j % 7 == 0 ? 0 : j % 97 == 3 ? NAN : j % 101 == 5 ? -INFINITY : floats[j] + 1000;
        values[j] = floats[j];
      }
      check(&(ValueSource){.data = floats, .is_block = true, .block = BLOCK_F32, .count = n}, values, pool);
      check(&(ValueSource){.data = floats, .element = ST_F32, .count = n}, values, pool);
      check(&(ValueSource){.data = values, .element = ST_F64, .count = n}, values, pool);
      free(floats), free(values);
    }
  pool_free(pool);
}

static void nothing_but_nan_has_no_minimum(void **state) {
  (void)state;
  const float values[] = {NAN, INFINITY};
  ThreadPool *pool = pool_new(1);
  Statistics s;
  statistics_compute(&s, &(ValueSource){.data = values, .element = ST_F32, .count = 2}, 1, pool);
  assert_int_equal(s.count, 0);
  assert_int_equal(s.nans, 1);
  assert_int_equal(s.infinities, 1);
  assert_true(s.minimum == 0 && s.maximum == 0 && s.mean == 0 && s.deviation == 0 && s.rms == 0);
  pool_free(pool);
}

static void every_quantised_type_is_read_as_it_is_dequantised(void **state) {
  (void)state;
  enum { COUNT = 256 * 1100 };
  static const BlockType types[] = {BLOCK_F16,  BLOCK_BF16, BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0,
                                    BLOCK_Q5_1, BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K};
  ThreadPool *pool = pool_new(2);
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  float *floats = memory_new(COUNT, sizeof *floats);
  double *values = memory_new(COUNT, sizeof *values);
  uint8_t *blocks = memory_new(COUNT, sizeof *blocks * 2 + 1);
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    const BlockTraits *traits = block_traits(types[i]);
    int64_t bytes = block_row_bytes(types[i], COUNT);
    for (int64_t j = 0; j < bytes; j++) blocks[1 + j] = (uint8_t)(rng_next(&rng) & 0x3F);  // any bytes are blocks; at an odd address
    traits->dequantize(floats, blocks + 1, COUNT);
    for (int64_t j = 0; j < COUNT; j++) values[j] = floats[j];
    check(&(ValueSource){.data = blocks + 1, .is_block = true, .block = types[i], .count = COUNT}, values, pool);
  }
  free(floats), free(values), free(blocks);
  pool_free(pool);
}

static void assert_reads(SafetensorsType type, const void *data, int64_t count, const double *expected) {
  double out[8];
  values_read(out, &(ValueSource){.data = data, .element = type, .count = count}, 0, count);
  for (int64_t i = 0; i < count; i++)
    if (!(out[i] == expected[i] || (isnan(out[i]) && isnan(expected[i]))))
      fail_msg("%s, value %lld: %g, not %g", safetensors_type_name(type), (long long)i, out[i], expected[i]);
}

static void integers_and_8_bit_floats_are_read(void **state) {
  (void)state;
  assert_reads(ST_U8, (const uint8_t[]){0, 1, 255}, 3, (const double[]){0, 1, 255});
  assert_reads(ST_BOOL, (const uint8_t[]){0, 1}, 2, (const double[]){0, 1});
  assert_reads(ST_I8, (const int8_t[]){-128, 127}, 2, (const double[]){-128, 127});
  assert_reads(ST_I16, (const int16_t[]){-32768, 1}, 2, (const double[]){-32768, 1});
  assert_reads(ST_U16, (const uint16_t[]){65535}, 1, (const double[]){65535});
  assert_reads(ST_I32, (const int32_t[]){INT32_MIN}, 1, (const double[]){INT32_MIN});
  assert_reads(ST_U32, (const uint32_t[]){UINT32_MAX}, 1, (const double[]){UINT32_MAX});
  assert_reads(ST_I64, (const int64_t[]){-(1ll << 52)}, 1, (const double[]){-0x1p52});
  assert_reads(ST_U64, (const uint64_t[]){1ull << 63}, 1, (const double[]){0x1p63});
  assert_reads(ST_F16, (const uint16_t[]){0x3C00, 0x7C00}, 2, (const double[]){1, INFINITY});
  assert_reads(ST_BF16, (const uint16_t[]){0xC000}, 1, (const double[]){-2});
  // Smallest subnormal and normal, one, the largest, NaN, and a negative one.
  assert_reads(ST_F8_E4M3, (const uint8_t[]){0x01, 0x08, 0x38, 0x7E, 0x7F, 0xB9}, 6, (const double[]){0x1p-9, 0x1p-6, 1, 448, NAN, -1.125});
  assert_reads(ST_F8_E5M2, (const uint8_t[]){0x01, 0x04, 0x3C, 0x7B, 0x7C, 0xFF}, 6,
               (const double[]){0x1p-16, 0x1p-14, 1, 57344, INFINITY, NAN});
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
  (void)state;
  enum { COUNT = 3000001 };
  Rng rng = rng_new(9, RNG_STREAM_TEST);
  float *floats = memory_new(COUNT, sizeof *floats);
  fill_normal(floats, COUNT, 1, &rng);
  Statistics first[2], other[2];
  for (int threads = 1; threads <= 5; threads++) {
    ThreadPool *pool = pool_new(threads);
    const ValueSource sources[] = {{.data = floats, .element = ST_F32, .count = COUNT},
                                   {.data = floats + 7, .element = ST_F32, .count = 300000}};
    memset(other, 0, sizeof other);
    statistics_compute(other, sources, 2, pool);
    pool_free(pool);
    if (threads == 1) memcpy(first, other, sizeof first);
    assert_memory_equal(first, other, sizeof first);
  }
  free(floats);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(float_statistics_equal_their_definition),           cmocka_unit_test(nothing_but_nan_has_no_minimum),
      cmocka_unit_test(every_quantised_type_is_read_as_it_is_dequantised), cmocka_unit_test(integers_and_8_bit_floats_are_read),
      cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
