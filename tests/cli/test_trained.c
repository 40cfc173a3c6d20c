#define _GNU_SOURCE
// `lora train` of tensors in full as a user meets it: full fine-tuning, which leaves a model; modules to save and trained tokens, for which
// a merged GGUF stands in place of the GGUF adapter; resuming, and what is refused.
#include <jansson.h>
#include <math.h>

#include "adapters/merge.h"
#include "core/file.h"
#include "tests/support/training.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";
static const char family[] = TESTS_DIR "/adapters/data/families/smollm3_nope";  // float32, its head is its embedding
static const char apart[] = TESTS_DIR "/adapters/data/families/starcoder2_window";  // with biases

// A recipe over 12 short rows of tokens below 40.
static char *write_recipe(const char *name, const char *base, const char *more) {
  free(write_token_rows(1, 38));
  char *text = memory_format(
      "base_model: %s\ndatasets:\n  - path: %s/rows.jsonl\nsequence_len: 64\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\n"
      "dataset_prepared_path: %s/prepared\nval_set_size: 2\neval_steps: 4\noutput_dir: %s/%s\n%s",
      base, test_folder, test_folder, test_folder, name, more);
  char *file = memory_format("%s.yml", name), *path = write_file(file, text);
  free(file);
  free(text);
  return path;
}

// Returns what the program said.
static char *train(const char *name, const char *base, const char *more, const char *options) {
  Buffer output = {0};
  char *recipe = write_recipe(name, base, more);
  int code = run_program(&output, "train %s %s", recipe, options);
  if (code != 0) fail_msg("exit code %d of %s: %s", code, name, output.data ? output.data : "");
  free(recipe);
  return output.data;
}

static double last_metric(const char *name, const char *key) {
  char *relative = memory_format("%s/metrics.jsonl", name), *path = path_join(test_folder, relative);
  Buffer text = {0};
  assert_ok(file_read(&text, path, 1 << 20));
  double value = NAN;
  for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *object = json_loads(line, 0, NULL), *found = json_object_get(object, key);
    if (found) value = json_number_value(found);
    json_decref(object);
  }
  buffer_release(&text);
  free(path);
  free(relative);
  return value;
}

static bool is_there(const char *relative) {
  char *path = path_join(test_folder, relative);
  bool there = file_exists(path);
  free(path);
  return there;
}

#define STEPS "max_steps: 8\nsave_steps: 4\nlearning_rate: 3e-3\noptimizer: adamw_torch\nbf16: false\n"
#define LORA "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.1\nlora_target_modules: [q_proj, o_proj]\n"

// The model's own evaluation loss, by a run over it that learns nothing.
static double loss_of_model(const char *name, const char *model) {
  char *path = path_join(test_folder, model);
  free(train(name, path, "max_steps: 1\neval_steps: 1\nlearning_rate: 0\nbf16: false\noptimizer: adamw_torch\n", ""));
  free(path);
  return last_metric(name, "eval_loss");
}

// The same of a quantised one, with an adapter that has learned nothing.
static double loss_of_merged(const char *name, const char *model) {
  char *path = path_join(test_folder, model);
  free(train(name, path, "adapter: lora\nlora_r: 1\nlora_alpha: 1\nmax_steps: 1\neval_steps: 1\nlearning_rate: 1e-30\nbf16: false\n", ""));
  free(path);
  return last_metric(name, "eval_loss");
}

static void full_fine_tuning_leaves_a_model_as_its_checkpoints_are(void **state) {
  (void)state;
  const char *bases[] = {family, apart};
  for (int i = 0; i < 2; i++) {
    char *said = train("full", bases[i], STEPS, "");
    assert_non_null(strstr(said, "all weights trained in full"));
    assert_non_null(strstr(said, "the model is in"));
    free(said);
    const char *files[] = {"full/config.json", "full/model.safetensors", "full/README.md", "full/recipe.yml",
                           "full/checkpoint-4/config.json"};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
      if (!is_there(files[f])) fail_msg("%s is missing", files[f]);
    assert_false(is_there("full/adapter_config.json") || is_there("full/adapter.gguf"));
    assert_same_file("full/model.safetensors", "full/checkpoint-8/model.safetensors");
    double first = last_metric("full", "eval_loss"), base = 0, learned = loss_of_model("again", "full");
    if (!(fabs(learned - first) <= 1e-6 * first)) fail_msg("the model's loss is %.9g, the run's was %.9g", learned, first);
    char *recipe = write_recipe("base", bases[i], "max_steps: 1\neval_steps: 1\nlearning_rate: 0\nbf16: false\n");
    Buffer output = {0};
    assert_int_equal(run_program(&output, "train %s", recipe), 0);
    base = last_metric("base", "eval_loss");
    if (!(learned < base - 0.01)) fail_msg("nothing was learned: %g after %g", learned, base);
    buffer_release(&output);
    free(recipe);
    loss_of_model("checkpoint", "full/checkpoint-4");  // a checkpoint is a model as well
    char *command = memory_format("rm -rf %s/full %s/again %s/base %s/checkpoint", test_folder, test_folder, test_folder, test_folder);
    assert_int_equal(system(command), 0);
    free(command);
  }
}

