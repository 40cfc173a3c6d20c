#include "tests/support/test.h"

#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "formats/gguf.h"

static const BlockType readable_types[] = {BLOCK_F32,    BLOCK_F16,    BLOCK_BF16,  BLOCK_Q4_0,  BLOCK_Q4_1, BLOCK_Q5_0, BLOCK_Q5_1,
                                           BLOCK_Q8_0,   BLOCK_Q2_K,   BLOCK_Q3_K,  BLOCK_Q4_K,  BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_Q8_K,
                                           BLOCK_IQ4_NL, BLOCK_IQ4_XS, BLOCK_MXFP4, BLOCK_TQ1_0, BLOCK_TQ2_0};
enum { READABLE_TYPES = sizeof readable_types / sizeof *readable_types };

static int64_t tensor_count(const GgufTensor *tensor) { return tensor->shape[0] * tensor->shape[1] * tensor->shape[2] * tensor->shape[3]; }

static const GgufTensor *find_tensor(const Gguf *gguf, const char *type, const char *suffix) {
  char *name = memory_format("%s%s", type, suffix);
  const GgufTensor *tensor = gguf_find_tensor(gguf, name);
  free(name);
  return tensor;
}

static char *golden_path(const char *type) {
  char *relative = memory_format("golden/quant/gguf/%s.gguf", type), *path = shared_path(relative);
  assert_non_null(path);
  free(relative);
  return path;
}

static void half_conversion_round_trips_every_pattern(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    float value = half_to_float((uint16_t)bits);
    uint16_t quiet = (bits & 0x7C00) == 0x7C00 && (bits & 0x3FF) ? 0x200 : 0;  // NaNs come back quiet
    assert_int_equal(half_from_float(value), bits | quiet);
    if ((bits & 0x7C00) != 0x7C00) {
      int exponent = (int)(bits >> 10 & 31);
      double expected = exponent ? ldexp(1024 + (bits & 0x3FF), exponent - 25) : ldexp(bits & 0x3FF, -24);
      assert_true(value == (float)(bits & 0x8000 ? -expected : expected));
    }
  }
}

static void half_rounding_takes_the_nearest_and_ties_to_even(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 0x7BFF; bits++) {
    double low = half_to_float((uint16_t)bits), high = half_to_float((uint16_t)(bits + 1));
    float middle = (float)((low + high) / 2);  // exact: one bit more than a half has
    assert_int_equal(half_from_float(middle), bits & 1 ? bits + 1 : bits);
    assert_int_equal(half_from_float(nextafterf(middle, 0)), bits);
    assert_int_equal(half_from_float(-nextafterf(middle, INFINITY)), (bits + 1) | 0x8000);
  }
  assert_int_equal(half_from_float(65519.996f), 0x7BFF);
  assert_int_equal(half_from_float(65520.0f), 0x7C00);
  assert_int_equal(half_from_float(-INFINITY), 0xFC00);
}

static void bfloat16_round_trips_and_rounds_to_even(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    bool is_nan = (bits & 0x7F80) == 0x7F80 && (bits & 0x7F);
    assert_int_equal(bfloat16_from_float(bfloat16_to_float((uint16_t)bits)), is_nan ? bits | 0x40 : bits);
  }
  assert_int_equal(bfloat16_from_float(0x1.01p0f), 0x3F80);  // halfway between 3F80 and 3F81
  assert_int_equal(bfloat16_from_float(0x1.03p0f), 0x3F82);
  assert_int_equal(bfloat16_from_float(0x1.010002p0f), 0x3F81);
}

static void traits_are_found_by_type_and_name(void **state) {
  (void)state;
  for (int i = 0; i < READABLE_TYPES; i++) {
    const BlockTraits *traits = block_traits(readable_types[i]);
    assert_non_null(traits);
    assert_int_equal(traits->type, readable_types[i]);
    assert_non_null(traits->dequantize);
    assert_ptr_equal(block_traits_by_name(traits->name), traits);
    assert_string_equal(block_type_name_any(readable_types[i]), traits->name);
    assert_int_equal(block_row_bytes(traits->type, 512), 512 / traits->elements * traits->bytes);
  }
  assert_ptr_equal(block_traits_by_name("Q4_K"), block_traits(BLOCK_Q4_K));
  assert_null(block_traits_by_name("q9_9"));
  assert_null(block_traits((BlockType)16));
  assert_string_equal(block_type_name_any(16), "iq2_xxs");
  assert_null(block_type_name_any(4));
  assert_null(block_type_name_any(BLOCK_NF4));
}

