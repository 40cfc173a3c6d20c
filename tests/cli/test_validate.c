// The command line as its user meets it: commands, options, `lora validate`, and the reference page.
#include <dirent.h>
#include <jansson.h>

#include "cli/options.h"
#include "core/file.h"
#include "tests/support/test.h"

static void assert_says(int expected, int status, Buffer *output, const char *words) {
  if (status != expected || !output->data || !strstr(output->data, words)) {
    print_error("exit code %d, expected %d with \"%s\" in: %s\n", status, expected, words, output->data ? output->data : "");
    buffer_release(output);
    fail();
  }
  buffer_release(output);
}

static void the_program_names_its_version_and_commands(void **state) {
  (void)state;
  Buffer output = {0};
  int status = run_program(&output, "--version");
  assert_says(0, status, &output, "lora " LORA_VERSION);
  status = run_program(&output, "--help");
  assert_says(0, status, &output, "validate");
  status = run_program(&output, "help validate");
  assert_says(0, status, &output, "usage: lora validate");
  status = run_program(&output, "%s", "");
  assert_says(2, status, &output, "no command");
}

static void misspelt_commands_and_options_name_the_nearest(void **state) {
  (void)state;
  Buffer output = {0};
  int status = run_program(&output, "valdate x.yml");
  assert_says(2, status, &output, "did you mean `lora validate`?");
  status = run_program(&output, "validate --threads many x.yml");
  assert_says(2, status, &output, "--threads takes a whole number");
  status = run_program(&output, "validate --threads=0 x.yml");
  assert_says(2, status, &output, "out of range");
  status = run_program(&output, "validate --files=yes x.yml");
  assert_says(2, status, &output, "--files takes no value");
  status = run_program(&output, "validate x.yml --seed");
  assert_says(2, status, &output, "--seed needs a value");
  status = run_program(&output, "validate");
  assert_says(2, status, &output, "RECIPE is missing");
}

static void options_that_are_no_recipe_keys_are_refused_where_none_are_taken(void **state) {
  (void)state;
  double temperature = 1;
  ArgumentList stops = {0};
  const char *resume = NULL;
  const Option options[] = {{.name = "temperature", .kind = OPTION_FLOAT, .value = &temperature, .max = 10},
                            {.name = "stop", .kind = OPTION_STRINGS, .value = &stops},
                            {.name = "resume", .kind = OPTION_OPTIONAL_STRING, .value = &resume}};
  const CommandLine line = {.name = "x", .usage = "", .options = options, .option_count = 3, .max_positional = 0};
  Arguments arguments;
  char *good[] = {(char *)"x", (char *)"--temperature", (char *)"-1e-1", (char *)"--stop=a", (char *)"--stop",
                  (char *)"b", (char *)"--resume"};
  assert_fails(STATUS_USAGE, options_parse(&arguments, &line, 7, good), "--temperature", "out of range");
  arguments_release(&arguments);
  good[2] = (char *)"0.5";
  assert_ok(options_parse(&arguments, &line, 7, good));
  arguments_release(&arguments);
  assert_true(temperature == 0.5);
  assert_int_equal(stops.count, 2);
  assert_string_equal(resume, "");
  char *unknown[] = {(char *)"x", (char *)"--temprature", (char *)"1"};
  assert_fails(STATUS_USAGE, options_parse(&arguments, &line, 3, unknown), "did you mean --temperature?");
  arguments_release(&arguments);
  char *surplus[] = {(char *)"x", (char *)"--", (char *)"--stop"};
  assert_fails(STATUS_USAGE, options_parse(&arguments, &line, 3, surplus), "unexpected argument");
  arguments_release(&arguments);
  free(stops.items);
}

static void every_recipe_in_the_manner_of_the_wild_validates(void **state) {
  (void)state;
  const char *folder = TESTS_DIR "/recipes/data/good";
  DIR *directory = opendir(folder);
  assert_non_null(directory);
  int recipes = 0;
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (entry->d_name[0] == '.') continue;
    Buffer output = {0};
    int status = run_program(&output, "validate --quiet '%s/%s'", folder, entry->d_name);
    assert_says(0, status, &output, "valid");
    recipes++;
  }
  closedir(directory);
  assert_true(recipes >= 56);
}

static void problems_are_lines_on_stdout_and_the_exit_code_is_2(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "bad.yml");
  const char *text = "base_model: m\nlearing_rate: 1\n";
  assert_ok(file_write_whole(path, text, strlen(text)));
  Buffer output = {0};
  int status = run_program(&output, "validate '%s' 2>/dev/null", path);
  assert_says(2, status, &output, ":2:1: learing_rate: unknown key; did you mean learning_rate?\n");
  status = run_program(&output, "validate --json '%s' 2>/dev/null", path);
  assert_says(2, status, &output, "\"line\": 2");
  assert_ok(directory_remove(folder));
  free(path);
  free(folder);
}

static json_t *read_results(int expected, const char *arguments) {
  Buffer output = {0};
  assert_int_equal(run_program(&output, "validate --json --quiet %s 2>/dev/null #", arguments), expected);
  json_error_t error;
  json_t *results = json_loads(output.data, 0, &error);
  if (!results) fail_msg("not JSON: %s in %s", error.text, output.data);
  buffer_release(&output);
  return results;
}

static const char *text_of(const json_t *entry, const char *key) { return json_string_value(json_object_get(entry, key)); }

static long number_of(const json_t *entry, const char *key) { return (long)json_integer_value(json_object_get(entry, key)); }

