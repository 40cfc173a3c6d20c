#include "tests/support/test.h"

#include <jansson.h>
#include <math.h>

#include "optim/optimizer.h"
#include "optim/schedule.h"

enum { MOST = 1024 };

static Backend *backend;

static int start(void **state) {
  (void)state;
  return backend_new(&backend, "cpu", 2);
}

static int stop(void **state) {
  (void)state;
  backend_free(backend);
  return 0;
}

static int64_t read_floats(float *out, json_t *array) {
  int64_t count = (int64_t)json_array_size(array);
  assert_true(count > 0 && count <= MOST);
  for (int64_t i = 0; i < count; i++) out[i] = (float)json_number_value(json_array_get(array, (size_t)i));
  return count;
}

static double number(json_t *object, const char *key) {
  json_t *value = json_object_get(object, key);
  assert_true(json_is_number(value));
  return json_number_value(value);
}

static const OptimizerMethod *adamw(void) {
  const OptimizerMethod *method = NULL;
  assert_ok(optimizer_find(&method, NULL, "adamw_torch"));
  return method;
}

// Twice what torch's own float32 is off from float64; that reference is what the file holds.
static void assert_near(const float *actual, json_t *entry, const char *key, int64_t offset, int64_t count) {
  float expected[MOST];
  read_floats(expected, json_object_get(entry, key));
  assert_close(actual, expected + offset, count, 2 * number(json_object_get(entry, "float32_error"), key));
}

static void check_case(json_t *file, json_t *entry) {
  float parameters[MOST], gradients[MOST];
  int64_t count = read_floats(parameters, json_object_get(file, "initial"));
  int64_t steps = read_floats(gradients, json_object_get(file, "gradients")) / count;
  ParameterTensor tensors[3];
  for (size_t i = 0; i < 3; i++) {
    json_t *group = json_array_get(json_object_get(file, "groups"), i);
    int64_t begin = json_integer_value(json_array_get(group, 0)), end = json_integer_value(json_array_get(group, 1));
    tensors[i] = (ParameterTensor){.rows = 1,
                                   .columns = end - begin,
                                   .weight_decay = json_number_value(json_array_get(group, 2)),
                                   .rate_multiplier = json_number_value(json_array_get(group, 3))};
  }
  json_t *settings = json_object_get(file, "settings");
  Optimizer *optimizer;
  assert_ok(optimizer_new(&optimizer, adamw(),
                          (OptimizerSettings){.beta1 = number(settings, "beta1"),
                                              .beta2 = number(settings, "beta2"),
                                              .epsilon = number(settings, "epsilon"),
                                              .max_grad_norm = number(entry, "max_grad_norm")},
                          tensors, 3, backend));
  Schedule schedule;
  assert_ok(schedule_new(&schedule, "cosine"));
  schedule.steps = steps, schedule.warmup_steps = json_integer_value(json_object_get(file, "warmup_steps"));
  for (int64_t step = 0; step < steps; step++) {
    OptimizerReport report;
    double rate = number(settings, "lr") * schedule_factor(&schedule, step);
    assert_ok(optimizer_step(optimizer, parameters, gradients + step * count, rate, 1.0, &report));
    assert_false(report.skipped);
    double norm = json_number_value(json_array_get(json_object_get(entry, "norms"), (size_t)step));
    assert_true(fabs(report.gradient_norm - norm) <= 1e-6 * norm);
    assert_near(parameters, entry, "parameters", step * count, count);
  }
  assert_near(optimizer->state[0], entry, "m", 0, count);
  assert_near(optimizer->state[1], entry, "v", 0, count);
  assert_int_equal(optimizer->updates, steps);
  optimizer_free(optimizer);
}

static void adamw_matches_torch_over_twenty_steps_with_rates_schedule_and_clipping(void **state) {
  (void)state;
  json_error_t error;
  json_t *file = json_load_file(TESTS_DIR "/optim/data/adamw.json", 0, &error);
  assert_non_null(file);
  size_t index;
  json_t *entry;
  assert_int_equal(json_array_size(json_object_get(file, "cases")), 2);
  json_array_foreach(json_object_get(file, "cases"), index, entry) check_case(file, entry);
  json_decref(file);
}

// An optimiser of six parameters in one group, and buffers for it.
typedef struct Small {
  Optimizer *optimizer;
  float parameters[6], gradients[6];
} Small;

static Small small_new(double max_grad_norm, int skip_limit) {
  Small small = {.parameters = {1, 2, 3, 4, 5, 6}, .gradients = {1, -2, 3, -4, 5, -6}};
  ParameterTensor tensor = {.rows = 2, .columns = 3, .weight_decay = 0.1, .rate_multiplier = 1};
  OptimizerSettings settings = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = max_grad_norm, .skip_limit = skip_limit};
  assert_ok(optimizer_new(&small.optimizer, adamw(), settings, &tensor, 1, backend));
  return small;
}

static void clipping_scales_as_torch_does_and_zero_turns_it_off(void **state) {
  (void)state;
  const double norm = sqrt(91), limits[] = {0, 1, 20};
  for (int i = 0; i < 3; i++) {
    Small small = small_new(limits[i], 0);
    OptimizerReport report;
    assert_ok(optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, 1, &report));
    assert_true(fabs(report.gradient_norm - norm) < 1e-12);
    assert_true(fabs(report.gradient_scale - (limits[i] == 1 ? 1 / (norm + 1e-6) : 1)) < 1e-15);
    assert_true(small.gradients[0] == 1);  // the gradients themselves are left alone
    optimizer_free(small.optimizer);
  }
}

