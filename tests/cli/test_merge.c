// `lora merge` and `lora export` as a user runs them.
#include <jansson.h>
#include <unistd.h>

#include "adapters/adapter.h"
#include "core/file.h"
#include "tests/support/test.h"

static const char tiny_gguf[] = TESTS_DIR "/data/tiny.gguf", tiny_folder[] = TESTS_DIR "/data/tiny-hf";

// A folder with an adapter of tiny.gguf as training leaves it, B random.
static int make_run(void **state) {
  char *folder = temporary_folder(), *run = path_join(folder, "run");
  Backend *backend;
  Model *model;
  Adapter *adapter;
  AdapterSettings settings = {.rank = 4, .alpha = 8, .all_linear = true, .seed = 3};
  if (backend_new(&backend, NULL, 1) != STATUS_OK || model_open(&model, tiny_gguf, (ModelOptions){0}, backend) != STATUS_OK) return 1;
  if (adapter_create(&adapter, model, &settings) != STATUS_OK) return 1;
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  for (int i = 0; i < adapter->count; i++) fill_normal(adapter->pairs[i].b.data, adapter->pairs[i].b.rows * 4, 0.02, &rng);
  Status status = adapter_save_peft(adapter, run, tiny_gguf);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  free(run);
  *state = folder;
  return status;
}

static int remove_run(void **state) {
  (void)directory_remove(*state);
  free(*state);
  return 0;
}

static void assert_says(const Buffer *output, const char *words) {
  if (!strstr(output->data, words)) fail_msg("\"%s\" is not in: %s", words, output->data);
}

// A recipe.yml and its data beside the adapter, as after training.
static void add_recipe(const char *folder, const char *data) {
  char *rows = path_join(folder, "rows.jsonl"), *recipe = path_join(folder, "run/recipe.yml");
  assert_ok(file_write_whole(rows, data, strlen(data)));
  char *text = memory_format(
      "base_model: gone.gguf\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\ndatasets:\n  - path: %s\n    type: "
      "alpaca\n"
      "sequence_len: 256\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\nnum_epochs: 1\nlearning_rate: 0.0001\noutput_dir: out\n",
      rows);
  assert_ok(file_write_whole(recipe, text, strlen(text)));
  free(text);
  free(rows);
  free(recipe);
}

static const char row[] =
    "{\"instruction\": \"Name the capital of France.\", \"input\": \"\", \"output\": \"Paris is the capital of France.\"}\n";

static void merge_says_why_it_did_not_measure(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run --output %s/a.gguf", tiny_gguf, folder, folder), 0);
  assert_says(&output, "21 of them adapted, mostly q4_1");
  assert_says(&output, "not measured: there is no recipe.yml");
  output.length = 0;
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run --output %s/a.gguf --max-kl 1", tiny_gguf, folder, folder), 1);
  assert_says(&output, "--max-kl 1: not measured");
  buffer_release(&output);
}

static void merge_measures_on_the_training_data(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  add_recipe(folder, row);
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run --output %s/b.gguf --type f32", tiny_gguf, folder, folder), 0);
  assert_says(&output, "mean KL divergence from base + adapter: ");
  assert_says(&output, "recipe.yml");
  assert_says(&output, "same best token: 100.0%");
  buffer_release(&output);
}

static double measured(const char *folder, const char *type, int *status, const char *more) {
  Buffer output = {0};
  *status = run_program(&output,
                        "merge --model %s --adapter %s/run --output %s/c.gguf --type %s --text %s/tools/tiny_corpus.txt --json --quiet %s",
                        tiny_gguf, folder, folder, type, TESTS_DIR, more);
  json_error_t error;
  json_t *root = json_loads(output.data, JSON_DISABLE_EOF_CHECK, &error);
  if (!root) fail_msg("no JSON: %s", output.data);
  assert_string_equal(json_string_value(json_object_get(root, "type")), type);
  assert_true(json_integer_value(json_object_get(root, "kl_tokens")) > 1000);
  assert_true(json_integer_value(json_object_get(root, "kl_tokens")) <= 4096);
  assert_true(json_is_real(json_object_get(root, "kl_divergence")));
  double kl = json_real_value(json_object_get(root, "kl_divergence"));
  json_decref(root);
  buffer_release(&output);
  return kl;
}