static void several_recipes_give_a_result_each_for_programs(void **state) {
  (void)state;
  static const char good[] = TESTS_DIR "/recipes/data/good/mistral-qlora.yml";
  char *folder = temporary_folder(), *bad = path_join(folder, "bad.yml"), *broken = path_join(folder, "broken.yml");
  const char *text = "learning_rate: 1\nlora_rr: 1\nadapter: lorra\nwandb_project: x\n", *yaml = "a: 1\n b: 2\n";
  assert_ok(file_write_whole(bad, text, strlen(text)));
  assert_ok(file_write_whole(broken, yaml, strlen(yaml)));
  char *arguments = memory_format("'%s' '%s' '%s' '%s/none.yml'", good, bad, broken, folder);
  json_t *results = read_results(2, arguments);
  assert_int_equal(json_array_size(results), 4);
  const json_t *first = json_array_get(results, 0), *second = json_array_get(results, 1), *third = json_array_get(results, 2);
  assert_true(json_is_true(json_object_get(first, "valid")));
  assert_string_equal(text_of(first, "file"), good);
  assert_int_equal(json_array_size(json_object_get(first, "problems")), 0);
  assert_true(json_is_false(json_object_get(second, "valid")));
  const json_t *problem = json_array_get(json_object_get(second, "problems"), 0);
  assert_string_equal(text_of(problem, "key"), "lora_rr");
  assert_int_equal(number_of(problem, "line"), 2);
  assert_int_equal(number_of(problem, "column"), 1);
  assert_string_equal(text_of(problem, "message"), "unknown key; did you mean lora_r?");
  assert_string_equal(text_of(json_array_get(json_object_get(second, "notices"), 0), "key"), "wandb_project");
  problem = json_array_get(json_object_get(third, "problems"), 0);
  assert_int_equal(number_of(problem, "line"), 2);
  assert_non_null(strstr(text_of(problem, "message"), "malformed YAML"));
  problem = json_array_get(json_object_get(json_array_get(results, 3), "problems"), 0);
  assert_non_null(strstr(text_of(problem, "message"), "none.yml"));
  json_decref(results);
  free(arguments);
  arguments = memory_format("--files '%s' --base_model nowhere.gguf", good);
  results = read_results(2, arguments);
  problem = json_array_get(json_object_get(json_array_get(results, 0), "problems"), 0);
  assert_string_equal(text_of(problem, "key"), "base_model");
  assert_non_null(strstr(text_of(problem, "message"), "nowhere.gguf"));
  json_decref(results);
  assert_ok(directory_remove(folder));
  free(arguments);
  free(bad);
  free(broken);
  free(folder);
}

static void a_recipe_may_come_from_standard_input(void **state) {
  (void)state;
  static const char good[] = TESTS_DIR "/recipes/data/good/mistral-qlora.yml";
  Buffer output = {0};
  int status = run_program(&output, "validate --quiet - < '%s'", good);
  assert_says(0, status, &output, "-: valid: qlora");
  status = run_program(&output, "validate --quiet - --lora_r 0 < '%s' 2>/dev/null", good);
  assert_says(2, status, &output, "--lora_r: 0 is too small");
  status = run_program(&output, "validate --quiet - < /dev/null 2>/dev/null");
  assert_says(2, status, &output, "(stdin):1:1: is no recipe");
  status = run_program(&output, "validate --quiet '%s' '%s' --json 2>/dev/null", good, good);
  assert_says(0, status, &output, "\"valid\": true");
}

static void overrides_and_files_are_looked_at(void **state) {
  (void)state;
  const char *recipe = TESTS_DIR "/recipes/data/good/mistral-qlora.yml";
  Buffer output = {0};
  int status = run_program(&output, "validate --quiet '%s' --warmup_steps 5", recipe);
  assert_says(2, status, &output, "--warmup_steps: warmup_steps and warmup_ratio exclude each other");
  status = run_program(&output, "validate --quiet '%s' --lora_r=64 --datasets.0.type completion", recipe);
  assert_says(0, status, &output, "rank 64");
  status = run_program(&output, "validate --quiet --files '%s' --base_model nowhere.gguf", recipe);
  assert_says(2, status, &output, "--base_model: there is no file or folder \"nowhere.gguf\"");
  status = run_program(&output, "validate --quiet --files '%s' --base_model '%s' --datasets.0.path '%s'", recipe, recipe, recipe);
  assert_says(0, status, &output, "valid");
  status = run_program(&output, "validate --quiet '%s' --device gpu", recipe);
  assert_says(2, status, &output, "--device: must be cpu");
}

static void the_reference_page_is_what_the_schema_prints(void **state) {
  (void)state;
  Buffer printed = {0}, committed = {0};
  assert_int_equal(run_program(&printed, "validate --reference"), 0);
  assert_ok(file_read(&committed, SOURCE_DIR "/docs/recipes.md", 1 << 20));
  if (strcmp(printed.data, committed.data) != 0) fail_msg("docs/recipes.md is old; write it anew by `lora validate --reference`");
  buffer_release(&printed);
  buffer_release(&committed);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_program_names_its_version_and_commands),
      cmocka_unit_test(misspelt_commands_and_options_name_the_nearest),
      cmocka_unit_test(options_that_are_no_recipe_keys_are_refused_where_none_are_taken),
      cmocka_unit_test(every_recipe_in_the_manner_of_the_wild_validates),
      cmocka_unit_test(problems_are_lines_on_stdout_and_the_exit_code_is_2),
      cmocka_unit_test(several_recipes_give_a_result_each_for_programs),
      cmocka_unit_test(a_recipe_may_come_from_standard_input),
      cmocka_unit_test(overrides_and_files_are_looked_at),
      cmocka_unit_test(the_reference_page_is_what_the_schema_prints),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
