// Rows of preference training: each type becomes the tokens that Axolotl's strategies and TRL's trainers, driven by
// tests/tools/make_preference_rows.py, make of it; filters judge prompt and replies; what is no pair is told where it stands.
#include <jansson.h>

#include "data/cache.h"
#include "data/prepared.h"
#include "tests/support/data.h"
#include "tests/support/test.h"

// ---- Against Axolotl and TRL

static bool ids_are(const int32_t *ids, int64_t count, const json_t *expected) {
  bool same = (size_t)count == json_array_size(expected);
  for (int64_t i = 0; same && i < count; i++) same = json_integer_value(json_array_get(expected, (size_t)i)) == ids[i];
  return same;
}

static void assert_part(const TokenRow *row, int64_t begin, int64_t end, const json_t *expected, const char *name, const char *part) {
  if (ids_are(row->ids + begin, end - begin, expected)) return;
  char *text = json_dumps(expected, JSON_COMPACT);
  print_error("%s: %s differs; expected %s, got", name, part, text);
  for (int64_t i = begin; i < end; i++) print_error(" %d", row->ids[i]);
  print_error("\n");
  free(text);
  fail();
}

static void check_labels(const TokenRow *row) {
  int64_t trained = 0;
  for (int64_t i = 0; i < row->count; i++) {
    assert_int_equal(row->labels[i], i < row->prompt ? LABEL_MASKED : row->ids[i]);
    bool has_target = i >= row->prompt && i > 0 && !(row->prompt == 0 && i == row->rejected);
    trained += has_target;
  }
  assert_int_equal(row->trained, trained);
}

static void check_case(const json_t *item) {
  const char *name = json_string_value(json_object_get(item, "name")), *rl = json_string_value(json_object_get(item, "rl"));
  char *row_text = json_dumps(json_object_get(item, "row"), 0), *top = memory_format("rl: %s\nsequence_len: 4096\n", rl);
  DataTest test;
  data_test_start(&test, row_text, json_string_value(json_object_get(item, "dataset")), top);
  char *folder = memory_format("%s/data/%s", TESTS_DIR, json_string_value(json_object_get(item, "tokenizer")));
  assert_ok(tokenizer_from_folder(&test.tokenizer, folder));
  Status status = data_test_prepare(&test);
  if (status != STATUS_OK || test.train.count != 1) fail_msg("%s: %s", name, status != STATUS_OK ? status_message() : "no row");
  const TokenRow *row = &test.train.rows[0];
  const json_t *replies = json_object_get(item, "replies");
  bool paired = json_array_size(replies) == 2;
  int64_t end = paired ? row->rejected : row->count;
  assert_part(row, 0, row->prompt, json_object_get(item, "prompt"), name, "the prompt");
  assert_part(row, row->prompt, end, json_array_get(replies, 0), name, "the first reply");
  if (paired) assert_part(row, end, row->count, json_array_get(replies, 1), name, "the worse reply");
  else assert_int_equal(row->rejected, 0);
  assert_int_equal(row->is_undesirable, json_is_true(json_object_get(item, "undesirable")));
  check_labels(row);
  data_test_end(&test);
  free(folder), free(row_text), free(top);
}

static void rows_of_every_type_equal_those_of_axolotl_and_trl(void **state) {
  (void)state;
  json_error_t error;
  json_t *golden = json_load_file(TESTS_DIR "/data/prompts/preference.json", 0, &error), *item;
  size_t i;
  if (!golden) fail_msg("%s", error.text);
  assert_true(json_array_size(json_object_get(golden, "cases")) >= 80);
  json_array_foreach(json_object_get(golden, "cases"), i, item) check_case(item);
  json_decref(golden);
}

// ---- As people see them

// The rows of a recipe with `rl` in `top`, as marked text; the message where they are refused; the report where none is left.
static char *shown(const char *rows, const char *dataset, const char *top) {
  DataTest test;
  Buffer text = {0};
  data_test_start(&test, rows, dataset, top);
  Status status = data_test_prepare(&test);
  if (status != STATUS_OK) buffer_append_string(&text, status_message());
  for (int64_t r = 0; status == STATUS_OK && r < test.train.count; r++) row_show(&text, &test.train.rows[r], test.tokenizer, false, false);
  data_test_end(&test);
  return text.data;
}

static void assert_shown(const char *rows, const char *dataset, const char *top, const char *expected) {
  char *text = shown(rows, dataset, top);
  assert_string_equal(text, expected);
  free(text);
}