static void more_bits_are_nearer_and_max_kl_draws_the_line(void **state) {
  int status;
  double f32 = measured(*state, "f32", &status, "--max-kl 1e-6"), q8, q4;
  assert_int_equal(status, 0);
  q8 = measured(*state, "q8_0", &status, "");
  q4 = measured(*state, "q4_0", &status, "--max-kl 1e-9");
  assert_int_equal(status, 1);
  assert_true(f32 < q8 && q8 < q4);
  char *path = path_join(*state, "c.gguf");
  assert_true(file_exists(path));  // a file above the line stays
  free(path);
}

static void a_scale_behind_a_colon_scales_the_adapter(void **state) {
  const char *folder = *state;
  char *none = path_join(folder, "none.gguf");
  Buffer output = {0};
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run:0 --output %s --type f32", tiny_folder, folder, none), 0);
  assert_int_equal(
      run_program(&output, "merge --model %s --adapter %s/run:2 --output %s/twice.gguf --type f32", tiny_folder, folder, folder), 0);
  Backend *backend;
  Model *base, *scaled;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_ok(model_open(&base, tiny_folder, (ModelOptions){0}, backend));
  assert_ok(model_open(&scaled, none, (ModelOptions){0}, backend));
  const Matrix *before = &base->layers[0].down.weight, *after = &scaled->layers[0].down.weight;
  float *row_before = memory_new((size_t)before->columns, sizeof *row_before);
  matrix_dequantize(row_before, before, 1, 0, before->columns);
  assert_memory_equal(row_before, (const float *)after->data + before->columns, (size_t)before->columns * sizeof(float));
  free(row_before);
  model_close(base);
  model_close(scaled);
  backend_free(backend);
  free(none);
  buffer_release(&output);
}

static void export_goes_from_peft_to_gguf_and_back(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "export --model %s --adapter %s/run --output %s/x.gguf", tiny_gguf, folder, folder), 0);
  assert_says(&output, "a GGUF adapter of 21 layers");
  assert_int_equal(run_program(&output, "export --model %s --adapter %s/x.gguf --output %s/back", tiny_gguf, folder, folder), 0);
  Buffer files[2] = {{0}, {0}};
  char *first = path_join(folder, "run/adapter_model.safetensors"), *second = path_join(folder, "back/adapter_model.safetensors");
  assert_ok(file_read(&files[0], first, 1 << 28));
  assert_ok(file_read(&files[1], second, 1 << 28));
  assert_int_equal(files[0].length, files[1].length);
  assert_memory_equal(files[0].data, files[1].data, files[0].length);
  for (int i = 0; i < 2; i++) buffer_release(&files[i]);
  free(first);
  free(second);
  buffer_release(&output);
}

static void an_exported_folder_keeps_the_chat_template(void **state) {
  static const char template[] = "{% for message in messages %}[{{ message.content }}]{% endfor %}\n";
  const char *folder = *state;
  Buffer output = {0}, kept = {0};
  char *given = path_join(folder, "run/chat_template.jinja"), *path = path_join(folder, "kept/chat_template.jinja");
  assert_ok(file_write_whole(given, template, strlen(template)));
  assert_int_equal(run_program(&output, "export --model %s --adapter %s/run --output %s/kept", tiny_gguf, folder, folder), 0);
  assert_ok(file_read(&kept, path, 1 << 20));
  assert_string_equal(kept.data, template);
  free(given);
  free(path);
  buffer_release(&kept);
  buffer_release(&output);
}

