// AdamW with moments in 8 bits, against what tests/tools/make_optim_reference.py wrote with bitsandbytes, and against itself in float32.
#include "tests/support/test.h"

#include <float.h>
#include <jansson.h>
#include <math.h>

#include "kernels/adamw_8bit.h"
#include "optim/optimizer.h"

enum { COUNT = 330, STEPS = 20, GROUPS = 3, BLOCKS = 4 };

static json_t *file;
static float initial[COUNT], gradients[STEPS][COUNT];
static ParameterTensor tensors[GROUPS];

static json_t *entry(const char *key) {
  json_t *value = json_object_get(file, key);
  assert_non_null(value);
  return value;
}

static double element(json_t *array, int64_t index) {
  json_t *value = json_array_get(array, (size_t)index);
  assert_true(json_is_number(value));
  return json_number_value(value);
}

static double setting(const char *key) { return json_number_value(json_object_get(entry("settings"), key)); }

static int start(void **state) {
  (void)state;
  json_error_t error;
  file = json_load_file(TESTS_DIR "/optim/data/adamw_8bit.json", 0, &error);
  assert_non_null(file);
  for (int i = 0; i < COUNT; i++) {
    initial[i] = (float)element(entry("initial"), i) / 1024;
    for (int step = 0; step < STEPS; step++)
      gradients[step][i] = (float)ldexp(element(entry("numbers"), step * COUNT + i), (int)element(entry("exponents"), i));
  }
  for (int i = 0; i < GROUPS; i++) {
    json_t *group = json_array_get(entry("groups"), (size_t)i);
    tensors[i] = (ParameterTensor){1, (int64_t)(element(group, 1) - element(group, 0)), element(group, 2), element(group, 3), false};
  }
  return 0;
}

static int stop(void **state) {
  (void)state;
  json_decref(file);
  return 0;
}

static Backend *table_backend(const Kernels *kernels) {
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 2));
  backend->kernels = kernels;
  return backend;
}

static Optimizer *named_optimizer(const char *name, Backend *backend) {
  const OptimizerMethod *method = NULL;
  Optimizer *optimizer;
  assert_ok(optimizer_find(&method, NULL, name));
  OptimizerSettings settings = {.beta1 = setting("beta1"), .beta2 = setting("beta2"), .epsilon = setting("epsilon")};
  assert_ok(optimizer_new(&optimizer, method, settings, tensors, GROUPS, backend));
  return optimizer;
}

static void step_once(Optimizer *optimizer, float *parameters, const float *gradient) {
  OptimizerReport report;
  assert_ok(optimizer_step(optimizer, parameters, gradient, setting("lr"), 1, &report));
  assert_false(report.skipped);
}

// The mean distance between two states of the parameters, to how far the second is from where all began.
static double distance(const float *actual, const double *expected) {
  double apart = 0, way = 0;
  for (int i = 0; i < COUNT; i++) {
    apart += fabs(actual[i] - expected[i]);
    way += fabs(expected[i] - initial[i]);
  }
  return apart / way;
}

static double distance_from(const float *actual, const char *key, int64_t offset) {
  double expected[COUNT];
  for (int i = 0; i < COUNT; i++) expected[i] = element(entry(key), offset + i);
  return distance(actual, expected);
}

static void levels_are_the_dynamic_maps_of_bitsandbytes(void **state) {
  (void)state;
  for (int k = 0; k < MOMENT_COUNT; k++)
    for (int i = 0; i < MOMENT_LEVELS; i++)
      assert_true((float)element(json_array_get(entry("levels"), (size_t)k), i) == moment_levels(k)[i]);
}

static int code_of(float x, Moment moment) {
  float bounds[MOMENT_LEVELS];
  moment_bounds(bounds, moment);
  int code = 0;
  while (bounds[code] < x) code++;
  return code;
}

static void a_level_is_its_own_code_and_ties_go_where_bitsandbytes_sends_them(void **state) {
  (void)state;
  for (int k = 0; k < MOMENT_COUNT; k++) {
    const float *levels = moment_levels(k);
    for (int i = 0; i < MOMENT_LEVELS; i++) {
      assert_int_equal(code_of(levels[i], k), i);
      if (i == MOMENT_LEVELS - 1) break;
      float middle = (levels[i] + levels[i + 1]) * 0.5f;
      assert_int_equal(code_of(middle, k), element(json_array_get(entry("ties"), (size_t)k), i));
      bool is_beside_zero = k == MOMENT_FIRST ? levels[i + 1] == 0 : levels[i] == 0;
      if (is_beside_zero) continue;
      assert_int_equal(code_of(nextafterf(middle, -1), k), i);
      assert_int_equal(code_of(nextafterf(middle, 1), k), i + 1);
    }
  }
}

