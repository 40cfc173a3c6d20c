// What tests/tools/make_method_reference.py wrote, and running an optimiser over it on a backend.
#ifndef TESTS_OPTIM_METHODS_SUPPORT_H
#define TESTS_OPTIM_METHODS_SUPPORT_H

#include <jansson.h>
#include <math.h>

#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "tests/support/test.h"

enum { METHOD_MOST = 128, METHOD_STEPS = 20, METHOD_TENSORS = 6, METHOD_KEPT = 2 };

static json_t *methods_file;
static int64_t method_count;  // of parameters
static float method_initial[METHOD_MOST], method_gradients[METHOD_STEPS][METHOD_MOST];

static inline json_t *methods_entry(const char *key) {
  json_t *value = json_object_get(methods_file, key);
  assert_non_null(value);
  return value;
}

static inline double methods_element(json_t *array, int64_t index) {
  json_t *value = json_array_get(array, (size_t)index);
  assert_true(json_is_number(value));
  return json_number_value(value);
}

static inline int methods_open(void **state) {
  (void)state;
  json_error_t error;
  methods_file = json_load_file(TESTS_DIR "/optim/data/methods.json", 0, &error);
  assert_non_null(methods_file);
  method_count = (int64_t)json_array_size(methods_entry("initial"));
  assert_true(method_count > 0 && method_count <= METHOD_MOST);
  for (int64_t i = 0; i < method_count; i++) {
    method_initial[i] = (float)methods_element(methods_entry("initial"), i) / 1024;
    for (int step = 0; step < METHOD_STEPS; step++)
      method_gradients[step][i] = (float)ldexp(methods_element(methods_entry("numbers"), step * method_count + i),
                                               (int)methods_element(methods_entry("exponents"), i));
  }
  return 0;
}

static inline int methods_close(void **state) {
  (void)state;
  json_decref(methods_file);
  return 0;
}

// As the trainer sets one up: beta1 .. beta3 are keys of the recipe.
static inline Optimizer *method_optimizer(json_t *entry, Backend *backend) {
  const OptimizerMethod *method = NULL;
  const char *name, *spelling = json_string_value(json_object_get(entry, "optimizer"));
  json_t *value, *warmup = json_object_get(entry, "warmup_steps");
  assert_ok(optimizer_find(&method, NULL, spelling));
  OptimizerSettings settings = optimizer_defaults(method);
  json_object_foreach(json_object_get(entry, "arguments"), name, value) {
    char number[40];
    snprintf(number, sizeof number, "%.17g", json_number_value(value));
    if (strcmp(name, "beta1") == 0) settings.beta1 = json_number_value(value);
    else if (strcmp(name, "beta2") == 0) settings.beta2 = json_number_value(value);
    else if (strcmp(name, "beta3") == 0) settings.beta3 = json_number_value(value);
    else assert_ok(optimizer_set_argument(&settings, method, name, json_is_string(value) ? json_string_value(value) : number));
  }
  settings.warmup_steps = json_integer_value(warmup);
  ParameterTensor tensors[METHOD_TENSORS];
  bool has_multipliers = json_is_true(json_object_get(entry, "multipliers"));
  for (int i = 0; i < METHOD_TENSORS; i++) {
    json_t *shape = json_array_get(methods_entry("shapes"), (size_t)i);
    tensors[i] = (ParameterTensor){.rows = (int64_t)methods_element(shape, 0),
                                   .columns = (int64_t)methods_element(shape, 1),
                                   .weight_decay = methods_element(methods_entry("decays"), i),
                                   .rate_multiplier = has_multipliers ? methods_element(methods_entry("multipliers"), i) : 1};
  }
  Optimizer *optimizer;
  assert_ok(optimizer_new(&optimizer, optimizer_settle(method, &settings), settings, tensors, METHOD_TENSORS, backend));
  assert_int_equal(optimizer->count, method_count);
  return optimizer;
}

static inline void method_step(Optimizer *optimizer, float *parameters, float *gradients, int step) {
  Backend *backend = optimizer->backend;
  OptimizerReport report;
  backend->upload(gradients, method_gradients[step], method_count * (int64_t)sizeof(float), backend);
  assert_ok(optimizer_step(optimizer, parameters, gradients, methods_element(methods_entry("rates"), step), 1, &report));
  assert_false(report.skipped);
}

static inline void method_buffers(float **parameters, float **gradients, Backend *backend) {
  int64_t bytes = method_count * (int64_t)sizeof(float);
  assert_ok(backend->allocate((void **)parameters, bytes, "a test", backend));
  assert_ok(backend->allocate((void **)gradients, bytes, "a test", backend));
  backend->upload(*parameters, method_initial, bytes, backend);
}

// The largest distance to what the file holds under `key` at its kept step `kept`, relative to the largest way that a parameter has gone.
static inline double method_distance(const float *device, json_t *entry, const char *key, int kept, Backend *backend) {
  float actual[METHOD_MOST];
  backend->download(actual, device, method_count * (int64_t)sizeof(float), backend);
  double apart = 0, way = 0;
  for (int64_t i = 0; i < method_count; i++) {
    double expected = methods_element(json_object_get(entry, key), kept * method_count + i);
    if (!isfinite(actual[i])) return INFINITY;
    apart = fmax(apart, fabs(actual[i] - expected)), way = fmax(way, fabs(expected - method_initial[i]));
  }
  assert_true(way > 0);
  return apart / way;
}

// The largest of the distances at all kept steps, of the parameters and, where the method has them, of the averages.
static inline double method_run(json_t *entry, Backend *backend) {
  float *parameters, *gradients;
  Optimizer *optimizer = method_optimizer(entry, backend);
  method_buffers(&parameters, &gradients, backend);
  double largest = 0;
  for (int step = 0, kept = 0; step < METHOD_STEPS; step++) {
    method_step(optimizer, parameters, gradients, step);
    if (step + 1 != (int)methods_element(methods_entry("steps"), kept)) continue;
    largest = fmax(largest, method_distance(parameters, entry, "parameters", kept, backend));
    if (json_object_get(entry, "averages")) {
      optimizer_show_average(optimizer, parameters);
      largest = fmax(largest, method_distance(parameters, entry, "averages", kept, backend));
      optimizer_show_training(optimizer, parameters);
    }
    kept++;
  }
  assert_ok(backend->check(backend));
  optimizer_free(optimizer);
  backend->release(parameters, backend);
  backend->release(gradients, backend);
  return largest;
}

static inline void method_describe(char text[160], json_t *entry) {
  char *arguments = json_dumps(json_object_get(entry, "arguments"), JSON_COMPACT);
  snprintf(text, 160, "%s %s", json_string_value(json_object_get(entry, "optimizer")), arguments);
  free(arguments);
}

#endif
