// Each type of row becomes the tokens and labels that transformers, driven by tests/tools/make_prompt_golden.py, gives it;
// each chat template prints the same bytes; rows that a type cannot take are told what they lack.
#include "data/prompt/prompt.h"

#include <jansson.h>

#include "core/file.h"
#include "data/template/chat_template.h"
#include "recipes/schema.h"
#include "tests/support/data.h"
#include "tests/support/test.h"

static json_t *golden;

static int set_up(void **state) {
  (void)state;
  json_error_t error;
  golden = json_load_file(TESTS_DIR "/data/prompts/golden.json", JSON_ALLOW_NUL, &error);
  return golden ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  json_decref(golden);
  return 0;
}

// The tiny tokenizer with another chat template.
static Tokenizer *tokenizer_with_template(const char *template) {
  char *folder = temporary_folder(), *path;
  json_t *config = json_load_file(TESTS_DIR "/data/tiny-hf/tokenizer_config.json", 0, NULL);
  assert_non_null(config);
  json_object_set_new(config, "chat_template", json_string(template));
  path = path_join(folder, "tokenizer_config.json");
  assert_int_equal(json_dump_file(config, path, 0), 0);
  free(path);
  json_decref(config);
  Buffer text = {0};
  assert_ok(file_read(&text, TESTS_DIR "/data/tiny-hf/tokenizer.json", 1 << 20));
  path = path_join(folder, "tokenizer.json");
  assert_ok(file_write_whole(path, text.data, text.length));
  free(path);
  buffer_release(&text);
  Tokenizer *tokenizer;
  assert_ok(tokenizer_from_folder(&tokenizer, folder));
  assert_ok(directory_remove(folder));
  free(folder);
  return tokenizer;
}

static Tokenizer *case_tokenizer(const json_t *item) {
  Tokenizer *tokenizer = NULL;
  const char *template = json_string_value(json_object_get(item, "template"));
  if (template) return tokenizer_with_template(template);
  if (strcmp(json_string_value(json_object_get(item, "tokenizer")), "tiny") == 0) {
    assert_ok(tokenizer_from_folder(&tokenizer, TESTS_DIR "/data/tiny-hf"));
    return tokenizer;
  }
  char *path = shared_path("data/story");
  if (path) assert_ok(tokenizer_from_folder(&tokenizer, path));
  free(path);
  return tokenizer;  // NULL: the reference data is not here
}

static void assert_tokens(const int32_t *actual, int64_t count, const json_t *expected, const char *name, const char *what) {
  bool same = (size_t)count == json_array_size(expected);
  for (int64_t i = 0; same && i < count; i++) same = json_integer_value(json_array_get(expected, (size_t)i)) == actual[i];
  if (same) return;
  char *text = json_dumps(expected, JSON_COMPACT);
  print_error("%s: %s differ; expected %s, got", name, what, text);
  for (int64_t i = 0; i < count; i++) print_error(" %d", actual[i]);
  print_error("\n");
  free(text);
  fail();
}

static void check_case(const json_t *item) {
  const char *name = json_string_value(json_object_get(item, "name"));
  char *rows = json_dumps(json_object_get(item, "row"), 0);
  DataTest test;
  const char *keys = json_string_value(json_object_get(item, "top"));
  char *top = memory_format("%s%s", strstr(keys, "sequence_len") ? "" : "sequence_len: 2048\n", keys);
  data_test_start(&test, rows, json_string_value(json_object_get(item, "dataset")), top);
  free(top);
  test.tokenizer = case_tokenizer(item);
  if (test.tokenizer) {
    assert_ok(data_test_prepare(&test));
    assert_int_equal(test.train.count, 1);
    const TokenRow *row = &test.train.rows[0];
    assert_tokens(row->ids, row->count, json_object_get(item, "ids"), name, "ids");
    assert_tokens(row->labels, row->count, json_object_get(item, "labels"), name, "labels");
  } else {
    printf("SKIPPED %s: its tokenizer is not here\n", name);
  }
  data_test_end(&test);
  free(rows);
}

static void rows_of_every_type_equal_the_golden_tokens_and_labels(void **state) {
  (void)state;
  size_t i;
  json_t *item;
  assert_true(json_array_size(json_object_get(golden, "cases")) >= 144);
  json_array_foreach(json_object_get(golden, "cases"), i, item) check_case(item);
}

