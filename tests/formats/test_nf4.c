#include "tests/support/test.h"

#include <math.h>

#include "formats/nf4.h"
#include "formats/safetensors.h"

static const SafetensorsTensor *find_tensor(const Safetensors *st, const char *prefix, const char *name) {
  char *full = memory_format("%s%s", prefix, name);
  const SafetensorsTensor *tensor = safetensors_find(st, full);
  free(full);
  assert_non_null(tensor);
  return tensor;
}

// Floats by value, so that a tensor's place in the file need not be aligned.
static float *copy_floats(const SafetensorsTensor *tensor) {
  float *values = memory_new((size_t)tensor->count, sizeof *values);
  assert_true(safetensors_to_float(values, tensor, 0, tensor->count));
  return values;
}

static void assert_equals_bitsandbytes(const Safetensors *st, const char *prefix, const char *x_name, const char *values_name) {
  const SafetensorsTensor *x = find_tensor(st, "", x_name), *packed = find_tensor(st, prefix, "packed"),
                          *scales = find_tensor(st, prefix, "absmax"), *nested = find_tensor(st, prefix, "nested_absmax"),
                          *values = find_tensor(st, prefix, values_name);
  float *in = copy_floats(x), *offset = copy_floats(find_tensor(st, prefix, "offset")), *out = memory_new((size_t)x->count, sizeof *out);
  void *storage = memory_new((size_t)nf4_bytes(x->count), 1);
  Nf4 quantized;
  nf4_quantize(&quantized, storage, in, x->count);
  assert_memory_equal(&quantized.offset, offset, sizeof *offset);
  assert_memory_equal(quantized.packed, packed->data, packed->bytes);
  assert_memory_equal(quantized.scales, scales->data, scales->bytes);
  assert_memory_equal(quantized.nested_scales, nested->data, nested->bytes);
  nf4_dequantize(out, &quantized, 0, x->count);
  assert_memory_equal(out, values->data, values->bytes);
  free(in), free(offset), free(out), free(storage);
}

static void code_books_equal_bitsandbytes(void **state) {
  (void)state;
  Safetensors st;
  assert_ok(safetensors_open(&st, TESTS_DIR "/formats/data/nf4.safetensors"));
  assert_memory_equal(nf4_levels, find_tensor(&st, "", "levels")->data, sizeof nf4_levels);
  assert_memory_equal(nf4_scale_levels, find_tensor(&st, "", "scale_levels")->data, sizeof nf4_scale_levels);
  safetensors_close(&st);
}

static void quantisation_equals_bitsandbytes(void **state) {
  (void)state;
  Safetensors st;
  assert_ok(safetensors_open(&st, TESTS_DIR "/formats/data/nf4.safetensors"));
  assert_equals_bitsandbytes(&st, "small.", "small.x", "values");
  assert_equals_bitsandbytes(&st, "odd.", "odd.x", "values");
  safetensors_close(&st);
}

// Enough blocks for scales that lie between two scale levels, where bitsandbytes' rounding decides.
static void scales_equal_bitsandbytes_over_many_blocks(void **state) {
  (void)state;
  enum { BLOCKS = 600, N = 64 * BLOCKS };
  Safetensors st;
  assert_ok(safetensors_open(&st, TESTS_DIR "/formats/data/nf4.safetensors"));
  float *in = memory_new(N, sizeof *in), *offset = copy_floats(find_tensor(&st, "formula.", "offset"));
  for (int64_t i = 0; i < N; i++) in[i] = (float)((i * i + 7 * i * (i / 64)) % 1009 - 504) / 1024;
  void *storage = memory_new((size_t)nf4_bytes(N), 1);
  Nf4 quantized;
  nf4_quantize(&quantized, storage, in, N);
  assert_memory_equal(&quantized.offset, offset, sizeof *offset);
  assert_memory_equal(quantized.scales, find_tensor(&st, "formula.", "absmax")->data, BLOCKS);
  assert_memory_equal(quantized.nested_scales, find_tensor(&st, "formula.", "nested_absmax")->data, 3 * sizeof(float));
  free(in), free(offset), free(storage);
  safetensors_close(&st);
}

static void quantisation_equals_bitsandbytes_on_the_golden_matrix(void **state) {
  (void)state;
  char *path = shared_path("golden/quant/nf4.safetensors");
  if (!path) skip_test("golden/quant is not here");
  Safetensors st;
  assert_ok(safetensors_open(&st, path));
  assert_equals_bitsandbytes(&st, "nf4.nested.", "x", "dequantised");
  safetensors_close(&st);
  free(path);
}

static void dequantisation_of_a_part_equals_that_part_of_the_whole(void **state) {
  (void)state;
  enum { N = 64 * 300 + 17 };
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  float *in = memory_new(N, sizeof *in), *whole = memory_new(N, sizeof *whole), part[200];
  fill_normal(in, N, 0.02, &rng);
  void *storage = memory_new((size_t)nf4_bytes(N), 1);
  Nf4 quantized;
  nf4_quantize(&quantized, storage, in, N);
  nf4_dequantize(whole, &quantized, 0, N);
  for (int64_t first = 0; first + 200 <= N; first += 137) {
    nf4_dequantize(part, &quantized, first, 200);
    assert_memory_equal(part, whole + first, sizeof part);
  }
  for (int64_t i = 0; i < N; i++) {  // the widest gap between levels is 0.304 of absmax; the scale itself is off by some per mille
    float absmax = 0;
    for (int64_t j = i / 64 * 64; j < N && j < i / 64 * 64 + 64; j++) absmax = fmaxf(absmax, fabsf(in[j]));
    assert_true(fabsf(whole[i] - in[i]) <= 0.17f * absmax);
  }
  free(in), free(whole), free(storage);
}

static void storage_is_within_half_a_byte_and_a_scale_per_block(void **state) {
  (void)state;
  int64_t n = 4096 * 4096;
  assert_true((double)nf4_bytes(n) / (double)n < 0.5159);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(code_books_equal_bitsandbytes),
      cmocka_unit_test(quantisation_equals_bitsandbytes),
      cmocka_unit_test(scales_equal_bitsandbytes_over_many_blocks),
      cmocka_unit_test(quantisation_equals_bitsandbytes_on_the_golden_matrix),
      cmocka_unit_test(dequantisation_of_a_part_equals_that_part_of_the_whole),
      cmocka_unit_test(storage_is_within_half_a_byte_and_a_scale_per_block),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
