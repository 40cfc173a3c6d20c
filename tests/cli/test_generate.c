// `lora generate` and `lora chat` as their user meets them, on the tiny model.
#include <jansson.h>

#include "adapters/adapter.h"
#include "core/file.h"
#include "tests/support/test.h"
#include "tests/support/tiny_adapter.h"

#define TINY "--model " TESTS_DIR "/data/tiny.gguf"

// Runs a command whose stderr is quiet and gives its output, a new string.
static char *output_of(int expected, const char *arguments) {
  Buffer output = {0};
  int status = run_program(&output, "%s", arguments);
  if (status != expected) {
    print_error("lora %s: exit code %d, expected %d: %s\n", arguments, status, expected, output.data ? output.data : "");
    fail();
  }
  return output.data ? output.data : memory_copy_string("");
}

static void assert_output(int expected, const char *arguments, const char *text) {
  char *output = output_of(expected, arguments);
  assert_string_equal(output, text);
  free(output);
}

static void assert_says(int expected, const char *arguments, const char *words) {
  char *output = output_of(expected, arguments);
  if (!strstr(output, words)) fail_msg("lora %s does not say \"%s\": %s", arguments, words, output);
  free(output);
}

static void only_the_new_text_is_written(void **state) {
  (void)state;
  assert_output(0, "generate --quiet --chat --temperature 0 " TINY " --prompt 'What is the capital of France?'",
                "The capital of France is Paris.");
  assert_output(0, "generate --quiet --chat --temperature 0 " TINY " --prompt 'What is the capital of France?' --stop ' is'",
                "The capital of France");
  assert_says(0, "generate --chat --temperature 0 " TINY " --prompt 'What is the capital of France?'", "11 written");
}

static void a_folder_and_a_gguf_of_one_model_write_the_same(void **state) {
  (void)state;
  assert_output(0, "generate --quiet --chat --temperature 0 --model " TESTS_DIR "/data/tiny-hf --prompt 'What is the capital of France?'",
                "The capital of France is Paris.");
}

static void the_prompt_may_come_from_a_file_or_standard_input(void **state) {
  (void)state;
  char *folder = temporary_folder(), *file = path_join(folder, "prompt.txt");
  assert_ok(file_write_whole(file, "Why is the sea salty?", 21));
  char *plain = output_of(0, "generate --quiet --chat --temperature 0 " TINY " --prompt 'Why is the sea salty?'");
  char *command = memory_format("generate --quiet --chat --temperature 0 " TINY " --prompt-file %s", file);
  assert_output(0, command, plain);
  free(command);
  command = memory_format("generate --quiet --chat --temperature 0 " TINY " --prompt-file - < %s", file);
  assert_output(0, command, plain);
  free(command);
  free(plain);
  assert_ok(directory_remove(folder));
  free(file);
  free(folder);
}

static void the_same_seed_writes_the_same_text(void **state) {
  (void)state;
  const char *base = "generate --quiet " TINY " --prompt 'The' --max-tokens 40 --temperature 1.5 --top-k 0 --top-p 1 --min-p 0 --seed ";
  char *texts[4];
  const char *const tails[] = {"1 --threads 1", "1 --threads 2", "1", "2"};
  for (int i = 0; i < 4; i++) {
    char *command = memory_format("%s%s", base, tails[i]);
    texts[i] = output_of(0, command);
    free(command);
  }
  assert_string_equal(texts[0], texts[1]);
  assert_string_equal(texts[0], texts[2]);
  assert_string_not_equal(texts[0], texts[3]);
  for (int i = 0; i < 4; i++) free(texts[i]);
}

static void an_adapter_is_heard_by_its_scale(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = write_tiny_adapter(folder);
  const char *base = "generate --quiet --chat --temperature 0 --max-tokens 20 " TINY " --prompt 'What is two plus two?'";
  char *plain = output_of(0, base);
  char *command = memory_format("%s --adapter %s:0", base, path);
  assert_output(0, command, plain);
  free(command);
  command = memory_format("%s --adapter %s", base, path);
  char *adapted = output_of(0, command);
  assert_string_not_equal(adapted, plain);
  free(command);
  command = memory_format("%s --adapter %s:1.0", base, path);
  assert_output(0, command, adapted);
  free(command);
  // Twice, with scales that cancel each other. Sums of float32 terms leave roundings, far below what moves an answer.
  command = memory_format("%s --adapter %s:0.5 --adapter %s:-0.5", base, path, path);
  assert_output(0, command, plain);
  free(command);
  free(adapted);
  free(plain);
  assert_ok(directory_remove(folder));
  free(path);
  free(folder);
}