static void check_rendering(const json_t *item) {
  const char *name = json_string_value(json_object_get(item, "name")), *source = json_string_value(json_object_get(item, "source"));
  const char *shared = json_string_value(json_object_get(item, "shared"));
  char *path = shared ? shared_path(shared) : NULL;
  if (shared && !path) {
    printf("SKIPPED %s: the template is not here\n", name);
    return;
  }
  Tokenizer *tokenizer;
  assert_ok(tokenizer_from_folder(&tokenizer, TESTS_DIR "/data/tiny-hf"));
  ChatTemplate *chat;
  ChatTemplateOptions options = {.name = source || path ? "jinja" : name, .jinja = path ? path : source};
  assert_ok(chat_template_open(&chat, &options, tokenizer));
  ChatText text = {0};
  const json_t *messages = json_object_get(item, "messages");
  assert_ok(chat_template_render(&text, chat, messages, NULL, json_is_true(json_object_get(item, "prompt"))));
  assert_string_equal(text.text.data, json_string_value(json_object_get(item, "text")));
  for (int64_t s = 0; s < text.count; s++) {  // every byte that is said to be of a content is that content's
    const ChatSpan *span = &text.spans[s];
    const char *content = json_string_value(json_object_get(json_array_get(messages, (size_t)span->message), "content"));
    for (size_t at = span->begin; at < span->end; at++) {
      assert_true(text.offsets[at] >= 0);
      assert_int_equal(text.text.data[at], content[text.offsets[at]]);
    }
  }
  chat_text_release(&text);
  chat_template_free(chat);
  tokenizer_free(tokenizer);
  free(path);
}

static void templates_print_what_transformers_prints(void **state) {
  (void)state;
  size_t i;
  json_t *item;
  assert_true(json_array_size(json_object_get(golden, "templates")) >= 32);
  json_array_foreach(json_object_get(golden, "templates"), i, item) check_rendering(item);
}

