// `lora preprocess`: the report of a recipe's rows, their masks as people see them, and exit codes.
#include "tests/support/data.h"
#include "tests/support/test.h"

static const char chat_rows[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Yo\\u001b[31m\"}]}\n"
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Only a question\"}]}\n";

// Runs the program on the test's recipe; returns its exit code.
static int run_recipe(DataTest *test, Buffer *output, const char *options) {
  char *recipe = memory_format("%s/recipe.yml", test->folder);
  data_test_write(test, "recipe.yml", test->text);
  output->length = 0;
  int code = run_program(output, "preprocess '%s' %s", recipe, options);
  free(recipe);
  return code;
}

static void rows_are_reported_and_shown_with_their_marks(void **state) {
  (void)state;
  DataTest test;
  Buffer output = {0};
  data_test_start(&test, chat_rows, "    type: chat_template\n", "");
  assert_int_equal(run_recipe(&test, &output, "--debug 1"), 0);
  assert_non_null(strstr(output.data, "rows: 2 read, 1 kept"));
  assert_non_null(strstr(output.data, "rows.jsonl:2: dropped: no trained token: all its labels are masked"));
  // The mark is on the reply and its end alone, and no escape sequence of the data reaches a terminal.
  assert_non_null(strstr(output.data, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Yo\\x1B[31m<|im_end|>]]"));
  assert_null(strchr(output.data, '\033'));
  assert_int_equal(run_recipe(&test, &output, "--json"), 0);
  assert_non_null(strstr(output.data, "\"read\":2,\"rows\":1"));
  buffer_release(&output);
  data_test_end(&test);
}

static void ids_and_labels_are_listed_on_demand(void **state) {
  (void)state;
  DataTest test;
  Buffer output = {0};
  data_test_start(&test, "{\"input_ids\": [30, 31, 32], \"labels\": [-100, 31, 32]}", "", "");
  assert_int_equal(run_recipe(&test, &output, "--debug 1 --ids"), 0);
  assert_non_null(strstr(output.data, "      30     -100  "));
  assert_non_null(strstr(output.data, "      31       31  [["));
  buffer_release(&output);
  data_test_end(&test);
}

static void bad_rows_end_with_3_unless_they_are_skipped(void **state) {
  (void)state;
  DataTest test;
  Buffer output = {0};
  data_test_start(&test, "{\"text\": \"a b c d\"}\n{\"prompt\": \"x\"}\n{\n", "    type: completion\n", "");
  assert_int_equal(run_recipe(&test, &output, ""), 3);
  assert_non_null(strstr(output.data, "rows.jsonl:2: field \"text\" is missing; the row has: prompt"));
  assert_non_null(strstr(output.data, "rows.jsonl:3: not JSON"));
  assert_int_equal(run_recipe(&test, &output, "--skip-bad-rows"), 0);
  assert_non_null(strstr(output.data, "dropped: bad row: 2"));
  buffer_release(&output);
  data_test_end(&test);
}

static void pairs_of_replies_are_reported_and_shown_with_a_legend(void **state) {
  (void)state;
  DataTest test;
  Buffer output = {0};
  data_test_start(&test,
                  "{\"prompt\": \"Hi\", \"chosen\": \"Yo\", \"rejected\": \"No\"}\n"
                  "{\"prompt\": \"Hi\", \"chosen\": \"Yo\", \"rejected\": \"Yo\"}\n",
                  "    type: chatml\n", "rl: dpo\n");
  assert_int_equal(run_recipe(&test, &output, "--debug 1"), 0);
  assert_non_null(strstr(output.data, "rows.jsonl:2: dropped: equal replies: both replies are the same"));
  assert_non_null(strstr(output.data, "[[chosen]]: to move towards; [[rejected]]: to move away from"));
  assert_non_null(strstr(output.data, "<|im_start|>assistant\nchosen: [[Yo<|im_end|>]]\nrejected: [[No<|im_end|>]]\n"));
  assert_int_equal(run_recipe(&test, &output, "--json"), 0);
  assert_non_null(strstr(output.data, "\"fate\":\"dropped: equal replies\""));
  buffer_release(&output);
  data_test_end(&test);
  data_test_start(&test, "{\"prompt\": \"Hi\", \"completion\": \"No\"}", "    type: chatml.ultra\n", "rl: kto\n");
  assert_int_equal(run_recipe(&test, &output, ""), 3);
  assert_non_null(strstr(output.data, "rows.jsonl:1: field \"label\" is missing; the row has: prompt, completion"));
  buffer_release(&output);
  data_test_end(&test);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_are_reported_and_shown_with_their_marks),
      cmocka_unit_test(ids_and_labels_are_listed_on_demand),
      cmocka_unit_test(bad_rows_end_with_3_unless_they_are_skipped),
      cmocka_unit_test(pairs_of_replies_are_reported_and_shown_with_a_legend),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