static void json_tells_tokens_and_reason(void **state) {
  (void)state;
  char *output = output_of(0, "generate --quiet --json --chat --temperature 0 --max-tokens 5 " TINY " --prompt 'What is two plus two?'");
  json_t *object = json_loads(output, 0, NULL);
  assert_non_null(object);
  assert_string_equal(json_string_value(json_object_get(object, "finish_reason")), "length");
  assert_int_equal(json_array_size(json_object_get(object, "tokens")), 5);
  assert_int_equal(json_integer_value(json_object_get(object, "generated_tokens")), 5);
  assert_true(json_integer_value(json_object_get(object, "prompt_tokens")) > 5);
  assert_true(json_real_value(json_object_get(object, "generation_tokens_per_second")) > 0);
  assert_non_null(json_string_value(json_object_get(object, "text")));
  json_decref(object);
  free(output);
}

static void what_cannot_be_generated_is_refused(void **state) {
  (void)state;
  assert_says(2, "generate --prompt x", "--model MODEL is missing");
  assert_says(2, "generate " TINY, "give the prompt by --prompt");
  assert_says(2, "generate " TINY " --prompt x --prompt-file y", "give the prompt by --prompt");
  assert_says(2, "generate " TINY " --prompt x --system y", "--system goes with --chat");
  assert_says(2, "generate " TINY " --prompt x --stop ''", "--stop must not be empty");
  assert_says(2, "generate " TINY " --prompt 'one two three four five six' --context 2", "the context is full");
  assert_says(2, "generate " TINY " --prompt x --top-p 1.5", "--top-p 1.5 is out of range");
  assert_says(3, "generate --model no-such-model.gguf --prompt x", "no-such-model.gguf");
  assert_says(3, "generate " TINY " --adapter no-such-adapter --prompt x", "no-such-adapter");
  assert_says(2, "generate " TINY " --chat --prompt \"$(printf '\\377')\"", "no UTF-8 text");
}

static void drafts_and_the_type_of_the_cache_are_asked_for(void **state) {
  (void)state;
  assert_says(0, "generate --temperature 0 --chat --drafts 4 --cache-type q8_0 " TINY " --prompt 'What is the capital of France?'",
              "The capital of France is Paris.");
  assert_says(2, "generate --cache-type q5_0 " TINY " --prompt x", "--cache-type q5_0 is not known: f16, q8_0 or f32");
  assert_says(2, "generate --drafts 17 " TINY " --prompt x", "--drafts");
}

static void a_conversation_answers_line_by_line(void **state) {
  (void)state;
  char *folder = temporary_folder(), *file = path_join(folder, "lines.txt");
  const char *lines =
      "What is the capital of France?\n\n/reset\nWhy is the sea salty?\r\n/system\nHow many legs does a cat have?\n/exit\nWhat is two plus "
      "two?\n";
  assert_ok(file_write_whole(file, lines, strlen(lines)));
  char *command = memory_format("chat --quiet --temperature 0 " TINY " < %s", file);
  assert_output(
      0, command,
      "The capital of France is Paris.\nRivers carry salt from the rocks to the sea, and it stays there.\nA cat has four legs.\n");
  free(command);
  assert_ok(directory_remove(folder));
  free(file);
  free(folder);
}

static void a_conversation_keeps_what_it_has_read(void **state) {
  (void)state;
  char *folder = temporary_folder(), *file = path_join(folder, "lines.txt");
  const char *lines = "What is the capital of France?\nWhat is the capital of Italy?\n";
  assert_ok(file_write_whole(file, lines, strlen(lines)));
  char *command = memory_format("chat --temperature 0 " TINY " < %s", file);
  // The second prompt holds the first, its answer (11 tokens) and what closes it.
  assert_says(0, command, "19 prompt tokens (0 kept");
  assert_says(0, command, "51 prompt tokens (30 kept");
  free(command);
  command = memory_format("chat --temperature 0 --context 45 " TINY " < %s", file);
  assert_says(0, command, "the context is full");
  free(command);
  assert_ok(directory_remove(folder));
  free(file);
  free(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(only_the_new_text_is_written),
      cmocka_unit_test(a_folder_and_a_gguf_of_one_model_write_the_same),
      cmocka_unit_test(the_prompt_may_come_from_a_file_or_standard_input),
      cmocka_unit_test(the_same_seed_writes_the_same_text),
      cmocka_unit_test(an_adapter_is_heard_by_its_scale),
      cmocka_unit_test(json_tells_tokens_and_reason),
      cmocka_unit_test(what_cannot_be_generated_is_refused),
      cmocka_unit_test(drafts_and_the_type_of_the_cache_are_asked_for),
      cmocka_unit_test(a_conversation_answers_line_by_line),
      cmocka_unit_test(a_conversation_keeps_what_it_has_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