static void a_resumed_run_has_the_bits_of_one_without_a_break(void **state) {
  (void)state;
  static const struct {
    const char *base, *more, *file;
  } cases[] = {{family, STEPS, "model.safetensors"},
               {family, STEPS "gradient_checkpointing: true\nbf16: true\n", "model.safetensors"},
               {apart, STEPS LORA "lora_modules_to_save: [embed_tokens, lm_head, norm]\n", "adapter_model.safetensors"},
               {tiny, STEPS LORA "peft_trainable_token_indices: [5, 6, 31]\n", "adapter_model.safetensors"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *options = memory_format("--resume %s/broken/checkpoint-4", test_folder);
    char *whole = memory_format("whole/%s", cases[i].file), *broken = memory_format("broken/%s", cases[i].file);
    free(train("whole", cases[i].base, cases[i].more, ""));
    free(train("broken", cases[i].base, cases[i].more, ""));
    free(train("broken", cases[i].base, cases[i].more, options));
    assert_same_file(whole, broken);
    assert_true(last_metric("whole", "loss") == last_metric("broken", "loss"));
    free(options), free(whole), free(broken);
  }
}

// Decay is a matter of matrices: norms and biases come out as without it.
static void weight_decay_leaves_norms_and_biases_alone(void **state) {
  (void)state;
  free(train("decayed", apart, STEPS "weight_decay: 1\nmax_steps: 1\nsave_steps: 1\n", ""));
  free(train("plain", apart, STEPS "max_steps: 1\nsave_steps: 1\n", ""));
  char *path = path_join(test_folder, "decayed/model.safetensors"), *base = path_join(test_folder, "plain/model.safetensors");
  Safetensors after, before;
  assert_ok(safetensors_open(&after, path));
  assert_ok(safetensors_open(&before, base));
  int vectors = 0, matrices = 0;
  for (int64_t i = 0; i < before.tensor_count; i++) {
    const SafetensorsTensor *a = &before.tensors[i], *b = safetensors_find(&after, a->name);
    assert_non_null(b);
    bool is_same = memcmp(a->data, b->data, a->bytes) == 0;
    if (is_same != (a->dimensions == 1)) fail_msg("%s %s", a->name, is_same ? "is as it was" : "was changed");
    *(a->dimensions == 1 ? &vectors : &matrices) += 1;
  }
  assert_true(vectors > 0 && matrices > 0);
  safetensors_close(&after);
  safetensors_close(&before);
  free(path), free(base);
}

// What no GGUF adapter can hold goes into a merged GGUF, which the log and the card name.
static void saved_modules_and_tokens_leave_a_merged_gguf(void **state) {
  (void)state;
  const char *kinds[] = {"lora_modules_to_save: [embed_tokens, lm_head]\n", "peft_trainable_token_indices: [5, 6, 31]\n"};
  for (int i = 0; i < 2; i++) {
    char *more = memory_format(STEPS LORA "%s", kinds[i]), *said = train("saved", family, more, "");
    assert_non_null(strstr(said, "merged.gguf is written in place of it"));
    assert_non_null(strstr(said, i ? "3 tokens' embeddings trained" : "2 tensors trained in full"));
    assert_false(is_there("saved/adapter.gguf"));
    double trained = last_metric("saved", "eval_loss"), merged = loss_of_model("again", "saved/merged.gguf");
    if (!(fabs(merged - trained) <= 1e-5 * trained)) fail_msg("the merged model's loss is %.9g, the run's was %.9g", merged, trained);
    Buffer card = {0};
    char *path = path_join(test_folder, "saved/README.md");
    assert_ok(file_read(&card, path, 1 << 20));
    assert_non_null(strstr(card.data, "merged.gguf"));
    assert_null(strstr(card.data, "adapter.gguf"));
    buffer_release(&card);
    free(path), free(said), free(more);
  }
  // Over quantised weights the merged file has their types, with their rounding.
  free(train("quantised", tiny, STEPS LORA "lora_modules_to_save: [embed_tokens, lm_head, input_layernorm, v_proj]\n", ""));
  double trained = last_metric("quantised", "eval_loss"), merged = loss_of_merged("again", "quantised/merged.gguf");
  if (!(fabs(merged - trained) <= 0.02 * trained)) fail_msg("the merged model's loss is %.9g, the run's was %.9g", merged, trained);
  // Training goes on from such an adapter where it was.
  char *more =
      memory_format(STEPS "adapter: lora\nlora_model_dir: %s/quantised\nlearning_rate: 1e-30\nmax_steps: 1\neval_steps: 1\n", test_folder);
  char *said = train("further", tiny, more, "");
  assert_non_null(strstr(said, "tensors trained in full"));
  double further = last_metric("further", "eval_loss");
  if (!(fabs(further - trained) <= 1e-6 * trained)) fail_msg("it goes on at %.9g, where the run ended at %.9g", further, trained);
  free(said), free(more);
  // Without them the adapter is there again, in both formats.
  free(train("saved", family, STEPS LORA, ""));
  assert_true(is_there("saved/adapter.gguf"));
}

static void float_ggufs_are_tuned_in_full_and_quantised_ones_refused(void **state) {
  (void)state;
  Backend *backend;
  Model *model;
  MergeReport report;
  const Quantization *f32;
  char *path = path_join(test_folder, "base.gguf");
  assert_ok(quantization_parse(&f32, "f32"));
  assert_ok(backend_new(&backend, "cpu", 1));
  assert_ok(model_open(&model, apart, (ModelOptions){0}, backend));
  assert_ok(merge_write_gguf(&report, model, path, (MergeOptions){.type = f32}));
  model_close(model);
  backend_free(backend);
  free(train("gguf", path, STEPS, ""));
  free(train("folder", apart, STEPS, ""));
  double a = last_metric("gguf", "eval_loss"), b = last_metric("folder", "eval_loss"), again = loss_of_model("again", "gguf");
  if (!(fabs(a - b) <= 1e-5 * b)) fail_msg("%.9g from GGUF, %.9g from the folder", a, b);
  if (!(fabs(a - again) <= 1e-6 * a)) fail_msg("the model's loss is %.9g, the run's was %.9g", again, a);
  free(path);
  Buffer output = {0};
  char *recipe = write_recipe("quantised", TESTS_DIR "/data/tiny.gguf", STEPS);
  int code = run_program(&output, "train %s", recipe);
  if (code != 2 || !strstr(output.data, "quantised") || !strstr(output.data, "qlora")) fail_msg("exit code %d: %s", code, output.data);
  buffer_release(&output);
  free(recipe);
}

static void inspect_tells_what_was_trained_in_full_and_export_what_gguf_cannot_hold(void **state) {
  (void)state;
  static const struct {
    const char *name, *base;
    size_t pairs, in_full;
  } cases[] = {
      {"modules_tied", "gemma2_scalar", 3, 17}, {"lora_vocabulary_tied", "phi3_partial", 5, 0}, {"tokens_tied", "gemma2_scalar", 6, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Buffer output = {0};
    assert_int_equal(run_program(&output, "inspect --json %s/adapters/data/trained/%s", TESTS_DIR, cases[i].name), 0);
    json_t *report = json_loads(output.data, 0, NULL), *adapter = json_object_get(report, "adapter");
    assert_int_equal(json_array_size(json_object_get(adapter, "pairs")), cases[i].pairs);
    assert_int_equal(json_array_size(json_object_get(adapter, "in_full")), cases[i].in_full);
    json_decref(report);
    output.length = 0;
    int code = run_program(&output, "export --model %s/adapters/data/families/%s --adapter %s/adapters/data/trained/%s --output %s/a.gguf",
                           TESTS_DIR, cases[i].base, TESTS_DIR, cases[i].name, test_folder);
    if (code != 2 || !strstr(output.data, "lora merge")) fail_msg("exit code %d: %s", code, output.data);
    buffer_release(&output);
  }
}

// A vocabulary that grows by two tokens, in each way in which they can be trained: what was written, opened again, has them and the loss.
static void new_tokens_are_trained_and_go_with_what_is_written(void **state) {
  (void)state;
  static const char *const kinds[] = {"lora_modules_to_save: [embed_tokens, lm_head]\n" LORA,
                                      "peft_trainable_token_indices: [768, 769]\n" LORA, ""};
  const char base[] = TESTS_DIR "/data/tiny-hf";
  Buffer rows = {0};
  for (int i = 0; i < 14; i++) buffer_format(&rows, "{\"text\": \"Once upon a time<|tool|>there were %d <extra> cats.\"}\n", i);
  free(write_file("texts.jsonl", rows.data));
  buffer_release(&rows);
  for (int i = 0; i < 3; i++) {
    const char *name = kinds[i][0] ? "tokens" : "whole";
    char *data = memory_format("datasets:\n  - path: %s/texts.jsonl\n    type: completion\n", test_folder);
    char *more = memory_format("%s%s" STEPS "tokens: ['<|tool|>', '<extra>', '<|im_start|>']\n", data, kinds[i]);
    free(train(name, base, more, ""));
    double trained = last_metric(name, "eval_loss");
    // Without an adapter output_dir is the model; else the merged GGUF is one, which this run reads beside the same texts.
    char *model = memory_format("%s/%s%s", test_folder, name, kinds[i][0] ? "/merged.gguf" : "");
    char *evaluation = memory_format("%smax_steps: 1\neval_steps: 1\nlearning_rate: 1e-30\nbf16: false\n%s", data,
                                     kinds[i][0] ? "adapter: lora\nlora_r: 1\nlora_alpha: 1\n" : "");
    free(train("again", model, evaluation, ""));
    double again = last_metric("again", "eval_loss");  // weights of bfloat16, as the base's
    if (!(fabs(again - trained) <= 2e-3 * trained)) fail_msg("kind %d: the model's loss is %.9g, the run's was %.9g", i, again, trained);
    Buffer output = {0};
    assert_int_equal(run_program(&output, "tokenize --model %s --text 'a<|tool|>b<extra>'", model), 0);
    if (!strstr(output.data, "768") || !strstr(output.data, "769")) fail_msg("the new tokens are not in %s", output.data);
    if (kinds[i][0]) {
      output.length = 0;
      int code = run_program(&output, "generate --model %s --adapter %s/%s/checkpoint-4 --prompt 'Once<|tool|>' --max-tokens 2", base,
                             test_folder, name);
      if (code != 0 || !strstr(output.data, "2 prompt tokens")) fail_msg("exit code %d: %s", code, output.data);
    }
    buffer_release(&output);
    free(data), free(more), free(model), free(evaluation);
  }
}

static void overridden_tokens_go_with_the_adapter(void **state) {
  (void)state;
  const char base[] = TESTS_DIR "/data/tiny-hf";
  free(train("named", base, STEPS LORA "added_tokens_overrides: {0: '<|call|>'}\npeft_trainable_token_indices: [0]\n", ""));
  Buffer output = {0};
  int code = run_program(&output, "generate --model %s --adapter %s/named --prompt 'Once<|call|>' --max-tokens 2", base, test_folder);
  if (code != 0 || !strstr(output.data, "2 prompt tokens")) fail_msg("exit code %d: %s", code, output.data);
  output.length = 0;
  assert_int_equal(run_program(&output, "tokenize --model %s/named/merged.gguf --text 'Once<|call|>'", test_folder), 0);
  if (!strstr(output.data, "472 0")) fail_msg("not one token: %s", output.data);
  buffer_release(&output);
}

static void new_tokens_need_a_folder_and_floats(void **state) {
  (void)state;
  static const char more[] = STEPS LORA "lora_modules_to_save: [embed_tokens, lm_head]\ntokens: ['<|tool|>']\n";
  Buffer output = {0};
  char *recipe = write_recipe("gguf", tiny, more);
  int code = run_program(&output, "train %s", recipe);
  if (code != 2 || !strstr(output.data, "tokens") || !strstr(output.data, "tokenizer.json"))
    fail_msg("exit code %d: %s", code, output.data);
  buffer_release(&output);
  free(recipe);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(full_fine_tuning_leaves_a_model_as_its_checkpoints_are),
      unit_test_in_folder(a_resumed_run_has_the_bits_of_one_without_a_break),
      unit_test_in_folder(weight_decay_leaves_norms_and_biases_alone),
      unit_test_in_folder(saved_modules_and_tokens_leave_a_merged_gguf),
      unit_test_in_folder(inspect_tells_what_was_trained_in_full_and_export_what_gguf_cannot_hold),
      unit_test_in_folder(new_tokens_are_trained_and_go_with_what_is_written),
      unit_test_in_folder(overridden_tokens_go_with_the_adapter),
      unit_test_in_folder(new_tokens_need_a_folder_and_floats),
      unit_test_in_folder(float_ggufs_are_tuned_in_full_and_quantised_ones_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
