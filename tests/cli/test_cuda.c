#define _GNU_SOURCE
// The program on a CUDA device as a user meets it, on the simulated one: training beside the CPU's, exact resumption, float16, offloading,
// generation, and what it says when memory does not suffice.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/training.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";

// A recipe over 12 short rows of tokens.
static char *write_recipe(const char *name, const char *more) {
  free(write_token_rows(260, 200));
  char *text = memory_format(
      "base_model: %s\nadapter: qlora\nload_in_4bit: true\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.1\nlora_target_linear: true\n"
      "datasets:\n  - path: %s/rows.jsonl\nsequence_len: 64\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: 6\n"
      "save_steps: 3\nlearning_rate: 1e-2\nval_set_size: 2\neval_steps: 3\noutput_dir: %s/%s\n%s",
      tiny, test_folder, test_folder, name, more);
  char *file = memory_format("%s.yml", name), *path = write_file(file, text);
  free(file);
  free(text);
  return path;
}

static void run_well(Buffer *output, const char *command) {
  output->length = 0;
  int code = run_program(output, "%s", command);
  if (code != 0) fail_msg("exit code %d of %s: %s", code, command, output->data ? output->data : "");
}

static void train(const char *name, const char *more) {
  Buffer output = {0};
  char *recipe = write_recipe(name, more), *command = memory_format("train %s", recipe);
  run_well(&output, command);
  buffer_release(&output);
  free(recipe);
  free(command);
}

// The values of `key` in a run's metrics.jsonl; returns how many there are.
static int read_metrics(double *values, int most, const char *name, const char *key) {
  char *relative = memory_format("%s/metrics.jsonl", name), *path = path_join(test_folder, relative);
  Buffer text = {0};
  assert_ok(file_read(&text, path, 1 << 20));
  int count = 0;
  for (char *line = strtok(text.data, "\n"); line && count < most; line = strtok(NULL, "\n")) {
    json_t *object = json_loads(line, 0, NULL), *value = json_object_get(object, key);
    if (value) values[count++] = json_number_value(value);
    json_decref(object);
  }
  buffer_release(&text);
  free(path);
  free(relative);
  return count;
}

static void compare_metrics(const char *a, const char *b, const char *key, double tolerance) {
  double first[16], second[16];
  int count = read_metrics(first, 16, a, key);
  assert_true(count > 0);
  assert_int_equal(count, read_metrics(second, 16, b, key));
  for (int i = 0; i < count; i++)
    if (!(fabs(first[i] - second[i]) <= tolerance * fabs(first[i])))
      fail_msg("%s %d is %.9g in %s and %.9g in %s", key, i, first[i], a, second[i], b);
}

static void assert_same_adapter(const char *a, const char *b) {
  char *first = memory_format("%s/adapter_model.safetensors", a), *second = memory_format("%s/adapter_model.safetensors", b);
  assert_same_file(first, second);
  free(first);
  free(second);
}

static void training_has_the_losses_of_the_cpu(void **state) {
  (void)state;
  train("cpu", "bf16: false\n");
  train("cuda", "bf16: false\ndevice: cuda\nexport: {gguf: [q8_0]}\n");
  compare_metrics("cpu", "cuda", "loss", 1e-4);
  compare_metrics("cpu", "cuda", "eval_loss", 1e-4);
  compare_metrics("cpu", "cuda", "grad_norm", 1e-3);
  char *merged = path_join(test_folder, "cuda/merged-q8_0.gguf");
  assert_true(file_exists(merged));
  free(merged);
}

static void a_resumed_run_has_the_bits_of_one_without_a_break(void **state) {
  (void)state;
  train("whole", "device: cuda\nbf16: true\noptimizer: adamw_8bit\n");
  Buffer output = {0};
  char *recipe = write_recipe("broken", "device: cuda\nbf16: true\noptimizer: adamw_8bit\n");
  char *command = memory_format("train %s", recipe);
  run_well(&output, command);
  free(command);
  command = memory_format("train %s --resume %s/broken/checkpoint-3", recipe, test_folder);
  run_well(&output, command);
  assert_same_adapter("whole", "broken");
  buffer_release(&output);
  free(command);
  free(recipe);
}

// Full fine-tuning of a small model in float32, over rows of its own tokens.
static void train_all(const char *name, const char *more, const char *options) {
  free(write_file("own.jsonl",
                  "{\"input_ids\": [3, 9, 27, 5, 15, 6, 18], \"labels\": [-100, 9, 27, 5, 15, 6, 18]}\n"
                  "{\"input_ids\": [1, 2, 4, 8, 16, 32, 7, 14], \"labels\": [1, 2, 4, 8, 16, 32, 7, 14]}\n"
                  "{\"input_ids\": [30, 20, 10], \"labels\": [30, 20, 10]}\n"));
  char *text = memory_format(
      "base_model: %s/adapters/data/families/gemma2_scalar\ndatasets:\n  - path: %s/own.jsonl\nsequence_len: 64\nmicro_batch_size: 2\n"
      "gradient_accumulation_steps: 2\nmax_steps: 6\nsave_steps: 3\nlearning_rate: 1e-3\noutput_dir: %s/%s\n%s",
      TESTS_DIR, test_folder, test_folder, name, more);
  free(write_file("all.yml", text));
  Buffer output = {0};
  char *command = memory_format("train %s/all.yml %s", test_folder, options);
  run_well(&output, command);
  buffer_release(&output);
  free(command);
  free(text);
}

