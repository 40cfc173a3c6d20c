// Rows of every type as every table reads them, on blocks of any bits at all: the very values of the type's scalar reference, and no number
// where it has none. The rows are read as embeddings, which are dequantised rows times 1.
#include "tests/support/kernel_cases.h"

#include <math.h>

enum { ROWS = 64, COLUMNS = 768, ROUNDS = 24 };

static void compare(const float *actual, const float *expected, const Kernels *kernels, const char *type) {
  for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
    bool is_same = memcmp(&actual[i], &expected[i], sizeof *actual) == 0;
    if (!is_same && !(isnan(actual[i]) && isnan(expected[i])))
      fail_msg("%s: %s: value %lld is %a, not %a", kernels->name, type, (long long)i, (double)actual[i], (double)expected[i]);
  }
}

static void rows_of_any_bits_are_those_of_the_reference(void **state) {
  (void)state;
  static uint8_t bytes[ROWS * COLUMNS * sizeof(float)];
  static float actual[ROWS * COLUMNS], expected[ROWS * COLUMNS];
  int32_t ids[ROWS];
  for (int i = 0; i < ROWS; i++) ids[i] = i;
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 2));
  Rng rng = rng_new(7, RNG_STREAM_TEST);
  int types = 0;
  for (int number = 0; number < BLOCK_GGUF_END; number++) {
    const BlockTraits *traits = block_traits((BlockType)number);
    if (!traits) continue;
    BlockType type = traits->type;
    types++;
    Matrix w = {.type = type, .rows = ROWS, .columns = COLUMNS, .data = bytes};
    for (int round = 0; round < ROUNDS; round++) {
      int64_t count = ROWS * block_row_bytes(type, COLUMNS);
      for (int64_t i = 0; i < count; i++) bytes[i] = (uint8_t)rng_next(&rng);
      for (int64_t at = 0; at < count && round % 2; at += traits->bytes)
        block_set_scales(bytes + at, type, round % 4 == 1 ? INFINITY : 0x1p-24f, round % 4 == 1 ? -INFINITY : -0x1p-24f);
      traits->dequantize(expected, bytes, ROWS * COLUMNS);
      for (int t = 0; backend_cpu_kernels(t); t++) {
        backend->kernels = backend_cpu_kernels(t);
        backend->kernels->embedding_forward(actual, ids, &w, ROWS, 1, backend);
        compare(actual, expected, backend->kernels, traits->name);
      }
    }
  }
  assert_int_equal(types, 19);
  backend_free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(rows_of_any_bits_are_those_of_the_reference)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