static void assert_told(const char *rows, const char *dataset, const char *top, const char *word, const char *other) {
  char *text = shown(rows, dataset, top);
  if (!strstr(text, word) || !strstr(text, other)) fail_msg("no \"%s\" or no \"%s\" in: %s", word, other, text);
  free(text);
}

#define HEAD "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
#define ORDER "curriculum_sampling: true\n"

static void replies_are_shown_apart(void **state) {
  (void)state;
  assert_shown("{\"prompt\": \"q\", \"chosen\": \"yes\", \"rejected\": \"no\"}", "    type: chatml\n", "rl: dpo\n",
               HEAD "chosen: [[yes<|im_end|>]]\nrejected: [[no<|im_end|>]]\n");
  static const char rows[] =
      "{\"prompt\": \"q\", \"completion\": \"yes\", \"label\": true}\n{\"prompt\": \"q\", \"completion\": \"no\", \"label\": 0}\n";
  assert_shown(rows, "    type: chatml.ultra\n", "rl: kto\n" ORDER,
               HEAD "desirable: [[yes<|im_end|>]]\n" HEAD "undesirable: [[no<|im_end|>]]\n");
}

static void a_reply_to_move_away_from_is_red(void **state) {
  (void)state;
  DataTest test;
  Buffer text = {0};
  data_test_start(&test, "{\"prompt\": \"q\", \"chosen\": \"y\", \"rejected\": \"n\"}", "", "rl: dpo\n");
  assert_ok(data_test_prepare(&test));
  row_show(&text, &test.train.rows[0], test.tokenizer, true, false);
  assert_string_equal(text.data, "\033[90mq\033[0m\nchosen: \033[32my<|im_end|>\033[0m\nrejected: \033[31mn<|im_end|>\033[0m\n");
  text.length = 0;
  row_show(&text, &test.train.rows[0], test.tokenizer, false, true);
  assert_non_null(strstr(text.data, "  q\nchosen: \n"));
  assert_non_null(strstr(text.data, "\nrejected: \n"));
  buffer_release(&text);
  data_test_end(&test);
}

// ---- What Axolotl and TRL do otherwise, or have not

