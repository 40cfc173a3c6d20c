#include "tests/support/training.h"

#include "core/file.h"

char *write_file(const char *name, const char *text) {
  char *path = path_join(test_folder, name);
  assert_ok(file_write_whole(path, text, strlen(text)));
  return path;
}

char *write_token_rows(int first, int range) {
  Buffer rows = {0};
  for (int i = 0; i < 12; i++)
    for (int part = 0; part < 2; part++) {
      buffer_append_string(&rows, part ? "], \"labels\": [" : "{\"input_ids\": [");
      for (int j = 0; j < 9 + i; j++) buffer_format(&rows, "%s%d", j ? ", " : "", part && j < 3 ? -100 : first + (i * 37 + j * 11) % range);
      if (part) buffer_append_string(&rows, "]}\n");
    }
  char *path = write_file("rows.jsonl", rows.data);
  buffer_release(&rows);
  return path;
}

char *write_preference_rows(bool is_paired) {
  Buffer rows = {0};
  for (int i = 0; i < 12; i++) {
    const char *const names[] = {"prompt_input_ids", is_paired ? "chosen_input_ids" : "completion_input_ids", "rejected_input_ids"};
    for (int part = 0; part < (is_paired ? 3 : 2); part++) {
      buffer_format(&rows, "%s\"%s\": [", part ? ", " : "{", names[part]);
      for (int j = 0; j < 4 + (i + part) % 5; j++) buffer_format(&rows, "%s%d", j ? ", " : "", 260 + (i * 37 + j * 11 + part * 53) % 200);
      buffer_append_string(&rows, "]");
    }
    if (!is_paired) buffer_format(&rows, ", \"label\": %s", i % 3 ? "true" : "false");
    buffer_append_string(&rows, "}\n");
  }
  char *path = write_file(is_paired ? "pairs.jsonl" : "marks.jsonl", rows.data);
  buffer_release(&rows);
  return path;
}

char *training_recipe(const char *name, const char *base, const char *output, const char *more) {
  char *data = write_token_rows(260, 200);
  char *text = memory_format(
      "base_model: %s\nadapter: qlora\nload_in_4bit: true\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.1\nlora_target_linear: "
      "true\ndatasets:\n  - path: %s\n"
      "sequence_len: 64\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: 8\nsave_steps: 4\nlearning_rate: 1e-2\noptimizer: "
      "adamw_torch\n"
      "val_set_size: 2\neval_steps: 4\nlr_scheduler: cosine\ndataset_prepared_path: %s/prepared\noutput_dir: %s/%s\n%s",
      base, data, test_folder, test_folder, output, more);
  char *path = write_file(name, text);
  free(data);
  free(text);
  return path;
}

const char tiny_gguf[] = TESTS_DIR "/data/tiny.gguf";

void read_whole(Buffer *out, const char *relative) {
  char *path = path_join(test_folder, relative);
  assert_ok(file_read(out, path, 1 << 28));
  free(path);
}

void assert_same_file(const char *a, const char *b) {
  Buffer first = {0}, second = {0};
  read_whole(&first, a);
  read_whole(&second, b);
  assert_int_equal(first.length, second.length);
  assert_memory_equal(first.data, second.data, first.length);
  buffer_release(&first);
  buffer_release(&second);
}

void assert_runs(const char *format, const char *recipe, const char *more) {
  Buffer output = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  int code = run_program(&output, format, recipe, more);
#pragma GCC diagnostic pop
  if (code != 0) fail_msg("exit code %d: %s", code, output.data ? output.data : "");
  buffer_release(&output);
}

void assert_refused(int expected, const char *recipe, const char *more, const char *word, const char *word2) {
  Buffer output = {0};
  int code = run_program(&output, "train %s %s", recipe, more);
  if (code != expected || !strstr(output.data, word) || !strstr(output.data, word2))
    fail_msg("exit code %d where %d was expected, or no \"%s\" or \"%s\" in: %s", code, expected, word, word2, output.data);
  buffer_release(&output);
}