static void full_fine_tuning_has_the_losses_of_the_cpu_and_resumes_exactly(void **state) {
  (void)state;
  train_all("cpu", "bf16: false\n", "");
  train_all("cuda", "bf16: false\ndevice: cuda\n", "");
  compare_metrics("cpu", "cuda", "loss", 1e-5);
  compare_metrics("cpu", "cuda", "grad_norm", 1e-4);
  train_all("short", "bf16: true\ndevice: cuda\n", "");
  compare_metrics("cpu", "short", "loss", 2e-2);
  char *resume = memory_format("--resume %s/broken/checkpoint-3", test_folder);
  train_all("broken", "bf16: true\ndevice: cuda\n", "");
  train_all("broken", "bf16: true\ndevice: cuda\n", resume);
  assert_same_file("short/model.safetensors", "broken/model.safetensors");
  free(resume);
}

static void float16_trains_with_a_scaled_loss(void **state) {
  (void)state;
  train("exact", "bf16: false\ndevice: cuda\nlora_dropout: 0\n");
  train("half", "fp16: true\ndevice: cuda\nlora_dropout: 0\n");
  compare_metrics("exact", "half", "loss", 2e-2);
}

static void offloaded_activations_change_no_bit(void **state) {
  (void)state;
  train("kept", "device: cuda\nbf16: true\ngradient_checkpointing: true\n");
  train("moved", "device: cuda\nbf16: true\ngradient_checkpointing: offload\n");
  assert_same_adapter("kept", "moved");
}

static void generation_is_that_of_the_cpu(void **state) {
  (void)state;
  Buffer texts[2] = {{0}, {0}};
  const char *devices[] = {"cpu", "cuda"};
  for (int i = 0; i < 2; i++) {
    char *command =
        memory_format("generate --model %s --prompt 'Once upon a' --max-tokens 12 --temperature 0 --quiet --device %s", tiny, devices[i]);
    run_well(&texts[i], command);
    free(command);
  }
  assert_string_equal(texts[0].data, texts[1].data);
  for (int i = 0; i < 2; i++) buffer_release(&texts[i]);
}

// Perplexity and a task of one's own rows.
static void evaluation_is_that_of_the_cpu(void **state) {
  (void)state;
  char *text =
      write_file("text.txt", "The capital of France is Paris. The capital of Italy is Rome. What is the capital of Spain? Nobody knows.\n");
  char *rows = write_file("own.jsonl",
                          "{\"query\": \"The capital of France is\", \"choices\": [\"Paris\", \"Rome\", \"blue\"], \"gold\": 0}\n"
                          "{\"query\": \"The capital of Italy is\", \"choices\": [\"Paris\", \"Rome\"], \"gold\": 1}\n");
  double perplexities[2], accuracies[2];
  for (int i = 0; i < 2; i++) {
    const char *device = i ? "cuda" : "cpu";
    Buffer output = {0};
    char *command = memory_format("perplexity --quiet --json --device %s --model %s --text %s --context 16", device, tiny, text);
    run_well(&output, command);
    json_t *result = json_loads(output.data, JSON_DISABLE_EOF_CHECK, NULL);
    perplexities[i] = json_number_value(json_object_get(result, "perplexity"));
    json_decref(result);
    free(command);
    command = memory_format("eval --quiet --json --deterministic --device %s --model %s --tasks %s", device, tiny, rows);
    run_well(&output, command);
    result = json_loads(output.data, JSON_DISABLE_EOF_CHECK, NULL);
    accuracies[i] = json_number_value(json_object_get(json_object_get(json_object_get(result, "results"), rows), "acc"));
    json_decref(result);
    free(command);
    buffer_release(&output);
  }
  assert_true(perplexities[0] > 1);
  assert_float_equal(perplexities[1] / perplexities[0], 1, 1e-4);
  assert_true(accuracies[0] == 1 && accuracies[1] == 1);
  free(text);
  free(rows);
}

static void too_little_memory_is_told_before_the_first_step(void **state) {
  (void)state;
  Buffer output = {0};
  char *recipe = write_recipe("small", "device: cuda\n");
  setenv("LORA_SIMULATED_MEMORY", "300000", 1);
  int code = run_program(&output, "train %s", recipe);
  unsetenv("LORA_SIMULATED_MEMORY");
  if (code != 4 || !strstr(output.data, "cuda:0") || !strstr(output.data, "memory"))
    fail_msg("exit code %d: %s", code, output.data ? output.data : "");
  buffer_release(&output);
  free(recipe);
}

static void a_device_that_is_not_there_is_told(void **state) {
  (void)state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "generate --model %s --prompt x --device cuda:7", tiny), 2);
  assert_non_null(strstr(output.data, "cuda:7"));
  buffer_release(&output);
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(training_has_the_losses_of_the_cpu),
      unit_test_in_folder(a_resumed_run_has_the_bits_of_one_without_a_break),
      unit_test_in_folder(full_fine_tuning_has_the_losses_of_the_cpu_and_resumes_exactly),
      unit_test_in_folder(float16_trains_with_a_scaled_loss),
      unit_test_in_folder(offloaded_activations_change_no_bit),
      unit_test_in_folder(generation_is_that_of_the_cpu),
      unit_test_in_folder(evaluation_is_that_of_the_cpu),
      unit_test_in_folder(too_little_memory_is_told_before_the_first_step),
      unit_test_in_folder(a_device_that_is_not_there_is_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
