// Ids of the Hub in recipes and on the command line, as a user meets them: the tiny model and some rows, served on loopback.
#include "tests/support/test.h"

#include <unistd.h>

#include "core/file.h"
#include "tests/support/hub_server.h"

static HubServer *server;
static char *folder;

static int start(void **state) {
  (void)state;
  static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"};
  unsetenv("HF_HUB_CACHE"), unsetenv("HF_TOKEN"), unsetenv("HF_HUB_OFFLINE"), unsetenv("TRANSFORMERS_OFFLINE");
  server = hub_server_start();
  folder = temporary_folder();
  setenv("HF_HOME", folder, 1);
  setenv("HF_ENDPOINT", hub_server_url(server), 1);
  setenv("no_proxy", "127.0.0.1", 1);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = memory_format("%s/data/tiny-hf/%s", TESTS_DIR, names[i]);
    hub_server_add_file(server, "models", "org/tiny", names[i], path);
    free(path);
  }
  hub_server_add_file(server, "models", "org/tiny-gguf", "tiny.gguf", TESTS_DIR "/data/tiny.gguf");
  static const char rows[] = "{\"instruction\": \"Say yes.\", \"output\": \"yes\"}\n{\"instruction\": \"Say no.\", \"output\": \"no\"}\n";
  hub_server_add(server, "datasets", "org/rows", "data/train.jsonl", rows, sizeof rows - 1);
  hub_server_add(server, "datasets", "org/parquet", "data/train.parquet", "PAR1", 4);
  return 0;
}

static int stop(void **state) {
  (void)state;
  hub_server_stop(server);
  directory_remove(folder);
  free(folder);
  return 0;
}

static char *write_recipe(const char *name, const char *more) {
  char *text = memory_format(
      "base_model: org/tiny\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nsequence_len: 128\nmicro_batch_size: 1\n"
      "gradient_accumulation_steps: 1\nmax_steps: 2\nlearning_rate: 1e-3\noptimizer: adamw_torch\nbf16: false\noutput_dir: %s/out\n"
      "datasets:\n  - path: org/rows\n    type: alpaca\n%s",
      folder, more);
  char *path = path_join(folder, name);
  assert_ok(file_write_whole(path, text, strlen(text)));
  free(text);
  return path;
}

static void assert_run(int code, const char *says, const char *command, const char *argument, const char *more) {
  Buffer output = {0};
  int status = run_program(&output, "%s '%s' %s", command, argument, more);
  if (status != code || !output.data || !strstr(output.data, says))
    fail_msg("%s %s %s: exit code %d, and not \"%s\": %s", command, argument, more, status, says, output.data ? output.data : "");
  buffer_release(&output);
}

static void assert_file_says(const char *name, const char *says) {
  Buffer text = {0};
  char *path = path_join(folder, name);
  assert_ok(file_read(&text, path, 1 << 20));
  if (!strstr(text.data, says)) fail_msg("%s does not say %s: %s", name, says, text.data);
  buffer_release(&text);
  free(path);
}

static void preprocess_fetches_rows_and_tokenizer_but_no_weights(void **state) {
  (void)state;
  char *recipe = write_recipe("r.yml", "");
  assert_run(0, "rows: 2 read, 2 kept", "preprocess", recipe, "");
  assert_int_equal(hub_server_count(server, "GET", "/tokenizer.json"), 1);
  assert_int_equal(hub_server_count(server, "GET", "/train.jsonl"), 1);
  assert_int_equal(hub_server_count(server, NULL, "/model.safetensors"), 0);
  free(recipe);
}

static void training_by_ids_keeps_the_ids_in_what_it_writes(void **state) {
  (void)state;
  char *recipe = write_recipe("r.yml", "");
  assert_run(0, "the adapter is in", "train", recipe, "");
  assert_file_says("out/adapter_config.json", "\"base_model_name_or_path\": \"org/tiny\"");
  assert_file_says("out/README.md", "base_model: \"org/tiny\"");
  assert_file_says("out/README.md", "`org/rows`");
  assert_file_says("out/recipe.yml", "org/tiny");
  // Without the network all of it goes on from the cache, and the adapter's own recipe is found again.
  hub_server_stop(server);
  server = NULL;
  setenv("HF_HUB_OFFLINE", "1", 1);
  char *more = memory_format("--output_dir %s/again", folder);
  assert_run(0, "the adapter is in", "train", recipe, more);
  free(more);
  more = memory_format("--adapter %s/out --output %s/merged.gguf", folder, folder);
  assert_run(0, "mean KL divergence from base + adapter: ", "merge --model", "org/tiny", more);
  free(more);
  more = memory_format("--adapter %s/out:0.5 --prompt Hello --max-tokens 2", folder);
  assert_run(0, "", "generate --model", "org/tiny", more);
  free(more);
  unsetenv("HF_HUB_OFFLINE");
  free(recipe);
}

