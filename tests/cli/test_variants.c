#define _GNU_SOURCE
// Variants of LoRA as a user trains them: what a run leaves, and that resuming one gives the bits of an uninterrupted run.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/training.h"

static const char tiny[] = TESTS_DIR "/data/tiny-hf";

// A recipe over 12 short rows of tokens; its output is in NAME.
static char *write_recipe(const char *name, const char *more) {
  free(write_token_rows(260, 200));
  char *text = memory_format(
      "base_model: %s\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.1\nlora_target_linear: true\ndatasets:\n  - path: %s/rows.jsonl\n"
      "sequence_len: 64\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: 6\nsave_steps: 3\nlearning_rate: 1e-2\nbf16: "
      "false\nval_set_size: 2\neval_steps: 3\ndataset_prepared_path: %s/prepared\noutput_dir: %s/%s\n%s",
      tiny, test_folder, test_folder, test_folder, name, more);
  char *file = memory_format("%s.yml", name), *path = write_file(file, text);
  free(file);
  free(text);
  return path;
}

static void run(Buffer *output, int expected, const char *command) {
  output->length = 0;
  int code = run_program(output, "%s", command);
  if (code != expected) fail_msg("exit code %d of %s: %s", code, command, output->data ? output->data : "");
}

static bool is_there(const char *relative) {
  char *path = path_join(test_folder, relative);
  bool there = file_exists(path);
  free(path);
  return there;
}

static double metric(const char *name, const char *key, bool is_last) {
  char *relative = memory_format("%s/metrics.jsonl", name), *sought = memory_format("\"%s\": ", key);
  Buffer metrics = {0};
  double value = NAN;
  read_whole(&metrics, relative);
  for (const char *found = metrics.data; (found = strstr(found, sought)); found++)
    if (is_last || isnan(value)) value = strtod(found + strlen(sought), NULL);
  buffer_release(&metrics);
  free(relative);
  free(sought);
  return value;
}

// Trains, takes the last checkpoint away, and resumes from the one before.
static void check_resuming(const char *name, const char *more, const char *notice) {
  char *recipe = write_recipe(name, more), *train = memory_format("train %s", recipe), *resume = memory_format("train %s --resume", recipe);
  Buffer output = {0}, first = {0}, second = {0};
  run(&output, 0, train);
  if (notice && !strstr(output.data, notice)) fail_msg("%s: no \"%s\" in: %s", name, notice, output.data);
  char *adapter = memory_format("%s/adapter_model.safetensors", name), *last = memory_format("%s/%s/checkpoint-6", test_folder, name);
  read_whole(&first, adapter);
  double before = metric(name, "loss", false), after = metric(name, "loss", true);
  if (!(after < 0.9 * before)) fail_msg("%s: loss %g at first, %g at last", name, before, after);
  assert_ok(directory_remove(last));
  run(&output, 0, resume);
  read_whole(&second, adapter);
  assert_int_equal(first.length, second.length);
  assert_memory_equal(first.data, second.data, first.length);
  buffer_release(&output);
  buffer_release(&first);
  buffer_release(&second);
  free(recipe);
  free(train);
  free(resume);
  free(adapter);
  free(last);
}

static void runs_of_every_variant_resume_exactly(void **state) {
  (void)state;
  check_resuming("dora", "adapter: lora\npeft_use_dora: true\n", "merged.gguf is written in place of it");
  check_resuming("pissa", "adapter: lora\npeft_init_lora_weights: pissa_niter_4\n", NULL);
  check_resuming("qpissa", "adapter: qlora\nload_in_4bit: true\npeft_init_lora_weights: pissa\npeft_use_dora: true\n",
                 "on quantised weights");
  check_resuming("loftq", "adapter: qlora\nload_in_4bit: true\npeft: {loftq_config: {loftq_bits: 4}}\n", NULL);
  check_resuming("eight", "adapter: lora\nload_in_8bit: true\npeft_init_lora_weights: olora\n", "Q8_0");
  check_resuming("patterns",
                 "adapter: lora\nlora_rank_pattern: {q_proj: 2, '.*1.mlp.up_proj': 8}\nlora_alpha_pattern: {down_proj: 3}\n"
                 "peft_layers_to_transform: [1, 2]\npeft_layers_pattern: layers\npeft_use_rslora: true\n",
                 "14 of 21 linear layers adapted");
}

