// Every method but AdamW (test_optimizer.c, test_adamw_8bit.c) beside the library that it is of, on every table of the CPU's kernels.
#include "tests/optim/methods_support.h"

#include "optim/methods.h"
#include "optim/schedule.h"
#include "recipes/schema.h"

static Backend *open_backend(const Kernels *kernels) {
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 2));
  backend->kernels = kernels;
  return backend;
}

// Muon's iteration makes a matrix's small singular values a thousand times as large, and rounding with them; Adafactor's relative steps are
// so small that the rounding of p shows: they are allowed twice what the same algorithm in torch's float32 is off.
static double allowed(json_t *entry) {
  json_t *error = json_object_get(entry, "float32_error");
  return error ? 2 * json_number_value(error) : 1e-6;
}

static void methods_match_their_libraries_over_twenty_steps(void **state) {
  (void)state;
  size_t index;
  json_t *entry;
  assert_true(json_array_size(methods_entry("cases")) >= 22);
  for (int table = 0; backend_cpu_kernels(table); table++) {
    Backend *backend = open_backend(backend_cpu_kernels(table));
    json_array_foreach(methods_entry("cases"), index, entry) {
      double distance = method_run(entry, backend);
      char text[160];
      method_describe(text, entry);
      if (!(distance <= allowed(entry))) fail_msg("%s: %s: off by %.3g of the way", backend->kernels->name, text, distance);
    }
    backend_free(backend);
  }
}

// The mean distance to bitsandbytes' own code is no more than a few times what eight bits themselves cost it: of the two, its own rounds to
// one of 65,536 steps first (tests/tools/make_optim_reference.py), and ours leaves no v above zero at zero.
static void states_in_8_bits_go_where_those_of_bitsandbytes_go(void **state) {
  (void)state;
  size_t index;
  json_t *entry;
  int compared = 0;
  Backend *backend = open_backend(backend_cpu_kernels(0));
  json_array_foreach(methods_entry("cases"), index, entry) {
    json_t *theirs = json_object_get(entry, "bitsandbytes");
    if (!theirs) continue;
    float *parameters, *gradients;
    Optimizer *optimizer = method_optimizer(entry, backend);
    method_buffers(&parameters, &gradients, backend);
    for (int step = 0; step < METHOD_STEPS; step++) method_step(optimizer, parameters, gradients, step);
    double apart = 0, way = 0;
    for (int64_t i = 0; i < method_count; i++) {
      apart += fabs(parameters[i] - methods_element(theirs, i));
      way += fabs(methods_element(theirs, i) - method_initial[i]);
    }
    double cost = json_number_value(json_object_get(entry, "bitsandbytes_to_float32"));
    if (!(apart / way <= 2 * cost)) fail_msg("%s: %g of the way apart, %g to float32", optimizer->method->name, apart / way, cost);
    compared++;
    optimizer_free(optimizer);
    backend->release(parameters, backend);
    backend->release(gradients, backend);
  }
  assert_int_equal(compared, 3);
  backend_free(backend);
}

static json_t *first_case_of(const char *name) {
  size_t index;
  json_t *entry;
  json_array_foreach(methods_entry("cases"), index, entry) {
    if (strcmp(json_string_value(json_object_get(entry, "optimizer")), name) == 0) return entry;
  }
  fail_msg("no case of %s", name);
  return NULL;
}

static void showing_the_average_and_back_changes_no_bit(void **state) {
  (void)state;
  static const char *const names[] = {"schedule_free_adamw", "lion_32bit"};
  for (int i = 0; i < 2; i++) {
    Backend *backend = open_backend(backend_cpu_kernels(0));
    float *parameters, *gradients, before[METHOD_MOST];
    Optimizer *optimizer = method_optimizer(first_case_of(names[i]), backend);
    method_buffers(&parameters, &gradients, backend);
    for (int step = 0; step < 3; step++) method_step(optimizer, parameters, gradients, step);
    memcpy(before, parameters, (size_t)method_count * sizeof *before);
    optimizer_show_average(optimizer, parameters);
    optimizer_show_average(optimizer, parameters);
    assert_int_equal(memcmp(before, parameters, (size_t)method_count * sizeof *before) != 0, i == 0);
    optimizer_show_training(optimizer, parameters);
    optimizer_show_training(optimizer, parameters);
    assert_memory_equal(before, parameters, (size_t)method_count * sizeof *before);
    optimizer_free(optimizer);
    backend->release(parameters, backend);
    backend->release(gradients, backend);
    backend_free(backend);
  }
}

// A run that is cut after ten steps and goes on from the states, counts and scalars is the run that was not cut.
static void what_a_checkpoint_keeps_is_all_that_steps_depend_on(void **state) {
  (void)state;
  size_t index;
  json_t *entry;
  Backend *backend = open_backend(backend_cpu_kernels(0));
  json_array_foreach(methods_entry("cases"), index, entry) {
    float *parameters[2], *gradients;
    Optimizer *whole = method_optimizer(entry, backend), *resumed = method_optimizer(entry, backend);
    method_buffers(&parameters[0], &gradients, backend);
    assert_ok(backend->allocate((void **)&parameters[1], METHOD_MOST * (int64_t)sizeof(float), "a test", backend));
    for (int step = 0; step < METHOD_STEPS; step++) {
      if (step == 10) {
        memcpy(parameters[1], parameters[0], (size_t)method_count * sizeof(float));
        for (int i = 0; i < whole->method->state_count; i++) {
          int64_t size = whole->method->states[i].kind == STATE_CODES ? 1 : (int64_t)sizeof(float);
          int64_t length = optimizer_state_length(whole, i);
          assert_int_equal(length, optimizer_state_length(resumed, i));
          if (length) memcpy(resumed->state[i], whole->state[i], (size_t)(length * size));
        }
        resumed->updates = whole->updates;
        memcpy(resumed->scalars, whole->scalars, sizeof whole->scalars);
      }
      method_step(whole, parameters[0], gradients, step);
      if (step >= 10) method_step(resumed, parameters[1], gradients, step);
    }
    assert_memory_equal(parameters[0], parameters[1], (size_t)method_count * sizeof(float));
    optimizer_free(whole);
    optimizer_free(resumed);
    for (int i = 0; i < 2; i++) backend->release(parameters[i], backend);
    backend->release(gradients, backend);
  }
  backend_free(backend);
}