static void commands_take_ids_of_models_and_adapters(void **state) {
  (void)state;
  char *recipe = write_recipe("r.yml", "");
  assert_run(0, "the adapter is in", "train", recipe, "");
  static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; i++) {
    char *path = memory_format("%s/out/%s", folder, names[i]);
    hub_server_add_file(server, "models", "org/adapter", names[i], path);
    free(path);
  }
  assert_run(0, "", "tokenize --text Hello --model", "org/tiny-gguf", "");
  assert_run(0, "", "generate --prompt Hello --max-tokens 2 --model", "org/tiny-gguf/tiny.gguf", "--adapter org/adapter:0.5");
  char *more = memory_format("--lora_model_dir org/adapter --output_dir %s/next", folder);
  assert_run(0, "the adapter is in", "train", recipe, more);
  free(more);
  free(recipe);
}

static void what_is_on_this_disk_wins(void **state) {
  (void)state;
  char *recipe = write_recipe("r.yml", ""), *data = path_join(folder, "org/rows");
  assert_ok(directory_create(data));
  char *file = path_join(data, "train.jsonl");
  static const char row[] = "{\"instruction\": \"Say it.\", \"output\": \"it\"}\n";
  assert_ok(file_write_whole(file, row, sizeof row - 1));
  assert_run(0, "rows: 1 read, 1 kept", "preprocess", recipe, "");
  assert_int_equal(hub_server_count(server, NULL, "/datasets/"), 0);
  free(file), free(data), free(recipe);
}

static void messages_name_both_the_path_and_the_id(void **state) {
  (void)state;
  char *recipe = write_recipe("r.yml", "");
  assert_run(3, "--base_model: there is no file or folder \"org/gone\" on this disk, and as an id of the Hub: http://127.0.0.1", "train",
             recipe, "--base_model org/gone");
  assert_run(3, "datasets.0.path: there is no file or folder \"org/gone\" on this disk", "preprocess", recipe,
             "--datasets.0.path org/gone");
  assert_run(3, "load_dataset", "preprocess", recipe, "--datasets.0.path org/parquet");
  assert_run(3, "--model org/gone: there is no such file or folder on this disk, and as an id of the Hub: http",
             "generate --prompt x --model", "org/gone", "");
  hub_server_forget(server);
  assert_run(3, "rows/train.jsonl", "preprocess", recipe, "--datasets.0.path rows/train.jsonl");
  assert_int_equal(hub_server_count(server, NULL, "rows/train"), 0);  // that can only be a path
  free(recipe);
}

static void validate_looks_in_the_cache_and_asks_nobody(void **state) {
  (void)state;
  char *recipe = write_recipe("r.yml", "");
  assert_run(2, "base_model: there is no file or folder \"org/tiny\" on this disk, and as an id of the Hub: the cache does not have",
             "validate --files", recipe, "");
  assert_int_equal(hub_server_seen_count(server), 0);
  assert_run(0, "the adapter is in", "train", recipe, "");
  hub_server_forget(server);
  assert_run(0, "valid", "validate --files", recipe, "");
  assert_int_equal(hub_server_seen_count(server), 0);
  free(recipe);
}

static void processes_share_one_download(void **state) {
  (void)state;
  enum { PROCESSES = 3 };
  FILE *pipes[PROCESSES];
  hub_server_fault(server, (HubFault){.path = "/cdn/", .hold = true});
  for (int i = 0; i < PROCESSES; i++) {
    pipes[i] = popen("'" LORA_PROGRAM "' tokenize --model org/tiny --text Hello 2>&1", "r");
    assert_non_null(pipes[i]);
  }
  // The first is in the middle of its download when the others want the same file.
  for (int i = 0; i < 500 && hub_server_count(server, "HEAD", "/tokenizer_config.json") < PROCESSES; i++) usleep(10000);
  usleep(200000);
  hub_server_release(server);
  char lines[PROCESSES][256] = {{0}}, bytes[256];
  for (int i = 0; i < PROCESSES; i++) {
    while (fgets(bytes, sizeof bytes, pipes[i])) memcpy(lines[i], bytes, sizeof bytes);  // the last line: the ids
    assert_int_equal(pclose(pipes[i]), 0);
    assert_string_equal(lines[i], lines[0]);
  }
  assert_int_equal(hub_server_count(server, "GET", "/cdn/"), 1);
}

#define hub_test(function) cmocka_unit_test_setup_teardown(function, start, stop)

int main(void) {
  const struct CMUnitTest tests[] = {
      hub_test(preprocess_fetches_rows_and_tokenizer_but_no_weights),
      hub_test(training_by_ids_keeps_the_ids_in_what_it_writes),
      hub_test(commands_take_ids_of_models_and_adapters),
      hub_test(what_is_on_this_disk_wins),
      hub_test(messages_name_both_the_path_and_the_id),
      hub_test(processes_share_one_download),
      hub_test(validate_looks_in_the_cache_and_asks_nobody),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