static void a_dora_run_leaves_a_merged_model_in_place_of_a_gguf_adapter(void **state) {
  (void)state;
  char *recipe = write_recipe("out", "adapter: lora\npeft_use_dora: true\n"), *train = memory_format("train %s", recipe);
  Buffer output = {0}, card = {0};
  run(&output, 0, train);
  assert_true(is_there("out/adapter_model.safetensors") && is_there("out/merged.gguf"));
  assert_false(is_there("out/adapter.gguf"));
  read_whole(&card, "out/README.md");
  assert_non_null(strstr(card.data, "0.1, DoRA |"));
  assert_null(strstr(card.data, "adapter.gguf"));
  // The merged file is base and adapter.
  char *adapted =
      memory_format("perplexity --model %s --adapter %s/out --text %s/data.txt --context 16 --json", tiny, test_folder, test_folder);
  char *merged = memory_format("perplexity --model %s/out/merged.gguf --text %s/data.txt --context 16 --json", test_folder, test_folder);
  char *export = memory_format("export --model %s --adapter %s/out --output %s/x.gguf", tiny, test_folder, test_folder);
  char *inspect = memory_format("inspect %s/out", test_folder);
  free(write_file("data.txt", "A ship sails north. The captain looks at the sea and says nothing for a while, as the wind is good.\n"));
  const char *const commands[] = {adapted, merged};
  double values[2];
  for (int i = 0; i < 2; i++) {
    run(&output, 0, commands[i]);
    json_t *json = json_loads(strchr(output.data, '{'), JSON_DISABLE_EOF_CHECK, NULL);
    values[i] = json_number_value(json_object_get(json, "perplexity"));
    json_decref(json);
  }
  if (!(values[0] > 1 && fabs(values[1] - values[0]) < 0.02 * values[0])) fail_msg("%g and %g", values[0], values[1]);
  run(&output, 2, export);
  assert_non_null(strstr(output.data, "`lora merge` writes it"));
  run(&output, 0, inspect);
  buffer_release(&output);
  buffer_release(&card);
  free(recipe);
  free(train);
  free(adapted);
  free(merged);
  free(export);
  free(inspect);
}

// DPO's first loss is ln 2 where the reference is what the policy starts as. Where the start is the base, the reference is the base, and
// the rest of PiSSA's weights is rounded to bfloat16.
static void preference_training_begins_at_its_reference_whatever_the_start(void **state) {
  (void)state;
  static const struct {
    const char *lines;
    double limit;
  } cases[] = {{"adapter: lora\n", 0},
               {"adapter: lora\npeft_use_dora: true\n", 1e-4},
               {"adapter: lora\npeft_init_lora_weights: false\n", 0},
               {"adapter: lora\npeft_init_lora_weights: pissa\n", 1e-2},
               {"adapter: qlora\nload_in_4bit: true\npeft_init_lora_weights: pissa\n", 0},
               {"adapter: qlora\nload_in_4bit: true\npeft_init_lora_weights: loftq\npeft_use_dora: true\n", 0}};
  Buffer output = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *more = memory_format("%srl: dpo\nrl_beta: 1\n", cases[i].lines), *recipe = write_recipe("pairs", more);
    char *train = memory_format("train %s", recipe);
    Buffer rows = {0};
    for (int row = 0; row < 12; row++)
      buffer_format(&rows, "{\"prompt_input_ids\": [300, %d], \"chosen_input_ids\": [%d, 280, 9], \"rejected_input_ids\": [%d, 9]}\n",
                    301 + row, 320 + row, 330 - row);
    free(write_file("rows.jsonl", rows.data));
    run(&output, 0, train);
    double first = metric("pairs", "loss", false), last = metric("pairs", "loss", true);
    if (!(fabs(first - log(2)) <= cases[i].limit + 1e-6)) fail_msg("%s: the first loss is %.9g", cases[i].lines, first);
    assert_true(last < first);
    buffer_release(&rows);
    free(more), free(recipe), free(train);
  }
  buffer_release(&output);
}

static void what_cannot_start_so_is_refused(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"adapter: lora\npeft_init_lora_weights: eva\n", "eva needs passes over the data"},
      {"adapter: lora\npeft_init_lora_weights: loftq\n", "set load_in_4bit: true"},
      {"adapter: qlora\nload_in_4bit: true\npeft: {loftq_config: {loftq_bits: 8}}\n", "loftq_bits: 8 is not built"},
      {"adapter: lora\npeft_layers_to_transform: [3]\n", "there is no layer 3"},
      {"adapter: lora\npeft_use_dora: true\nlora_target_modules: [lm_head]\n", "lm_head can have no magnitudes"},
      {"adapter: lora\nlora_rank_pattern: {q_prj: 2}\n", "'q_prj' names no module"},
  };
  Buffer output = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *recipe = write_recipe("refused", cases[i][0]), *train = memory_format("train %s", recipe);
    run(&output, 2, train);
    if (!strstr(output.data, cases[i][1])) fail_msg("no \"%s\" in: %s", cases[i][1], output.data);
    free(recipe);
    free(train);
  }
  buffer_release(&output);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(runs_of_every_variant_resume_exactly),
      unit_test_in_folder(a_dora_run_leaves_a_merged_model_in_place_of_a_gguf_adapter),
      unit_test_in_folder(preference_training_begins_at_its_reference_whatever_the_start),
      unit_test_in_folder(what_cannot_start_so_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
