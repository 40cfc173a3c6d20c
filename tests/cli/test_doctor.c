// `lora doctor`: every kernel of every table is checked, on the CPU and on the simulated device; a wrong kernel is found; what --tune measures
// is kept and read again.
#include <jansson.h>

#include "core/file.h"
#include "kernels/cuda_library.h"
#include "kernels/cuda_tuning.h"
#include "kernels/selfcheck.h"
#include "tests/support/kernel_cases.h"

static json_t *doctor_json(const char *arguments) {
  Buffer output = {0};
  int code = run_program(&output, "doctor --json --quiet --threads 2 %s", arguments);
  if (code != 0) fail_msg("lora doctor %s: %d: %s", arguments, code, output.data);
  json_error_t error;
  json_t *result = json_loads(output.data, 0, &error);
  if (!result) fail_msg("not JSON: %s: %s", error.text, output.data);
  buffer_release(&output);
  return result;
}

static int count_checks(const json_t *result, const char *table, const char *kernel) {
  int found = 0;
  size_t i;
  const json_t *check;
  json_array_foreach(json_object_get(result, "kernels"), i, check) {
    bool is_table = strcmp(json_string_value(json_object_get(check, "table")), table) == 0;
    found += is_table && strcmp(json_string_value(json_object_get(check, "kernel")), kernel) == 0;
    assert_true(json_is_true(json_object_get(check, "ok")));
    assert_true(json_integer_value(json_object_get(check, "cases")) > 0);
  }
  return found;
}

static void every_kernel_is_checked(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++) assert_string_equal(selfcheck_name(op), kernel_ops[op].name);
  assert_null(selfcheck_name(OP_COUNT));
}

static void the_processor_is_well(void **state) {
  (void)state;
  json_t *result = doctor_json("--device cpu");
  const char *chosen = json_string_value(json_object_get(result, "chosen"));
  for (int kernel = 0; selfcheck_name(kernel); kernel++) assert_true(count_checks(result, chosen, selfcheck_name(kernel)) > 0);
  assert_int_equal(count_checks(result, chosen, "attention_backward"), 2);
  assert_int_equal(json_object_size(json_object_get(result, "libraries")), 5);
  assert_true(json_is_true(json_object_get(result, "ok")));
  json_decref(result);
}

// capability: "75" has no bfloat16, and takes float16 in its place.
static void check_simulated_device(const char *capability) {
  setenv("LORA_SIMULATED_CAPABILITY", capability, 1);
  json_t *result = doctor_json("--device cuda");
  unsetenv("LORA_SIMULATED_CAPABILITY");
  for (int kernel = 0; selfcheck_name(kernel); kernel++) assert_true(count_checks(result, "cuda", selfcheck_name(kernel)) > 0);
  assert_int_equal(json_array_size(json_object_get(result, "devices")), 1);
  assert_non_null(json_object_get(json_object_get(result, "cuda"), "library"));
  json_decref(result);
}

static void simulated_devices_are_well(void **state) {
  (void)state;
  check_simulated_device("80");
  check_simulated_device("75");
}

static void no_device_is_told_and_asking_for_it_fails(void **state) {
  (void)state;
  char *before = memory_copy_string(getenv("LORA_CUDA_LIBRARY"));
  setenv("LORA_CUDA_LIBRARY", "/nowhere/liblora_cuda.so", 1);
  json_t *result = doctor_json("");
  assert_int_equal(json_array_size(json_object_get(result, "devices")), 0);
  assert_non_null(strstr(json_string_value(json_object_get(result, "no_devices")), "/nowhere"));
  json_decref(result);
  Buffer output = {0};
  assert_int_equal(run_program(&output, "doctor --device cuda"), STATUS_USAGE);
  assert_non_null(strstr(output.data, "scripts/build"));
  buffer_release(&output);
  setenv("LORA_CUDA_LIBRARY", before, 1);
  free(before);
}

static void wrong_add(float *y, const float *x, float alpha, int64_t count, Backend *backend) {
  kernels_scalar.add(y, x, alpha, count - 1, backend);
}
static void wrong_norm(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend) {
  NormSettings other = *norm;
  other.epsilon *= 100;
  kernels_scalar.norm_forward(y, x, residual, &other, n, backend);
}

static void a_wrong_kernel_is_found(void **state) {
  (void)state;
  Backend *backend, *reference;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_ok(backend_new(&reference, NULL, 1));
  Kernels broken = kernels_scalar;
  broken.add = wrong_add;
  broken.norm_forward = wrong_norm;
  backend->kernels = &broken, reference->kernels = &kernels_scalar;
  for (int kernel = 0; selfcheck_name(kernel); kernel++) {
    KernelCheck check;
    bool is_broken = kernel == OP_add || kernel == OP_norm_forward;
    assert_ok(selfcheck_run(&check, kernel, FLOAT_32, backend, reference));
    assert_int_equal(check.is_ok, !is_broken);
    assert_true(check.cases > 0 && check.worst[0]);
  }
  backend_free(backend);
  backend_free(reference);
}

static void what_is_measured_is_kept(void **state) {
  (void)state;
  char *folder = temporary_folder();
  setenv("XDG_CACHE_HOME", folder, 1);
  Buffer output = {0};
  if (run_program(&output, "doctor --device cuda --tune --tune-size 256 --tune-rows 4 --json") != 0) fail_msg("%s", output.data);
  json_t *result = json_loads(output.data, 0, NULL);
  assert_int_equal(json_array_size(json_object_get(result, "measured")), 3);
  const json_t *panels = json_object_get(result, "panels");
  for (size_t i = 0; i < 5; i++) assert_true(json_number_value(json_object_get(json_array_get(panels, i), "seconds")) > 0);
  char *path = cuda_tuning_path();
  json_t *kept = json_load_file(path, 0, NULL), *own = json_object_get(kept, "simulated device");
  assert_int_equal(json_integer_value(json_object_get(own, "fused_rows")), json_integer_value(json_object_get(result, "fused_rows")));
  assert_int_equal(json_integer_value(json_object_get(own, "forward_panel")), json_integer_value(json_object_get(result, "forward_panel")));
  json_object_set_new(own, "fused_rows", json_integer(77));
  assert_int_equal(json_dump_file(kept, path, 0), 0);
  Backend *backend;
  assert_ok(backend_new(&backend, "cuda", 1));
  assert_true(backend->tuning[TUNING_FUSED_ROWS] == 77);
  backend_free(backend);
  assert_ok(file_write_whole(path, "[1", 2));  // is passed over
  assert_ok(backend_new(&backend, "cuda", 1));
  assert_true(backend->tuning[TUNING_FUSED_ROWS] != 77);
  backend_free(backend);
  json_decref(kept);
  json_decref(result);
  buffer_release(&output);
  free(path);
  unsetenv("XDG_CACHE_HOME");
  assert_ok(directory_remove(folder));
  free(folder);
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_kernel_is_checked),    cmocka_unit_test(the_processor_is_well),
      cmocka_unit_test(simulated_devices_are_well), cmocka_unit_test(no_device_is_told_and_asking_for_it_fails),
      cmocka_unit_test(a_wrong_kernel_is_found),    cmocka_unit_test(what_is_measured_is_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
