// A real model, SmolLM2-135M-Instruct in its Q4_1 GGUF: the losses of a run that transformers and PEFT made in float32 on the same
// weights, and the way from the demo's recipe to merged files that answer as base and adapter do.
#include <jansson.h>
#include <math.h>
#include <sys/wait.h>

#include "core/file.h"
#include "tests/support/test.h"

// The model's path; NULL where it cannot be had. A download that is not what is expected fails the test.
static char *fetch_model(void) {
  FILE *pipe = popen("'" SOURCE_DIR "/scripts/fetch-smollm2'", "r");
  char path[4096] = "";
  assert_non_null(pipe);
  bool got = fgets(path, sizeof path, pipe) != NULL;
  int status = pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 1) return NULL;
  assert_int_equal(status, 0);
  assert_true(got);
  path[strcspn(path, "\n")] = 0;
  return memory_copy_string(path);
}

static void assert_succeeds(int code, const Buffer *output) {
  if (code != 0) fail_msg("exit code %d: %s", code, output->data ? output->data : "");
}

// A value of a step by its name in metrics.jsonl; NaN where there is none.
static double step_value(const char *folder, int step, const char *name) {
  char *path = path_join(folder, "metrics.jsonl"), *rest = NULL;
  Buffer text = {0};
  assert_ok(file_read(&text, path, 1 << 20));
  double value = NAN;
  for (char *line = strtok_r(text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    json_t *object = json_loads(line, 0, NULL);
    const json_t *found = json_object_get(object, name);
    if (found && json_integer_value(json_object_get(object, "step")) == step) value = json_number_value(found);
    json_decref(object);
  }
  buffer_release(&text);
  free(path);
  return value;
}

// Ten steps of the reference run, with the recipe's bf16 as it is given: how far losses and gradient norms may be from PEFT's.
static void check_losses(const char *bf16, double loss_limit, double norm_limit) {
  char *golden = shared_path("golden/smollm2-gsm8k"), *model = golden ? fetch_model() : NULL;
  if (!golden) skip_test("the reference run golden/smollm2-gsm8k is not there");
  if (!model) skip_test("the model cannot be downloaded here");
  char *folder = temporary_folder(), *recipe = path_join(folder, "recipe.yml");
  char *text = memory_format(
      "base_model: %s\nadapter: qlora\nload_in_4bit: true\nlora_model_dir: %s/adapter_init\nlora_target_linear: true\n"
      "datasets: [{path: %s/rows.jsonl}]\nsequence_len: 4096\ncurriculum_sampling: true\nsample_packing: false\n"
      "micro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: 10\nlearning_rate: 2e-4\nlr_scheduler: constant\n"
      "optimizer: adamw_torch\nbf16: %s\nsave_strategy: 'no'\noutput_dir: %s/out\n",
      model, golden, golden, bf16, folder);
  assert_ok(file_write_whole(recipe, text, strlen(text)));
  Buffer output = {0};
  assert_succeeds(run_program(&output, "train %s", recipe), &output);
  char *losses = path_join(golden, "losses.json"), *out = path_join(folder, "out");
  json_t *expected = json_load_file(losses, 0, NULL);
  for (int step = 1; step <= 10; step++) {
    double loss = json_real_value(json_array_get(json_object_get(expected, "loss"), (size_t)step - 1));
    double norm = json_real_value(json_array_get(json_object_get(expected, "grad_norm"), (size_t)step - 1));
    double actual_loss = step_value(out, step, "loss"), actual_norm = step_value(out, step, "grad_norm");
    if (!(fabs(actual_loss - loss) <= loss_limit * loss)) fail_msg("step %d: loss %.7f, PEFT's is %.7f", step, actual_loss, loss);
    if (!(fabs(actual_norm - norm) <= norm_limit * norm)) fail_msg("step %d: gradient norm %.7f, PEFT's is %.7f", step, actual_norm, norm);
  }
  json_decref(expected);
  buffer_release(&output);
  assert_ok(directory_remove(folder));
  char *strings[] = {golden, model, folder, recipe, text, losses, out};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

static void the_losses_of_a_real_run_are_those_of_peft(void **state) {
  (void)state;
  check_losses("false", 1e-4, 1e-3);
}

// The reference is float32; activations rounded to bfloat16 move losses by less than a hundredth.
static void the_losses_of_a_real_run_in_bfloat16_are_near_those_of_peft(void **state) {
  (void)state;
  check_losses("full", 1e-2, 5e-2);
}

// The greedy answer to a question of the demo's kind.
static char *answer(const char *model, const char *adapter) {
  Buffer output = {0};
  assert_succeeds(
      run_program(&output, "generate --quiet --model %s %s --chat --temperature 0 --max-tokens 16 --prompt 'Who are you?'", model, adapter),
      &output);
  return output.data;
}

static void the_demo_learns_and_its_merged_files_answer_as_base_and_adapter(void **state) {
  (void)state;
  char *model = fetch_model();
  if (!model) skip_test("the model cannot be downloaded here");
  char *folder = temporary_folder();
  Buffer output = {0};
  assert_succeeds(
      run_program(&output,
                  "train '" SOURCE_DIR "/recipes/examples/smollm2-qlora.yml' --base_model %s --datasets.0.path '" SOURCE_DIR
                  "/recipes/examples/captain.jsonl' --output_dir %s/out --max_steps 8 --evals_per_epoch null --saves_per_epoch null "
                  "--eval_strategy no --save_strategy no --lr_scheduler constant --warmup_ratio 0",
                  model, folder),
      &output);
  char *out = path_join(folder, "out"), *adapter = memory_format("--adapter %s", out);
  assert_true(step_value(out, 8, "loss") < 0.85 * step_value(out, 1, "loss"));
  char *before = answer(model, ""), *after = answer(model, adapter);
  assert_string_not_equal(before, after);
  static const char *const outputs[] = {"merged.gguf", "merged"};
  for (int i = 0; i < 2; i++) {
    char *merged = path_join(folder, outputs[i]);
    output.length = 0;
    assert_succeeds(run_program(&output, "merge --model %s %s --output %s --type f32 --max-kl 1e-6", model, adapter, merged), &output);
    assert_non_null(strstr(output.data, "same best token: 100.0%"));
    char *from_merged = answer(merged, "");
    assert_string_equal(from_merged, after);
    free(from_merged);
    free(merged);
  }
  // Four bits of a small model round most of it away, which must not pass in silence.
  output.length = 0;
  assert_succeeds(run_program(&output, "merge --model %s %s --output %s/same.gguf", model, adapter, folder), &output);
  assert_non_null(strstr(output.data, "--type q8_0 is nearer"));
  buffer_release(&output);
  assert_ok(directory_remove(folder));
  char *strings[] = {model, folder, out, adapter, before, after};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_losses_of_a_real_run_are_those_of_peft),
      cmocka_unit_test(the_losses_of_a_real_run_in_bfloat16_are_near_those_of_peft),
      cmocka_unit_test(the_demo_learns_and_its_merged_files_answer_as_base_and_adapter),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