static void names_are_those_of_the_table(void **state) {
  (void)state;
  char *read = block_type_names(false), *written = block_type_names(true);
  for (int i = 0; i < READABLE_TYPES; i++) {
    const BlockTraits *traits = block_traits(readable_types[i]);
    assert_non_null(strstr(read, traits->name));
    assert_true((strstr(written, traits->name) != NULL) == (traits->quantize != NULL));
  }
  assert_null(strstr(read, "nf4"));
  assert_null(strstr(read, "iq2"));
  free(read), free(written);
}

static void dequantisation_equals_gguf_py_on_random_blocks(void **state) {
  (void)state;
  Gguf gguf;
  assert_ok(gguf_open(&gguf, TESTS_DIR "/formats/data/blocks.gguf"));
  for (int i = 0; i < READABLE_TYPES; i++) {
    const BlockTraits *traits = block_traits(readable_types[i]);
    const GgufTensor *blocks = find_tensor(&gguf, traits->name, ".random"), *expected = find_tensor(&gguf, traits->name, ".random.f32");
    assert_non_null(blocks);
    assert_non_null(expected);
    assert_int_equal(blocks->type, traits->type);
    float *values = memory_new((size_t)tensor_count(blocks), sizeof *values);
    traits->dequantize(values, blocks->data, tensor_count(blocks));
    assert_int_equal(expected->bytes, (size_t)tensor_count(blocks) * sizeof *values);
    assert_memory_equal(values, expected->data, expected->bytes);
    free(values);
  }
  gguf_close(&gguf);
}

static void quantisation_equals_gguf_py_on_hard_blocks(void **state) {
  (void)state;
  Gguf gguf;
  assert_ok(gguf_open(&gguf, TESTS_DIR "/formats/data/blocks.gguf"));
  const GgufTensor *x = gguf_find_tensor(&gguf, "x");
  int compared = 0;
  for (int i = 0; i < READABLE_TYPES; i++) {
    const BlockTraits *traits = block_traits(readable_types[i]);
    const GgufTensor *expected = find_tensor(&gguf, traits->name, ".x");
    if (!expected) continue;
    uint8_t *blocks = memory_new(expected->bytes, 1);
    traits->quantize(blocks, x->data, NULL, tensor_count(x));
    for (size_t at = 0; at < expected->bytes; at++) {
      if (blocks[at] == ((const uint8_t *)expected->data)[at]) continue;
      fail_msg("%s differs at byte %zu", traits->name, at);
    }
    free(blocks);
    compared++;
  }
  assert_int_equal(compared, 8);
  gguf_close(&gguf);
}

// A NaN counts as 0.
static void quantisation_of_a_nan_leaves_its_neighbours(void **state) {
  (void)state;
  float in[256], out[256], expected[256];
  uint8_t block[sizeof in];
  for (int i = 0; i < READABLE_TYPES; i++) {
    const BlockTraits *traits = block_traits(readable_types[i]);
    if (!traits->quantize) continue;
    for (int j = 0; j < 256; j++) in[j] = (float)(j % 32 - 16) / 16;
    in[5] = 0;
    traits->quantize(block, in, NULL, 256);
    traits->dequantize(expected, block, 256);
    in[5] = NAN;
    traits->quantize(block, in, NULL, 256);
    traits->dequantize(out, block, 256);
    assert_true(traits->elements > 1 ? isfinite(out[5]) : isnan(out[5]));
    for (int j = 0; j < 256; j++) assert_true(j == 5 || out[j] == expected[j]);
  }
}