static void neighbours_of_the_same_settings_are_one_range_but_for_methods_of_matrices(void **state) {
  (void)state;
  const ParameterTensor tensors[] = {{3, 4, 0.1, 1, false}, {5, 3, 0.1, 1, false}, {2, 2, 0, 1, false}, {0, 7, 0.5, 2, false},
                                     {1, 6, 0, 1, false},   {6, 1, 0, 4, false},   {300, 2, 0, 4, true}};
  enum { TENSORS = sizeof tensors / sizeof *tensors };
  Backend *backend = open_backend(backend_cpu_kernels(0));
  Optimizer *optimizer;
  assert_ok(optimizer_new(&optimizer, &optimizer_lion_8bit, optimizer_defaults(&optimizer_lion_8bit), tensors, TENSORS, backend));
  static const int64_t ends[] = {27, 37, 643};
  assert_int_equal(optimizer->count, 643);
  assert_int_equal(optimizer->range_count, 3);
  for (int i = 0; i < 3; i++) assert_int_equal(optimizer->ranges[i].end, ends[i]);
  assert_int_equal(optimizer_state_length(optimizer, 0), 643);
  assert_int_equal(optimizer_state_length(optimizer, 1), 1 + 1 + 3);  // blocks of 256
  optimizer_free(optimizer);
  assert_ok(optimizer_new(&optimizer, &optimizer_adafactor, optimizer_defaults(&optimizer_adafactor), tensors, TENSORS, backend));
  assert_int_equal(optimizer->range_count, 6);  // what is empty is none
  assert_int_equal(optimizer_state_length(optimizer, 0), 3 + 5 + 2 + 1 + 1 + 300);
  assert_int_equal(optimizer_state_length(optimizer, 1), 4 + 3 + 2 + 6 + 6 + 2);
  optimizer_free(optimizer);
  assert_ok(optimizer_new(&optimizer, &optimizer_muon, optimizer_defaults(&optimizer_muon), tensors, TENSORS, backend));
  assert_int_equal(optimizer_state_length(optimizer, 1), 6 + 6 + 600);  // AdamW's: of vectors, and of what is to go by element
  optimizer_free(optimizer);
  backend_free(backend);
}

static void arguments_that_a_method_has_not_are_refused_with_those_that_it_has(void **state) {
  (void)state;
  OptimizerSettings settings = optimizer_defaults(&optimizer_sgd);
  assert_fails(STATUS_USAGE, optimizer_set_argument(&settings, &optimizer_sgd, "beta1", "0.9"), "sgd has no argument 'beta1'",
               "it has momentum, dampening, nesterov");
  assert_fails(STATUS_USAGE, optimizer_set_argument(&settings, &optimizer_sgd, "momentum", "fast"), "momentum", "a number from 0 to 1");
  assert_fails(STATUS_USAGE, optimizer_set_argument(&settings, &optimizer_sgd, "momentum", "1.5"), "momentum", "a number from 0 to 1");
  assert_fails(STATUS_USAGE, optimizer_set_argument(&settings, &optimizer_sgd, "nesterov", "maybe"), "nesterov", "true or false");
  assert_fails(STATUS_USAGE, optimizer_set_argument(&settings, &optimizer_muon, "adjust_lr", "norm"), "spectral_norm, rms_norm or none");
  assert_ok(optimizer_set_argument(&settings, &optimizer_sgd, "momentum", "0.5"));
  assert_ptr_equal(optimizer_settle(&optimizer_sgd, &settings), &optimizer_sgd_momentum);
}

// (recipes/ stands below, so its list of names and reasons cannot be this folder's.)
static void every_name_of_the_schema_is_a_method_or_has_a_reason(void **state) {
  (void)state;
  for (int i = 0; optimizer_words[i]; i++) {
    const OptimizerMethod *method = NULL;
    bool is_found = optimizer_find(&method, NULL, optimizer_words[i]) == STATUS_OK, is_refused = optimizer_refusal(optimizer_words[i]);
    if (is_found == is_refused) fail_msg("%s: built: %d, refused: %d", optimizer_words[i], is_found, is_refused);
  }
  for (int i = 0; scheduler_words[i]; i++) {
    Schedule schedule;
    bool is_found = schedule_new(&schedule, scheduler_words[i]) == STATUS_OK, is_refused = scheduler_refusal(scheduler_words[i]);
    if (is_found == is_refused) fail_msg("%s: built: %d, refused: %d", scheduler_words[i], is_found, is_refused);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(methods_match_their_libraries_over_twenty_steps),
      cmocka_unit_test(states_in_8_bits_go_where_those_of_bitsandbytes_go),
      cmocka_unit_test(showing_the_average_and_back_changes_no_bit),
      cmocka_unit_test(what_a_checkpoint_keeps_is_all_that_steps_depend_on),
      cmocka_unit_test(neighbours_of_the_same_settings_are_one_range_but_for_methods_of_matrices),
      cmocka_unit_test(every_name_of_the_schema_is_a_method_or_has_a_reason),
      cmocka_unit_test(arguments_that_a_method_has_not_are_refused_with_those_that_it_has),
  };
  return cmocka_run_group_tests(tests, methods_open, methods_close);
}