static void only_zero_itself_becomes_zero_on_the_sides_that_matter(void **state) {
  (void)state;
  int zero = code_of(0, MOMENT_FIRST);
  assert_true(moment_levels(MOMENT_FIRST)[zero] == 0);
  assert_int_equal(code_of(-1e-30f, MOMENT_FIRST), zero - 1);
  assert_int_equal(code_of(1e-30f, MOMENT_FIRST), zero);
  assert_int_equal(code_of(0, MOMENT_SECOND), 0);
  assert_int_equal(code_of(1e-30f, MOMENT_SECOND), 1);
}

// With beta1 and beta2 zero and a gradient of 1 in each block, m becomes the gradient, v its square, and every scale 1.
static void every_table_finds_the_codes_around_all_bounds(void **state) {
  (void)state;
  enum { BESIDE = 5, PARAMETERS = 2 * MOMENT_LEVELS * BESIDE, ALL_BLOCKS = PARAMETERS / MOMENT_BLOCK };
  static float g[PARAMETERS];
  for (int k = 0, i = 0; k < MOMENT_COUNT; k++) {
    float bounds[MOMENT_LEVELS];
    moment_bounds(bounds, k);
    for (int code = 0; code < MOMENT_LEVELS; code++) {
      float x = code < MOMENT_LEVELS - 1 ? bounds[code] : 1;
      if (k == MOMENT_SECOND) x = sqrtf(x);
      g[i++] = x, g[i++] = nextafterf(x, -1), g[i++] = nextafterf(x, 1), g[i++] = x / 3, g[i++] = -0.75f * x;
    }
  }
  for (int block = 0; block < ALL_BLOCKS; block++) g[block * MOMENT_BLOCK + 17] = 1;
  for (int table = 0; backend_cpu_kernels(table); table++) {
    Backend *backend = table_backend(backend_cpu_kernels(table));
    static float p[PARAMETERS], scales[MOMENT_COUNT][ALL_BLOCKS];
    static uint8_t codes[MOMENT_COUNT][PARAMETERS];
    memset(scales, 0, sizeof scales);
    memset(codes, 0, sizeof codes);
    AdamwSettings settings = {.learning_rate = 0.1, .epsilon = 1e-8, .step = 1, .gradient_scale = 1};
    backend->kernels->adamw_8bit(p, codes[0], scales[0], codes[1], scales[1], g, PARAMETERS, settings, backend);
    for (int i = 0; i < PARAMETERS; i++) {
      assert_true(scales[0][i / MOMENT_BLOCK] == 1 && scales[1][i / MOMENT_BLOCK] == 1);
      assert_int_equal(codes[0][i], code_of(g[i], MOMENT_FIRST));
      assert_int_equal(codes[1][i], code_of((float)((double)g[i] * g[i]), MOMENT_SECOND));
    }
    backend_free(backend);
  }
}

static void check_codes(const Optimizer *optimizer) {
  for (int k = 0; k < MOMENT_COUNT; k++) {
    const uint8_t *codes = optimizer->state[2 * k];
    const float *scales = optimizer->state[2 * k + 1];
    for (int i = 0; i < COUNT; i++) assert_int_equal(codes[i], element(json_array_get(entry("codes"), (size_t)k), i));
    for (int i = 0; i < BLOCKS; i++) {
      double scale = element(json_array_get(entry("scales"), (size_t)k), i);
      assert_true(fabs(scales[i] - scale) <= FLT_EPSILON * scale);
    }
  }
}