static void details_train_only_their_characters(void **state) {
  (void)state;
  DataTest test;
  data_test_start(
      &test,
      "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"\xC3\xA9 bad 7 good 8\","
      "\"parts\": [{\"begin_offset\": 0, \"end_offset\": 6, \"train\": false}, {\"begin_offset\": 7, \"end_offset\": 13, \"train\": "
      "true}]}]}",
      "    type: chat_template\n    message_field_training_detail: parts\n", "");
  assert_ok(data_test_prepare(&test));
  Buffer text = {0};
  row_show(&text, &test.train.rows[0], test.tokenizer, false, false);
  assert_string_equal(text.data, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n\xC3\xA9 bad 7[[ good 8<|im_end|>]]\n\n");
  buffer_release(&text);
  data_test_end(&test);
}

// A conversation by a template of its own, as marked text; the message where it is refused.
static char *marked(const char *template, const char *row, const char *dataset) {
  DataTest test;
  Buffer text = {0};
  char *keys = memory_format("    type: chat_template\n%s", dataset);
  data_test_start(&test, row, keys, "");
  free(keys);
  test.tokenizer = tokenizer_with_template(template);
  if (data_test_prepare(&test) == STATUS_OK) row_show(&text, &test.train.rows[0], test.tokenizer, false, false);
  else buffer_append_string(&text, status_message());
  data_test_end(&test);
  return text.data;
}

static void assert_marked(const char *template, const char *row, const char *dataset, const char *expected) {
  char *text = marked(template, row, dataset);
  assert_string_equal(text, expected);
  free(text);
}

static void assert_marked_holds(const char *template, const char *row, const char *dataset, const char *word, const char *other) {
  char *text = marked(template, row, dataset);
  if (!strstr(text, word) || !strstr(text, other)) fail_msg("no \"%s\" or no \"%s\" in: %s", word, other, text);
  free(text);
}

static const char short_talk[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"one\"}, "
    "{\"role\": \"user\", \"content\": \"r\"}, {\"role\": \"assistant\", \"content\": \"two\"}]}";

static void a_turn_whose_end_cannot_be_learnt_stops_with_the_row(void **state) {
  (void)state;
  static const char endless[] = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}";
  static const char once[] = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{{ eos_token }}";
  assert_marked_holds(endless, short_talk, "", "rows.jsonl:1: message 2", "train_on_eos: none");
  assert_marked(endless, short_talk, "    train_on_eos: none\n", "user:q\nassistant:[[one]]\nuser:r\nassistant:[[two]]\n\n");
  assert_marked_holds(once, short_talk, "", "rows.jsonl:1: message 2", "writes no end of turn");
  assert_marked(once, short_talk, "    train_on_eos: last\n", "user:q\nassistant:[[one]]\nuser:r\nassistant:[[two\n<|im_end|>]]\n");
}

static void a_message_that_is_not_printed_stops_with_the_row(void **state) {
  (void)state;
  static const char last_only[] = "{{ messages[-1].role }}:{{ messages[-1].content }}<|im_end|>";
  static const char length_only[] = "{% for m in messages %}{{ m.role }}:{{ m.content | length }}<|im_end|>\n{% endfor %}";
  assert_marked_holds(last_only, short_talk, "", "rows.jsonl:1: message 2 is to be trained", "does not print it");
  assert_marked_holds(length_only, short_talk, "", "message 2 is to be trained", "does not print it");
}

// What a template does to a content on its way does not lose it.
static void contents_are_followed_through_what_a_template_does_to_them(void **state) {
  (void)state;
  static const struct {
    const char *expression, *reply;
  } cases[] = {{"m.content | trim | upper", "ONE"},
               {"('[' ~ m['content'] ~ ']')[1:-1]", "one"},
               {"m.content.replace('n', 'nn')", "onne"},
               {"'<%s>' % m.content", "one"},
               {"m.content.split('n')[0] + 'n' + m.content[2:]", "one"},
               {"m.content | tojson", "one"},
               {"[m.content, ''] | join(' ') | trim", "one"},
               {"namespace(x=m.content).x", "one"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *template = memory_format(
        "{%% for m in messages %%}{{ m.role }}:{%% if m.role == 'user' %%}{{ m.content }}{%% else %%}{{ %s "
        "}}{%% endif %%}<|im_end|>\n{%% endfor %%}",
        cases[i].expression);
    char *text = marked(template, short_talk, "    train_on_eos: none\n"), *begin = strstr(text, "[["),
         *wanted = memory_format("[[%s", cases[i].reply);
    if (!begin || strncmp(begin, wanted, strlen(wanted)) != 0) fail_msg("%s: %s", cases[i].expression, text);
    free(template), free(text), free(wanted);
  }
}

static void templates_take_their_variables_from_the_recipe(void **state) {
  (void)state;
  static const char template[] =
      "{{ style }} {{ deep.list[1] }} {{ enable is false }}{% for m in messages %} {{ m.content }}<|im_end|>{% endfor %}";
  DataTest test;
  data_test_start(&test, short_talk, "    type: chat_template\n",
                  "chat_template_kwargs: {style: plain, enable: false, deep: {list: [1, x]}}\n");
  test.tokenizer = tokenizer_with_template(template);
  assert_ok(data_test_prepare(&test));
  Buffer text = {0};
  row_show(&text, &test.train.rows[0], test.tokenizer, false, false);
  assert_string_equal(text.data, "plain x True q<|im_end|>[[ one<|im_end|>]] r<|im_end|>[[ two<|im_end|>]]\n");
  buffer_release(&text);
  data_test_end(&test);
}

static void check_refused_row(const char *row, const char *dataset, const char *word, const char *other) {
  DataTest test;
  data_test_start(&test, row, dataset, "");
  Status status = data_test_prepare(&test);
  assert_fails(STATUS_BAD_INPUT, status, "rows.jsonl:1: ", word, other);
  data_test_end(&test);
}

static void bad_rows_are_told_with_their_place_and_what_they_lack(void **state) {
  (void)state;
  check_refused_row("{\"instruction\": \"a\", \"answer\": \"b\"}", "    type: alpaca\n", "field \"output\" is missing",
                    "instruction, answer");
  check_refused_row("{\"instruction\": [5], \"output\": \"b\"}", "    type: alpaca\n", "\"instruction\" is a list", "text");
  check_refused_row("{\"instruction\": \"a\", \"output\": {\"b\": 1}}", "    type: alpaca\n", "\"output\" is an object", "text");
  check_refused_row("{\"instruction\": \"a\", \"output\": null}", "    type: alpaca\n", "\"output\" is null", "text");
  check_refused_row("{\"prompt\": \"a\"}", "    type: completion\n", "field \"text\" is missing", "prompt");
  check_refused_row("{\"conversations\": []}", "    type: chat_template\n", "field \"messages\" is missing", "conversations");
  check_refused_row("{\"messages\": []}", "    type: chat_template\n", "no messages", "");
  check_refused_row("{\"messages\": [{\"from\": \"a\", \"value\": \"b\"}]}", "    type: chat_template\n", "message 1",
                    "\"role\" is missing");
  check_refused_row("{\"messages\": [{\"role\": \"user\", \"content\": null}]}", "    type: chat_template\n", "message 1",
                    "no text content");
  check_refused_row("{\"segments\": [{\"text\": \"a\"}]}", "    type: input_output\n", "segment 1", "label");
  check_refused_row("{\"input_ids\": [1, 2], \"labels\": [1]}", "", "labels has 1", "input_ids 2");
  check_refused_row("{\"input_ids\": [1, 99999], \"labels\": [1, 2]}", "", "input_ids[1] is 99999", "outside 0 .. 767");
  check_refused_row("{\"input_ids\": [1, -100], \"labels\": [1, 2]}", "", "input_ids[1] is -100", "");
  check_refused_row("{\"input_ids\": [1]}", "", "field \"labels\" is missing", "input_ids");
  check_refused_row("[{\"instruction\": \"a\"}, , 2]", "    type: alpaca\n", "a row is missing before", "");
  check_refused_row("7", "    type: alpaca\n", "a row must be an object", "number");
  check_refused_row("{\"text\": \"a\xFF\"}", "    type: completion\n", "not JSON", "0xff");
}

// One field at a time is left out of a row that has all that the type needs.
static void rows_without_a_needed_field_are_told_its_name(void **state) {
  (void)state;
  static const struct {
    const char *type, *fields[5];
  } cases[] = {{"context_qa", {"article", "question", "answer"}},
               {"context_qa.load_404", {"article", "unanswerable_question"}},
               {"context_qa.load_v2", {"context", "question", "answer"}},
               {"creative_acr.load_answer", {"instruction", "revision"}},
               {"creative_acr.load_critique", {"instruction", "answer", "scores", "critiques"}},
               {"creative_acr.load_revise", {"instruction", "answer", "scores", "critiques", "revision"}},
               {"metharme", {"prompt", "generation"}},
               {"orcamini", {"system_prompt", "question", "response"}},
               {"reflection", {"instruction", "output", "reflection", "corrected"}},
               {"concisechoice", {"question", "choices", "explanation"}},
               {"summarizetldr", {"article", "summary"}},
               {"pygmalion", {"conversations"}},
               {"messages.chat", {"messages"}}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (int without = 0; without < 5 && cases[i].fields[without]; without++) {
      json_t *row = json_pack("{s:s}", "other", "x");
      for (int f = 0; f < 5 && cases[i].fields[f]; f++) {
        const char *field = cases[i].fields[f];
        bool lists = strcmp(field, "choices") == 0, maps = strcmp(field, "scores") == 0 || strcmp(field, "critiques") == 0;
        if (f != without) json_object_set_new(row, field, lists ? json_array() : maps ? json_object() : json_string("text"));
      }
      char *text = json_dumps(row, 0), *dataset = memory_format("    type: %s\n", cases[i].type);
      char *said = memory_format("field \"%s\" is missing; the row has: other", cases[i].fields[without]);
      check_refused_row(text, dataset, said, "");
      free(text), free(dataset), free(said);
      json_decref(row);
    }
}

static void rows_of_the_conversational_types_are_told_the_message(void **state) {
  (void)state;
  check_refused_row("{\"conversations\": [{\"role\": \"gpt\", \"value\": \"a\"}]}", "    type: pygmalion\n", "message 1: role \"gpt\"",
                    "system, human, bot");
  check_refused_row("{\"conversations\": [{\"role\": \"bot\"}]}", "    type: pygmalion\n", "message 1: field \"value\" is missing", "role");
  check_refused_row("{\"conversations\": 5}", "    type: pygmalion\n", "not a list of {role, value}", "");
  check_refused_row("{\"messages\": []}", "    type: messages.chat\n", "has no messages", "");
  check_refused_row("{\"messages\": [{\"content\": \"a\"}]}", "    type: messages.chat\n", "message 1: field \"from\" is missing",
                    "content");
  check_refused_row("{\"messages\": [{\"role\": \"bot\", \"content\": \"a\"}]}", "    type: messages.chat\n", "message 1: role \"bot\"",
                    "assistant");
  check_refused_row("{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}", "    type: messages.chat\n",
                    "message 1: part 1", "chat_template");
  check_refused_row("{\"question\": \"a\", \"choices\": \"b\", \"solution\": \"c\"}", "    type: explainchoice\n",
                    "\"choices\" is not a list", "");
  check_refused_row("{\"question\": \"a\", \"choices\": [[]], \"solution\": \"c\"}", "    type: explainchoice\n", "choices[0]", "not text");
  check_refused_row("{\"instruction\": \"a\", \"output\": \"b\", \"reflection\": \"\", \"corrected\": \"c\"}", "    type: reflection\n",
                    "\"reflection\" is empty", "");
  check_refused_row("{\"instruction\": \"a\", \"answer\": \"b\", \"scores\": {\"\": 1}, \"critiques\": {}}",
                    "    type: creative_acr.load_critique\n", "field \"scores\"", "a key is empty");
}

// As Axolotl drops them: they would teach to say nothing.
static void rows_without_anything_to_say_are_dropped(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"{\"instruction\": \"a\", \"output\": \"\"}\n{\"instruction\": \"a\", \"output\": \"b\"}", "    type: alpaca\n"},
      {"{\"prompt\": \"a\", \"generation\": \"\"}\n{\"prompt\": \"a\", \"generation\": \"b\"}", "    type: metharme\n"},
      {"{\"text\": \"\"}\n{\"text\": \"b\"}", "    type: completion\n"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    DataTest test;
    data_test_start(&test, cases[i][0], cases[i][1], "");
    assert_ok(data_test_prepare(&test));
    assert_int_equal(test.train.count, 1);
    assert_int_equal(test.train.report.fates[ROW_UNTRAINED] + test.train.report.fates[ROW_TOO_SHORT], 1);
    data_test_end(&test);
  }
}

static void check_refused_type(const char *dataset, const char *word, const char *other) {
  DataTest test;
  data_test_start(&test, "{\"text\": \"a\"}", "", "");
  Recipe *recipe = &test.recipe;
  Prompt *prompt;
  DatasetRecipe given = recipe->datasets[0];
  given.type = (char *)(uintptr_t)dataset;
  assert_ok(dataset_open_tokenizer(&test.tokenizer, recipe));
  assert_fails(STATUS_USAGE, prompt_open(&prompt, &given, recipe, test.tokenizer), word, other);
  data_test_end(&test);
}

static void unknown_types_are_refused_with_the_nearest_known_one(void **state) {
  (void)state;
  check_refused_type("alpacca", "alpacca", "did you mean alpaca?");
  check_refused_type("alpaca:chta", "chta", "instruct, chat, chatml, phi");
  check_refused_type("alpaca_chat.load_q", "load_q", "load, load_concise, load_qa");
  check_refused_type("reflection:vicuna", "vicuna", "instruct");
  check_refused_type("messages.talk", "messages.talk", "messages.chat");
  check_refused_type("sharegpt", "chat_template", "conversations");
  check_refused_type("zzzzzzzzzzzz", "not known", "input_output");
}

// What a recipe may name, and `train` does not refuse, is a strategy here; what is refused says why here too.
static void every_type_of_recipes_opens_or_says_why_not(void **state) {
  (void)state;
  static const char *const styles[] = {"", ":chat", ":instruct", ":chatml", ":phi"};
  for (int i = 0; dataset_type_words[i]; i++) {
    bool styled = false;
    for (int s = 0; styled_type_words[s]; s++) styled = styled || strcmp(styled_type_words[s], dataset_type_words[i]) == 0;
    for (int s = 0; s < (styled ? 5 : 1); s++) {
      char *type = memory_format("%s%s", dataset_type_words[i], styles[s]);
      const char *reason = dataset_type_refusal(type);
      if (reason) check_refused_type(type, type, reason);
      if (dataset_type_is_built(type)) {
        DataTest test;
        data_test_start(&test, "{}", "", "");
        DatasetRecipe given = test.recipe.datasets[0];
        given.type = type;
        Prompt *prompt;
        assert_ok(dataset_open_tokenizer(&test.tokenizer, &test.recipe));
        assert_ok(prompt_open(&prompt, &given, &test.recipe, test.tokenizer));
        prompt_free(prompt);
        data_test_end(&test);
      }
      free(type);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_every_type_equal_the_golden_tokens_and_labels),
      cmocka_unit_test(templates_print_what_transformers_prints),
      cmocka_unit_test(details_train_only_their_characters),
      cmocka_unit_test(a_turn_whose_end_cannot_be_learnt_stops_with_the_row),
      cmocka_unit_test(a_message_that_is_not_printed_stops_with_the_row),
      cmocka_unit_test(contents_are_followed_through_what_a_template_does_to_them),
      cmocka_unit_test(templates_take_their_variables_from_the_recipe),
      cmocka_unit_test(bad_rows_are_told_with_their_place_and_what_they_lack),
      cmocka_unit_test(rows_without_a_needed_field_are_told_its_name),
      cmocka_unit_test(rows_of_the_conversational_types_are_told_the_message),
      cmocka_unit_test(rows_without_anything_to_say_are_dropped),
      cmocka_unit_test(every_type_of_recipes_opens_or_says_why_not),
      cmocka_unit_test(unknown_types_are_refused_with_the_nearest_known_one),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
