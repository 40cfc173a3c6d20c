// `lora bench`: the fields that programs read, rates that are rates, and what it refuses.
#include <jansson.h>
#include <math.h>

#include "tests/support/test.h"

#define TINY "--model " TESTS_DIR "/data/tiny.gguf"

static json_t *bench_json(const char *arguments) {
  Buffer output = {0};
  assert_int_equal(run_program(&output, "bench --json --quiet %s", arguments), 0);
  json_error_t error;
  json_t *result = json_loads(output.data, 0, &error);
  if (!result) fail_msg("not JSON: %s: %s", error.text, output.data);
  buffer_release(&output);
  return result;
}

static double positive(const json_t *object, const char *field) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_number(value) || !isfinite(json_number_value(value)) || !(json_number_value(value) > 0))
    fail_msg("%s is missing or not a positive number", field);
  return json_number_value(value);
}

// Every kernel has one rate; a product's share is that of the peak. Returns how many have the name (NULL: any).
static int check_kernels(const json_t *result, const char *name) {
  int found = 0;
  size_t i;
  const json_t *kernel, *kernels = json_object_get(result, "kernels");
  json_array_foreach(kernels, i, kernel) {
    positive(kernel, "rows");
    assert_true(json_is_string(json_object_get(kernel, "instruction_set")));
    if (json_object_get(kernel, "flops")) {
      double flops = positive(kernel, "flops"), share = positive(kernel, "share_of_peak");
      assert_true(fabs(share * json_number_value(json_object_get(json_object_get(result, "peaks"), "float32")) / flops - 1) < 1e-6 ||
                  share * positive(result, "peak_flops") >= flops * 0.999);
    } else if (!json_object_get(kernel, "not_measured")) positive(kernel, "bytes_per_second");
    found += !name || strcmp(json_string_value(json_object_get(kernel, "kernel")), name) == 0;
  }
  return found;
}

// In how many types products and attention are measured.
static int arithmetics(const json_t *result) {
  return json_number_value(json_object_get(json_object_get(result, "peaks"), "bfloat16")) > 0 ? 2 : 1;
}

static void a_model_has_the_fields_of_its_rates(void **state) {
  (void)state;
  json_t *result = bench_json(TINY " --threads 1");
  positive(result, "prompt_tokens_per_second");
  positive(result, "generation_tokens_per_second");
  positive(result, "train_tokens_per_second");
  positive(result, "peak_flops");
  assert_true(positive(result, "threads") == 1);
  assert_true(check_kernels(result, "linear_forward") > 0);
  assert_int_equal(check_kernels(result, "attention_backward"), arithmetics(result));
  assert_int_equal(check_kernels(result, "adamw"), 1);
  json_decref(result);
}

// Each entry of the table is measured: all that kernels/backend.h names, peak_flops aside.
static void kernels_without_a_model_are_all_there(void **state) {
  (void)state;
  json_t *result = bench_json("--device cpu");
  assert_null(json_object_get(result, "train_tokens_per_second"));
  assert_int_equal(check_kernels(result, "linear_forward"), 20 * 3 * arithmetics(result));
  assert_int_equal(check_kernels(result, "attention_forward"), arithmetics(result));
  assert_int_equal(check_kernels(result, "attention_backward"), arithmetics(result));
  assert_int_equal(check_kernels(result, "linear_backward"), 20 * arithmetics(result));
  assert_int_equal(check_kernels(result, "linear_forward_int8"), 16);  // of the 20 types, those with integer levels
  assert_int_equal(check_kernels(result, "weight_backward"), arithmetics(result));
  assert_int_equal(check_kernels(result, "low_rank_backward"), arithmetics(result));
  assert_int_equal(check_kernels(result, "linear_cross_entropy"), arithmetics(result));
  assert_int_equal(check_kernels(result, "experts_forward"), arithmetics(result));
  assert_int_equal(check_kernels(result, "experts_backward"), arithmetics(result));
  const char *names[] = {"embedding_forward",
                         "norm_forward",
                         "norm_backward",
                         "rope",
                         "gated_forward",
                         "gated_backward",
                         "cross_entropy",
                         "softcap",
                         "router_forward",
                         "router_backward",
                         "copy_heads",
                         "dropout",
                         "gather_rows",
                         "scatter_rows",
                         "fill",
                         "copy",
                         "add",
                         "sum_of_squares",
                         "adamw",
                         "adamw_8bit",
                         "update",
                         "update_8bit",
                         "low_rank_norms",
                         "magnitude_forward",
                         "magnitude_backward",
                         "linear_forward_rows",
                         "store_pages",
                         "paged_attention",
                         "low_rank_rows"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (check_kernels(result, names[i]) != 1) fail_msg("%s is not measured", names[i]);
  json_decref(result);
}

static void people_get_tables(void **state) {
  (void)state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "bench --quiet %s", TINY), 0);
  const char *words[] = {"multiply-adds on registers", "linear_backward", "norm_forward", "GB/s", "generation", "training", "tokens/s"};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    if (!strstr(output.data, words[i])) fail_msg("%s is not in the table: %s", words[i], output.data);
  buffer_release(&output);
}

static void assert_refused(int expected, const char *arguments, const char *words) {
  Buffer output = {0};
  assert_int_equal(run_program(&output, "bench %s", arguments), expected);
  if (!strstr(output.data, words)) fail_msg("lora bench %s does not say \"%s\": %s", arguments, words, output.data);
  buffer_release(&output);
}

// The kernels lie in the device's memory, and so do the model's.
static void a_device_is_measured(void **state) {
  (void)state;
  json_t *result = bench_json(TINY " --generation --device cuda --threads 2");
  positive(result, "prompt_tokens_per_second");
  positive(result, "peak_memory_bytes");
  assert_string_equal(json_string_value(json_object_get(result, "instruction_set")), "cuda");
  json_decref(result);
}

static void wrong_arguments_are_refused(void **state) {
  (void)state;
  assert_refused(STATUS_USAGE, "--modle x", "did you mean --model?");
  assert_refused(STATUS_USAGE, "extra", "unexpected argument \"extra\"");
  setenv("LORA_CUDA_LIBRARY", "/nowhere/liblora_cuda.so", 1);
  assert_refused(STATUS_USAGE, "--device cuda", "device cuda");
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 1);
  assert_refused(STATUS_USAGE, "--threads 0", "--threads");
  assert_refused(STATUS_BAD_INPUT, "--model ./no-such-file.gguf", "no-such-file.gguf");
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_model_has_the_fields_of_its_rates),
      cmocka_unit_test(kernels_without_a_model_are_all_there),
      cmocka_unit_test(people_get_tables),
      cmocka_unit_test(a_device_is_measured),
      cmocka_unit_test(wrong_arguments_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