// bitsandbytes' plain version looks for the nearest level as here; its code for processors rounds to one of 65,536 steps first.
static void twenty_steps_are_those_of_bitsandbytes_with_every_table(void **state) {
  (void)state;
  for (int table = 0; backend_cpu_kernels(table); table++) {
    Backend *backend = table_backend(backend_cpu_kernels(table));
    Optimizer *optimizer = named_optimizer("adamw_bnb_8bit", backend);
    float parameters[COUNT];
    int kept = 0;
    memcpy(parameters, initial, sizeof initial);
    for (int step = 0; step < STEPS; step++) {
      step_once(optimizer, parameters, gradients[step]);
      if (step + 1 != element(entry("steps"), kept)) continue;
      assert_true(distance_from(parameters, "parameters", kept * COUNT) < 1e-7);
      assert_true(distance_from(parameters, "bitsandbytes_plain", kept * COUNT) < 2e-6);
      kept++;
    }
    assert_int_equal(kept, json_array_size(entry("steps")));
    check_codes(optimizer);
    assert_true(distance_from(parameters, "bitsandbytes_cpu", 0) < 0.01);
    assert_true(distance_from(parameters, "torch", 0) < 0.03);
    assert_true(distance_from(parameters, "torch", 0) > 1e-3);  // it is not in float32
    optimizer_free(optimizer);
    backend_free(backend);
  }
}

// Three decades of gradients in a block, and now and then a gradient of zero: where v became zero, a step would be thousands of times too
// long (bitsandbytes' plain version goes 18 times the way on such numbers).
static void small_gradients_beside_large_ones_stay_near_float32(void **state) {
  (void)state;
  Backend *backend = table_backend(backend_cpu_kernels(0));
  Optimizer *coded = named_optimizer("adamw_8bit", backend), *exact = named_optimizer("adamw_torch", backend);
  float parameters[2][COUNT], wide[COUNT];
  memcpy(parameters[0], initial, sizeof initial);
  memcpy(parameters[1], initial, sizeof initial);
  for (int step = 0; step < STEPS; step++) {
    for (int i = 0; i < COUNT; i++) wide[i] = ldexpf(gradients[step][i], -(i % 7));
    step_once(coded, parameters[0], wide);
    step_once(exact, parameters[1], wide);
  }
  double expected[COUNT];
  for (int i = 0; i < COUNT; i++) expected[i] = parameters[1][i];
  double apart = distance(parameters[0], expected);
  if (!(apart < 0.1)) fail_msg("8 bits are %.3g of the way from float32", apart);
  optimizer_free(coded);
  optimizer_free(exact);
  backend_free(backend);
}

static void state_is_two_bytes_a_parameter_and_two_scales_a_block_and_begins_at_zero(void **state) {
  (void)state;
  Backend *backend = table_backend(backend_cpu_kernels(0));
  Optimizer *coded = named_optimizer("adamw_8bit", backend), *exact = named_optimizer("adamw_torch", backend);
  assert_int_equal(optimizer_state_bytes(exact), 8 * COUNT);
  assert_int_equal(optimizer_state_bytes(coded), 2 * COUNT + 2 * BLOCKS * (int64_t)sizeof(float));
  const int64_t lengths[] = {COUNT, BLOCKS, COUNT, BLOCKS};
  for (int i = 0; i < 4; i++) {
    const uint8_t *bytes = coded->state[i];
    assert_int_equal(optimizer_state_length(coded, i), lengths[i]);
    for (int64_t j = 0; j < lengths[i] * (i % 2 ? 4 : 1); j++) assert_int_equal(bytes[j], 0);
  }
  // A step without any gradient leaves it so, and decays the parameters only.
  float parameters[COUNT], none[COUNT] = {0};
  memcpy(parameters, initial, sizeof initial);
  step_once(coded, parameters, none);
  for (int i = 0; i < COUNT; i++) assert_int_equal(((const uint8_t *)coded->state[0])[i] | ((const uint8_t *)coded->state[2])[i], 0);
  for (int64_t i = tensors[0].columns; i < tensors[0].columns + tensors[1].columns; i++) assert_true(parameters[i] == initial[i]);
  optimizer_free(coded);
  optimizer_free(exact);
  backend_free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(levels_are_the_dynamic_maps_of_bitsandbytes),
      cmocka_unit_test(a_level_is_its_own_code_and_ties_go_where_bitsandbytes_sends_them),
      cmocka_unit_test(only_zero_itself_becomes_zero_on_the_sides_that_matter),
      cmocka_unit_test(every_table_finds_the_codes_around_all_bounds),
      cmocka_unit_test(twenty_steps_are_those_of_bitsandbytes_with_every_table),
      cmocka_unit_test(small_gradients_beside_large_ones_stay_near_float32),
      cmocka_unit_test(state_is_two_bytes_a_parameter_and_two_scales_a_block_and_begins_at_zero),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