static void conversations_of_kto_end_in_the_reply_or_have_it_beside_them(void **state) {
  (void)state;
  static const char inside[] =
      "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"yes\"}], \"label\": true}";
  static const char beside[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"completion\": \"no\", \"label\": false}";
  assert_shown(inside, "    type: chat_template\n", "rl: kto\n", HEAD "desirable: [[yes<|im_end|>]]\n");
  assert_shown(beside, "    type: chat_template\n", "rl: kto\n", HEAD "undesirable: [[no<|im_end|>]]\n");
}

static void the_best_two_answers_by_rank_are_the_pair(void **state) {
  (void)state;
  assert_shown(
      "{\"prompt\": \"q\", \"answers\": [{\"answer\": \"c\", \"rank\": 3}, {\"answer\": \"b\", \"rank\": 2.0}, {\"answer\": \"a\", "
      "\"rank\": 1}]}",
      "    type: zephyr.nectar\n", "rl: dpo\n",
      "<|system|>\n</s>\n<|user|>\nq</s>\n<|assistant|>\nchosen: [[a<|im_end|>]]\nrejected: [[b<|im_end|>]]\n");
}

static void the_system_text_of_a_row_goes_first(void **state) {
  (void)state;
  assert_shown("{\"system\": \"s\", \"messages\": \"q\", \"chosen\": \"yes\", \"rejected\": \"no\"}", "    type: chat_template\n",
               "rl: dpo\n", "<|im_start|>system\ns<|im_end|>\n" HEAD "chosen: [[yes<|im_end|>]]\nrejected: [[no<|im_end|>]]\n");
}

// Calls of tools and thoughts are part of what the model has to write, from where its generation prompt ends.
static void replies_begin_with_their_thoughts_and_calls(void **state) {
  (void)state;
  static const char open[] = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n";  // qwen3's generation prompt
  static const char thoughts[] =
      "{\"messages\": \"q\", \"chosen\": {\"role\": \"assistant\", \"reasoning_content\": \"hm\", \"content\": \"yes\"}, \"rejected\": "
      "\"no\"}";
  static const char keys[] = "    type: chat_template\n    chat_template: qwen3\n";
  char *expected = memory_format("%schosen: [[hm\n</think>\n\nyes<|im_end|>]]\nrejected: [[no<|im_end|>]]\n", open);
  assert_shown(thoughts, keys, "rl: dpo\n", expected);
  free(expected);
  static const char calls[] =
      "{\"messages\": \"q\", \"chosen\": {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"type\": \"function\", "
      "\"function\": {\"name\": \"f\", \"arguments\": {}}}]}, \"rejected\": \"no\"}";
  expected = memory_format(
      "%schosen: [[</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call><|im_end|>]]\nrejected: [[no<|im_end|>]]\n",
      open);
  assert_shown(calls, keys, "rl: dpo\n", expected);
  free(expected);
}

static void tokens_are_used_as_they_are(void **state) {
  (void)state;
  static const char *const names[][4] = {{"prompt_input_ids", "chosen_input_ids", "rejected_input_ids", "completion_input_ids"},
                                         {"prompt_ids", "chosen_ids", "rejected_ids", "completion_ids"}};
  for (int i = 0; i < 2; i++) {
    DataTest test;
    char *row = memory_format("{\"%s\": [40, 41], \"%s\": [50, 51, 52], \"%s\": [60]}", names[i][0], names[i][1], names[i][2]);
    data_test_start(&test, row, "", "rl: ipo\n");
    assert_ok(data_test_prepare(&test));
    const TokenRow *pair = &test.train.rows[0];
    static const int32_t ids[] = {40, 41, 50, 51, 52, 60}, labels[] = {-100, -100, 50, 51, 52, 60};
    assert_int_equal(pair->count, 6);
    assert_memory_equal(pair->ids, ids, sizeof ids);
    assert_memory_equal(pair->labels, labels, sizeof labels);
    assert_int_equal(pair->prompt, 2);
    assert_int_equal(pair->rejected, 5);
    assert_int_equal(pair->trained, 4);
    data_test_end(&test);
    free(row);
    row = memory_format("{\"%s\": [], \"%s\": [50, 51, 52], \"label\": false}", names[i][0], names[i][3]);
    data_test_start(&test, row, "", "rl: kto\n");
    assert_ok(data_test_prepare(&test));
    assert_int_equal(test.train.rows[0].trained, 2);  // nothing predicts the first
    assert_true(test.train.rows[0].is_undesirable);
    data_test_end(&test);
    free(row);
  }
}

static void no_reply_to_nothing_has_a_target_for_its_first_token(void **state) {
  (void)state;
  DataTest test;
  data_test_start(&test, "{\"prompt_ids\": [], \"chosen_ids\": [50, 51, 52], \"rejected_ids\": [60, 61]}", "", "rl: dpo\n");
  assert_ok(data_test_prepare(&test));
  assert_int_equal(test.train.rows[0].prompt, 0);
  assert_int_equal(test.train.rows[0].rejected, 3);
  assert_int_equal(test.train.rows[0].trained, 3);
  data_test_end(&test);
}

// It goes with the adapter, as that of supervised conversations does.
static void the_template_of_the_rows_is_known(void **state) {
  (void)state;
  static const char *const types[] = {"chat_template.default", "orpo.chat_template.argilla"};
  for (int i = 0; i < 2; i++) {
    DataTest test;
    char *source, *keys = memory_format("    type: %s\n    chat_template: llama3\n", types[i]);
    data_test_start(&test, "{}", keys, "rl: orpo\n");
    assert_ok(dataset_open_tokenizer(&test.tokenizer, &test.recipe));
    assert_ok(dataset_chat_template(&source, &test.recipe, test.tokenizer));
    assert_non_null(source);
    assert_non_null(strstr(source, "<|start_header_id|>"));
    free(source), free(keys);
    data_test_end(&test);
  }
}

// ---- Filters

#define PAIR(prompt, chosen, rejected) "{\"prompt_ids\": " prompt ", \"chosen_ids\": " chosen ", \"rejected_ids\": " rejected "}\n"

static void assert_report(const char *rows, const char *top, const char *const *words) {
  DataTest test;
  Buffer text = {0};
  data_test_start(&test, rows, "", top);
  Status status = data_test_prepare(&test);
  if (status != STATUS_OK) fail_msg("%s", status_message());
  row_set_describe(&text, &test.train, -1);
  for (; *words; words++)
    if (!strstr(text.data, *words)) fail_msg("no \"%s\" in: %s", *words, text.data);
  buffer_release(&text);
  data_test_end(&test);
}

static void a_pair_is_as_long_as_its_prompt_with_its_longer_reply(void **state) {
  (void)state;
  static const char rows[] = PAIR("[1, 2]", "[3, 4]", "[5, 6, 7]") PAIR("[1, 2]", "[3, 4, 5, 6]", "[7]")
      PAIR("[1, 2]", "[3]", "[4, 5, 6, 7]") PAIR("[1, 2, 3, 4, 5]", "[6]", "[7]") PAIR("[1, 2, 3, 4]", "[6]", "[7]");
  assert_report(
      rows, "rl: dpo\nsequence_len: 5\n",
      (const char *const[]){"rows: 5 read, 2 kept", "too long: 3", "rows.jsonl:2: dropped: too long: 6 tokens in prompt and reply",
                            "rows.jsonl:3: dropped: too long: 6 tokens",
                            "rows.jsonl:4: dropped: too long: a prompt of 5 tokens, sequence_len is 5", NULL});
  assert_report(
      rows, "rl: dpo\nsequence_len: 5\nmax_prompt_len: 3\n",
      (const char *const[]){"rows: 5 read, 1 kept", "rows.jsonl:5: dropped: too long: a prompt of 4 tokens, max_prompt_len is 3", NULL});
  assert_told(rows, "", "rl: dpo\nsequence_len: 5\nexcess_length_strategy: raise\n" ORDER,
              "6 tokens in prompt and reply, but sequence_len is 5", "rows.jsonl:2");
  assert_told(rows, "", "rl: dpo\nmax_prompt_len: 4\nexcess_length_strategy: raise\n" ORDER,
              "5 tokens in the prompt, but max_prompt_len is 4", "rows.jsonl:4");
}

static void truncation_cuts_the_ends_of_replies_alone(void **state) {
  (void)state;
  static const char rows[] = PAIR("[1, 2]", "[3, 4, 5, 6, 7]", "[8, 9, 10, 11]") PAIR("[1, 2]", "[3]", "[4, 5, 6, 7]")
      PAIR("[1, 2]", "[3, 4, 5, 6]", "[3, 4, 5, 7]") PAIR("[1, 2, 3, 4, 5]", "[6]", "[7]");
  DataTest test;
  data_test_start(&test, rows, "", "rl: dpo\nsequence_len: 5\nexcess_length_strategy: truncate\n" ORDER);
  assert_ok(data_test_prepare(&test));
  assert_int_equal(test.train.count, 2);
  static const int32_t first[] = {1, 2, 3, 4, 5, 8, 9, 10}, second[] = {1, 2, 3, 4, 5, 6}, labels[] = {-100, -100, 3, 4, 5, 8, 9, 10};
  const TokenRow *row = test.train.rows;
  assert_int_equal(row[0].count, 8);
  assert_memory_equal(row[0].ids, first, sizeof first);
  assert_memory_equal(row[0].labels, labels, sizeof labels);
  assert_int_equal(row[0].rejected, 5);
  assert_int_equal(row[0].trained, 6);
  assert_int_equal(row[1].count, 6);
  assert_memory_equal(row[1].ids, second, sizeof second);
  assert_int_equal(row[1].rejected, 3);
  assert_int_equal(test.train.report.fates[ROW_CUT], 2);
  assert_int_equal(test.train.report.fates[ROW_EQUAL_REPLIES], 1);  // what is left of them is the same
  assert_int_equal(test.train.report.fates[ROW_TOO_LONG], 1);
  data_test_end(&test);
  data_test_start(&test, "{\"prompt_ids\": [1, 2], \"completion_ids\": [3, 4, 5, 6], \"label\": true}", "",
                  "rl: kto\nsequence_len: 5\nexcess_length_strategy: truncate\n");
  assert_ok(data_test_prepare(&test));
  assert_int_equal(test.train.rows[0].count, 5);
  assert_int_equal(test.train.rows[0].trained, 3);
  data_test_end(&test);
}

static void rows_without_a_preference_are_dropped_and_told(void **state) {
  (void)state;
  static const char texts[] =
      "{\"prompt\": \"q\", \"chosen\": \"same\", \"rejected\": \"same\"}\n{\"prompt\": \"q\", \"chosen\": \"\", \"rejected\": \"no\"}\n"
      "{\"prompt\": \"q\", \"chosen\": \"yes\", \"rejected\": \"\"}\n{\"prompt\": \"\", \"chosen\": \"\", \"rejected\": \"no\"}\n"
      "{\"prompt\": \"q\", \"chosen\": \"yes\", \"rejected\": \"no\"}\n";
  static const char *const words[] = {"rows: 5 read, 1 kept",
                                      "rows.jsonl:1: dropped: equal replies: both replies are the same",
                                      "rows.jsonl:2: dropped: empty reply: the better reply has no token",
                                      "rows.jsonl:3: dropped: empty reply: the worse reply has no token",
                                      "rows.jsonl:4: dropped: empty reply: the better reply has no token",
                                      NULL};
  assert_report(texts, "rl: dpo\n", words);
  assert_report("{\"prompt\": \"q\", \"completion\": \"\", \"label\": true}\n{\"prompt\": \"q\", \"completion\": \"x\", \"label\": true}",
                "rl: kto\n", (const char *const[]){"1 kept", "rows.jsonl:1: dropped: empty reply: the reply has no token", NULL});
  // The marks of a form of chat make no reply of nothing, nor does a template.
  assert_told("{\"prompt\": \"q\", \"chosen\": \"\", \"rejected\": \"no\"}", "    type: chatml\n", "rl: dpo\n", "no row is left",
              "the better reply has no token");
  assert_told("{\"messages\": \"q\", \"chosen\": \"yes\", \"rejected\": \"\"}", "    type: chat_template\n", "rl: dpo\n", "no row is left",
              "the worse reply has no token");
  assert_told(
      "{\"chosen\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"\"}], \"rejected\": "
      "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"no\"}]}",
      "", "rl: dpo\n", "no row is left", "the better reply has no token");
}

static void rows_are_duplicates_only_with_the_same_replies(void **state) {
  (void)state;
  static const char rows[] = PAIR("[1, 2]", "[3, 4]", "[5]") PAIR("[1, 2]", "[3]", "[4, 5]") PAIR("[1, 2]", "[3, 4]", "[5]");
  assert_report(rows, "rl: dpo\ndataset_exact_deduplication: true\n", (const char *const[]){"2 kept", "duplicate: 1", NULL});
  static const char marks[] =
      "{\"prompt_ids\": [1], \"completion_ids\": [2], \"label\": true}\n"
      "{\"prompt_ids\": [1], \"completion_ids\": [2], \"label\": false}\n";
  assert_report(marks, "rl: kto\ndataset_exact_deduplication: true\n", (const char *const[]){"2 kept", NULL});
}

// ---- The cache, and the evaluation set

static void assert_same_row(const TokenRow *a, const TokenRow *b) {
  assert_int_equal(a->count, b->count);
  assert_int_equal(a->prompt, b->prompt);
  assert_int_equal(a->rejected, b->rejected);
  assert_int_equal(a->is_undesirable, b->is_undesirable);
  assert_int_equal(a->trained, b->trained);
  assert_memory_equal(a->ids, b->ids, (size_t)a->count * sizeof *a->ids);
  assert_memory_equal(a->labels, b->labels, (size_t)a->count * sizeof *a->labels);
}

static void check_cache(const char *rows, const char *top) {
  DataTest test;
  RowSet train, evaluation;
  data_test_start(&test, rows, "", top);
  assert_ok(dataset_open_tokenizer(&test.tokenizer, &test.recipe));
  test.recipe.dataset_prepared_path = path_join(test.folder, "prepared");
  assert_ok(dataset_prepare(&train, &evaluation, &test.recipe, test.tokenizer, NULL));
  assert_int_equal(train.count, 2);
  assert_int_equal(evaluation.count, 1);
  assert_ok(prepared_load(&test.train, &test.evaluation, &test.recipe, test.tokenizer, NULL));
  assert_true(test.train.map.size > 0);
  for (int64_t r = 0; r < 2; r++) assert_same_row(&test.train.rows[r], &train.rows[r]);
  assert_same_row(&test.evaluation.rows[0], &evaluation.rows[0]);
  assert_int_equal(evaluation.rows[0].prompt, 2);  // the tail of the rows, with all that they say
  row_set_release(&train), row_set_release(&evaluation);
  free(test.recipe.dataset_prepared_path);
  data_test_end(&test);
}

static void the_cache_and_the_evaluation_set_keep_what_rows_say_of_their_replies(void **state) {
  (void)state;
  check_cache(PAIR("[1, 2]", "[3, 4]", "[5]") PAIR("[]", "[3]", "[4, 5]") PAIR("[1, 2]", "[7, 8]", "[9]"),
              "rl: dpo\nval_set_size: 0.3\n" ORDER);
  check_cache(
      "{\"prompt_ids\": [1], \"completion_ids\": [2], \"label\": false}\n{\"prompt_ids\": [1], \"completion_ids\": [2], \"label\": 1}\n"
      "{\"prompt_ids\": [1, 3], \"completion_ids\": [2], \"label\": false}",
      "rl: kto\nval_set_size: 0.3\n" ORDER);
}

// ---- What is refused

static void types_that_do_not_go_with_the_method_are_refused(void **state) {
  (void)state;
  static const char row[] = "{\"prompt\": \"q\"}";
  assert_told(row, "    type: chatml.icr\n", "rl: kto\n", "type: chatml.icr: it does not go with rl: kto; there are chat_template, ",
              "llama3.ultra");
  assert_told(row, "    type: alpaca\n", "rl: dpo\n", "type: alpaca: it does not go with rl: dpo", "zephyr.nectar");
  assert_told(row, "    type: orpo.chat_template.argilla\n", "rl: kto\n", "it does not go with rl: kto", "a mapping of formats");
  assert_told(row, "    type: user_defined\n", "rl: dpo\n", "type: user_defined: it says nothing yet", "as a mapping");
  assert_told(row, "    type: {prompt_format: '{text}'}\n", "rl: dpo\n", "prompt_format: {text} is not {prompt} or {system}", "braces");
  assert_told(row, "    type: {rejected_format: '{chosen}'}\n", "rl: dpo\n", "rejected_format: {chosen} is not {rejected}", "braces");
}

static void bad_rows_are_told_what_they_lack(void **state) {
  (void)state;
  static const struct {
    const char *rl, *type, *row, *word;
  } cases[] = {
      {"kto", "", "{\"prompt\": \"q\", \"completion\": \"c\"}", "field \"label\" is missing"},
      {"kto", "", "{\"prompt\": \"q\", \"completion\": \"c\", \"label\": \"good\"}", "field \"label\" is not true or false"},
      {"kto", "", "{\"prompt\": \"q\", \"completion\": \"c\", \"label\": 2}", "field \"label\" is not true or false"},
      {"kto", "chat_template", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"q\"}], \"label\": true}",
       "there is no message before the reply"},
      {"kto", "chat_template",
       "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"user\", \"content\": \"r\"}], \"label\": true}",
       "the reply: its role is user"},
      {"kto", "chat_template", "{\"messages\": [], \"label\": true}", "field \"messages\" has no message"},
      {"dpo", "", "{\"prompt\": \"q\", \"chosen\": \"c\"}", "field \"rejected\" is missing"},
      {"dpo", "", "{\"prompt\": \"q\", \"chosen\": \"c\", \"rejected\": null}", "field \"rejected\" is null"},
      {"dpo", "", "{\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [99999]}", "rejected_ids[0] is 99999"},
      {"dpo", "", "{\"prompt\": [], \"chosen\": [], \"rejected\": []}", "no message"},
      {"dpo", "chatml", "{\"text\": \"q\", \"chosen\": \"c\", \"rejected\": \"r\"}", "field \"instruction\" is missing"},
      {"dpo", "chatml.intel", "{\"prompt\": \"q\", \"chosen\": \"c\", \"rejected\": \"r\"}", "field \"question\" is missing"},
      {"dpo", "chatml.ultra", "{\"prompt\": \"q\", \"chosen\": [{\"content\": \"c\"}], \"rejected\": []}", "\"chosen\" has no message 2"},
      {"dpo", "chatml.argilla_chat", "{\"chosen\": [{\"content\": \"q\"}, {\"text\": \"c\"}], \"rejected\": []}",
       "message 2 of \"chosen\": field \"content\" is missing"},
      {"dpo", "zephyr.nectar", "{\"prompt\": \"q\", \"answers\": [{\"answer\": \"a\", \"rank\": 1}]}", "has less than 2 answers"},
      {"dpo", "zephyr.nectar", "{\"prompt\": \"q\", \"answers\": [{\"answer\": \"a\"}]}", "answer 1 of \"answers\" has no rank"},
      {"dpo", "chat_template", "{\"messages\": \"q\", \"chosen\": 7, \"rejected\": \"r\"}", "field \"chosen\" is neither a text"},
      {"dpo", "chat_template", "{\"messages\": \"q\", \"chosen\": \"c\", \"rejected\": {\"role\": \"user\", \"content\": \"r\"}}",
       "the worse reply: its role is user"},
      {"dpo", "chat_template", "{\"messages\": [{\"from\": \"x\"}], \"chosen\": \"c\", \"rejected\": \"r\"}", "message 1: field \"role\""},
      {"dpo", "chat_template.argilla_chat", "{\"chosen\": [], \"rejected\": []}", "field \"chosen\" has no message"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *type = *cases[i].type ? memory_format("    type: %s\n", cases[i].type) : memory_copy_string("");
    char *top = memory_format("rl: %s\n", cases[i].rl);
    assert_told(cases[i].row, type, top, "rows.jsonl:1: ", cases[i].word);
    free(type), free(top);
  }
}

static void a_template_that_does_not_print_the_reply_is_told(void **state) {
  (void)state;
  assert_told("{\"messages\": \"q\", \"chosen\": \"c\", \"rejected\": \"r\"}",
              "    type: chat_template\n    chat_template: jinja\n    chat_template_jinja: \"{{ messages[0].content }} \\n <|im_end|>\"\n",
              "rl: dpo\n", "the better reply: it is not printed by", "rows.jsonl:1");
}

// ---- Data that is out in the world

static void check_shared(const char *name, const char *dataset, const char *rl, int64_t rows) {
  char *file = memory_format("data/llama-factory/%s", name), *path = shared_path(file);
  if (path) {
    DataTest test;
    char *top = memory_format("rl: %s\nsequence_len: 100000\ncurriculum_sampling: true\n", rl);
    data_test_start(&test, "{}", dataset, top);
    test.recipe.datasets[0].path = path;
    Status status = data_test_prepare(&test);
    if (status != STATUS_OK) fail_msg("%s: %s", name, status_message());
    assert_int_equal(test.train.count, rows);
    int64_t undesirable = 0;
    for (int64_t r = 0; r < rows; r++) {
      check_labels(&test.train.rows[r]);
      assert_true(test.train.rows[r].prompt > 0);
      assert_int_equal(test.train.rows[r].rejected > 0, strcmp(rl, "kto") != 0);
      undesirable += test.train.rows[r].is_undesirable;
    }
    if (strcmp(rl, "kto") == 0) assert_true(undesirable > 0 && undesirable < rows);
    data_test_end(&test);
    free(top);
  } else {
    printf("SKIPPED %s: it is not here\n", name);
  }
  free(file), free(path);
}

static void data_sets_of_others_go_through_whole(void **state) {
  (void)state;
  check_shared("dpo_en_demo.json",
               "    type: chat_template.default\n    field_messages: conversations\n"
               "    message_property_mappings: {role: from, content: value}\n",
               "dpo", 300);
  check_shared("kto_en_demo.json", "    type: chat_template\n", "kto", 300);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_every_type_equal_those_of_axolotl_and_trl),
      cmocka_unit_test(replies_are_shown_apart),
      cmocka_unit_test(a_reply_to_move_away_from_is_red),
      cmocka_unit_test(conversations_of_kto_end_in_the_reply_or_have_it_beside_them),
      cmocka_unit_test(the_best_two_answers_by_rank_are_the_pair),
      cmocka_unit_test(the_system_text_of_a_row_goes_first),
      cmocka_unit_test(replies_begin_with_their_thoughts_and_calls),
      cmocka_unit_test(tokens_are_used_as_they_are),
      cmocka_unit_test(no_reply_to_nothing_has_a_target_for_its_first_token),
      cmocka_unit_test(the_template_of_the_rows_is_known),
      cmocka_unit_test(a_pair_is_as_long_as_its_prompt_with_its_longer_reply),
      cmocka_unit_test(truncation_cuts_the_ends_of_replies_alone),
      cmocka_unit_test(rows_without_a_preference_are_dropped_and_told),
      cmocka_unit_test(rows_are_duplicates_only_with_the_same_replies),
      cmocka_unit_test(the_cache_and_the_evaluation_set_keep_what_rows_say_of_their_replies),
      cmocka_unit_test(types_that_do_not_go_with_the_method_are_refused),
      cmocka_unit_test(bad_rows_are_told_what_they_lack),
      cmocka_unit_test(a_template_that_does_not_print_the_reply_is_told),
      cmocka_unit_test(data_sets_of_others_go_through_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