// Every tensor of llama.cpp's files: our float32 has the SHA-256 of gguf-py's.
static void dequantisation_equals_gguf_py_on_llama_cpp_files(void **state) {
  (void)state;
  char *sums_path = shared_path("golden/quant/gguf/sha256.json");
  if (!sums_path) skip_test("golden/quant is not here");
  json_t *sums = json_load_file(sums_path, 0, NULL);
  assert_non_null(sums);
  free(sums_path);
  const char *file, *name;
  json_t *tensors, *expected;
  int compared[BLOCK_GGUF_END] = {0};
  json_object_foreach(sums, file, tensors) {
    char *path = golden_path(file);
    Gguf gguf;
    assert_ok(gguf_open(&gguf, path));
    json_object_foreach(tensors, name, expected) {
      const GgufTensor *tensor = gguf_find_tensor(&gguf, name);
      assert_non_null(tensor);
      const BlockTraits *traits = block_traits((BlockType)tensor->type);
      assert_non_null(traits);
      int64_t n = tensor_count(tensor);
      float *values = memory_new((size_t)n, sizeof *values);
      traits->dequantize(values, tensor->data, n);
      char hex[65];
      sha256_bytes(hex, values, (size_t)n * sizeof *values);
      if (strcmp(hex, json_string_value(expected)) != 0) fail_msg("%s: %s (%s) differs", path, name, traits->name);
      free(values);
      compared[tensor->type]++;
    }
    gguf_close(&gguf);
    free(path);
  }
  for (int i = 0; i < READABLE_TYPES; i++) {
    BlockType type = readable_types[i];
    bool is_in_no_file = type == BLOCK_Q8_K || type == BLOCK_MXFP4 || type == BLOCK_TQ1_0 || type == BLOCK_TQ2_0;
    assert_true(is_in_no_file || compared[type] > 0);
  }
  json_decref(sums);
}

static bool rounds_to_nearest(const BlockTraits *traits) {
  return traits->elements <= 32 && traits->type != BLOCK_IQ4_NL && traits->type != BLOCK_MXFP4;
}

static void quantisation_equals_llama_cpp_files(void **state) {
  (void)state;
  char *source_path = shared_path("golden/quant/gguf/f32.gguf");
  if (!source_path) skip_test("golden/quant is not here");
  Gguf source;
  assert_ok(gguf_open(&source, source_path));
  free(source_path);
  for (int i = 0; i < READABLE_TYPES; i++) {
    const BlockTraits *traits = block_traits(readable_types[i]);
    if (!traits->quantize || !rounds_to_nearest(traits)) continue;  // the others are searched: test_quantize.c
    char *path = golden_path(traits->name);
    Gguf quantized;
    assert_ok(gguf_open(&quantized, path));
    int compared = 0;
    for (int64_t t = 0; t < quantized.tensor_count; t++) {
      const GgufTensor *expected = &quantized.tensors[t], *in = gguf_find_tensor(&source, expected->name);
      if (expected->type != (uint32_t)traits->type) continue;
      assert_non_null(in);
      uint8_t *blocks = memory_new(expected->bytes, 1);
      traits->quantize(blocks, in->data, NULL, tensor_count(in));
      if (memcmp(blocks, expected->data, expected->bytes) != 0) fail_msg("%s: %s differs", path, expected->name);
      free(blocks);
      compared++;
    }
    assert_true(compared >= 15);
    gguf_close(&quantized);
    free(path);
  }
  gguf_close(&source);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(half_conversion_round_trips_every_pattern),
      cmocka_unit_test(half_rounding_takes_the_nearest_and_ties_to_even),
      cmocka_unit_test(bfloat16_round_trips_and_rounds_to_even),
      cmocka_unit_test(traits_are_found_by_type_and_name),
      cmocka_unit_test(names_are_those_of_the_table),
      cmocka_unit_test(dequantisation_equals_gguf_py_on_random_blocks),
      cmocka_unit_test(quantisation_equals_gguf_py_on_hard_blocks),
      cmocka_unit_test(quantisation_of_a_nan_leaves_its_neighbours),
      cmocka_unit_test(dequantisation_equals_gguf_py_on_llama_cpp_files),
      cmocka_unit_test(quantisation_equals_llama_cpp_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