static void a_step_with_nan_or_infinity_touches_nothing_and_is_counted(void **state) {
  (void)state;
  Small small = small_new(1, 0);
  OptimizerReport report;
  assert_ok(optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, 1, &report));
  float parameters[6], m[6], v[6];
  memcpy(parameters, small.parameters, sizeof parameters);
  memcpy(m, small.optimizer->state[0], sizeof m);
  memcpy(v, small.optimizer->state[1], sizeof v);
  const struct { double gradient, loss; } poison[] = {{NAN, 1}, {INFINITY, 1}, {-INFINITY, 1}, {1, NAN}, {1, INFINITY}};
  for (int i = 0; i < 5; i++) {
    small.gradients[3] = (float)poison[i].gradient;
    assert_ok(optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, poison[i].loss, &report));
    assert_true(report.skipped);
    assert_memory_equal(small.parameters, parameters, sizeof parameters);
    assert_memory_equal(small.optimizer->state[0], m, sizeof m);
    assert_memory_equal(small.optimizer->state[1], v, sizeof v);
    assert_int_equal(small.optimizer->skipped, i + 1);
    assert_int_equal(small.optimizer->skipped_in_row, i + 1);
    assert_int_equal(small.optimizer->updates, 1);
  }
  small.gradients[3] = -4;
  assert_ok(optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, 1, &report));
  assert_false(report.skipped);
  assert_int_equal(small.optimizer->skipped, 5);
  assert_int_equal(small.optimizer->skipped_in_row, 0);
  assert_int_equal(small.optimizer->updates, 2);
  optimizer_free(small.optimizer);
}

static void a_gradient_whose_square_overflows_is_skipped_unless_clipped(void **state) {
  (void)state;
  for (int clipped = 0; clipped < 2; clipped++) {
    Small small = small_new(clipped, 0);
    small.gradients[2] = 1e30f;
    OptimizerReport report;
    assert_ok(optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, 1, &report));
    assert_int_equal(report.skipped, !clipped);
    const float *v = small.optimizer->state[1];
    for (int i = 0; i < 6; i++) assert_true(isfinite(small.parameters[i]) && isfinite(v[i]));
    optimizer_free(small.optimizer);
  }
}

static void skipped_steps_in_a_row_stop_the_run_at_the_limit(void **state) {
  (void)state;
  const int limits[] = {0, 3};
  for (int i = 0; i < 2; i++) {
    Small small = small_new(1, limits[i]);
    small.gradients[0] = NAN;
    OptimizerReport report;
    int limit = limits[i] ? limits[i] : OPTIMIZER_SKIP_LIMIT;
    for (int step = 1; step < limit; step++)
      assert_ok(optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, 1, &report));
    assert_fails(STATUS_GUARD, optimizer_step(small.optimizer, small.parameters, small.gradients, 1e-3, 1, &report), "in a row",
                 "learning_rate");
    optimizer_free(small.optimizer);
  }
}

static void every_spelling_of_adamw_is_known_and_others_are_refused(void **state) {
  (void)state;
  const struct {
    const char *name, *method, *notice;
  } cases[] = {
      {NULL, "adamw", NULL},
      {"adamw_torch", "adamw", NULL},
      {"adamw_torch_fused", "adamw", NULL},
      {"paged_adamw", "adamw", "not paged"},
      {"paged_adamw_32bit", "adamw", "not paged"},
      {"adamw_torch_4bit", "adamw", "float32"},
      {"ao_adamw_4bit", "adamw", "float32"},
      {"ao_adamw_fp8", "adamw", "float32"},
      {"flash_adamw", "adamw", "float32"},
      {"adamw_bnb_8bit", "adamw_8bit", NULL},
      {"adamw_8bit", "adamw_8bit", NULL},
      {"adamw_torch_8bit", "adamw_8bit", NULL},
      {"ao_adamw_8bit", "adamw_8bit", NULL},
      {"paged_adamw_8bit", "adamw_8bit", "not paged"},
  };
  const OptimizerMethod *method = NULL;
  const char *notice;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_ok(optimizer_find(&method, &notice, cases[i].name));
    assert_string_equal(method->name, cases[i].method);
    if (!cases[i].notice) assert_null(notice);
    else assert_non_null(strstr(notice, cases[i].notice));
  }
  assert_fails(STATUS_USAGE, optimizer_find(&method, &notice, "adamw_torhc"), "adamw_torhc", "use adamw_torch");
  assert_fails(STATUS_USAGE, optimizer_find(&method, &notice, "galore_adamw"), "'galore_adamw' is not built", "use ");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(adamw_matches_torch_over_twenty_steps_with_rates_schedule_and_clipping),
      cmocka_unit_test(clipping_scales_as_torch_does_and_zero_turns_it_off),
      cmocka_unit_test(a_step_with_nan_or_infinity_touches_nothing_and_is_counted),
      cmocka_unit_test(a_gradient_whose_square_overflows_is_skipped_unless_clipped),
      cmocka_unit_test(skipped_steps_in_a_row_stop_the_run_at_the_limit),
      cmocka_unit_test(every_spelling_of_adamw_is_known_and_others_are_refused),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