static void a_modelfile_says_how_messages_become_a_prompt(void **state) {
  const char *folder = *state;
  Buffer output = {0}, text = {0};
  assert_int_equal(run_program(&output, "export --model %s --adapter %s/run --output %s/ollama.gguf --ollama", tiny_gguf, folder, folder),
                   0);
  char *path = path_join(folder, "Modelfile");
  assert_ok(file_read(&text, path, 1 << 20));
  assert_non_null(strstr(text.data, "\nADAPTER ./ollama.gguf\n"));
  assert_non_null(strstr(text.data, "tests/data/tiny.gguf\n"));
  assert_non_null(strstr(text.data, "{{ else if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ else if"));
  assert_non_null(strstr(text.data, "{{ end }}{{ end }}<|im_start|>assistant\n\"\"\"\n"));
  assert_non_null(strstr(text.data, "PARAMETER stop \"<|im_end|>\"\n"));
  free(path);
  buffer_release(&text);
  buffer_release(&output);
}

static void mistakes_have_their_exit_codes(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run", tiny_gguf, folder), 2);
  assert_says(&output, "--output is missing");
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run --output %s/k.gguf --type q9_k", tiny_gguf, folder, folder), 2);
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run --output %s/k --type q4_0", tiny_gguf, folder, folder), 2);
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/nowhere --output %s/k.gguf", tiny_gguf, folder, folder), 3);
  assert_says(&output, "there is no such file or folder");
  assert_int_equal(run_program(&output, "export --model %s/nowhere.gguf --adapter %s/run --output %s/k.gguf", folder, folder, folder), 3);
  assert_int_equal(run_program(&output, "merge --model %s --adapter %s/run --output %s/no/such/k.gguf", tiny_gguf, folder, folder), 1);
  buffer_release(&output);
}

// A file system of 200 KiB, where this process may mount one.
static void a_full_disk_is_exit_code_4_and_leaves_nothing(void **state) {
  if (system("unshare -rm mount -t tmpfs -o size=200k tmpfs /mnt 2>/dev/null") != 0)
    skip_test("this machine lets nobody mount a small file system");
  static const char *const outputs[] = {"full.gguf", "full"};
  for (int i = 0; i < 2; i++) {
    char *command = memory_format(
        "unshare -rm sh -c \"mount -t tmpfs -o size=200k tmpfs /mnt && '%s' merge --model %s --adapter %s/run --output /mnt/%s; code=\\$?; "
        "ls -A /mnt | "
        "wc -l >%s/left; exit \\$code\" 2>%s/message",
        LORA_PROGRAM, tiny_gguf, (char *)*state, outputs[i], (char *)*state, (char *)*state);
    int status = system(command);
    assert_int_equal(status >> 8, 4);
    char *left = path_join(*state, "left");
    Buffer count = {0};
    assert_ok(file_read(&count, left, 100));
    assert_int_equal(atoi(count.data), 0);
    buffer_release(&count);
    free(left);
    free(command);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(merge_says_why_it_did_not_measure, make_run, remove_run),
      cmocka_unit_test_setup_teardown(merge_measures_on_the_training_data, make_run, remove_run),
      cmocka_unit_test_setup_teardown(more_bits_are_nearer_and_max_kl_draws_the_line, make_run, remove_run),
      cmocka_unit_test_setup_teardown(a_scale_behind_a_colon_scales_the_adapter, make_run, remove_run),
      cmocka_unit_test_setup_teardown(export_goes_from_peft_to_gguf_and_back, make_run, remove_run),
      cmocka_unit_test_setup_teardown(a_modelfile_says_how_messages_become_a_prompt, make_run, remove_run),
      cmocka_unit_test_setup_teardown(an_exported_folder_keeps_the_chat_template, make_run, remove_run),
      cmocka_unit_test_setup_teardown(mistakes_have_their_exit_codes, make_run, remove_run),
      cmocka_unit_test_setup_teardown(a_full_disk_is_exit_code_4_and_leaves_nothing, make_run, remove_run),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
