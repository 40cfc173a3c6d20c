#include "tests/support/test.h"

#include "server/fields.h"

static Fields fields_of(json_t **owner, const char *text) {
  *owner = json_loads(text, 0, NULL);
  assert_non_null(*owner);
  return (Fields){.object = *owner};
}

static void values_are_read_by_their_types(void **state) {
  (void)state;
  json_t *owner;
  Fields fields =
      fields_of(&owner, "{\"b\": true, \"i\": -3, \"w\": 16.0, \"f\": 2.5, \"g\": 2, \"s\": \"x\", \"none\": null, \"l\": [], \"o\": {}}");
  bool flag = false;
  int64_t integer = 0, kept = 7;
  double number = 0;
  const char *text = NULL;
  const json_t *tree = NULL;
  assert_ok(fields_bool(&flag, &fields, "b"));
  assert_true(flag);
  assert_ok(fields_integer(&integer, &fields, "i", -3, 5));
  assert_int_equal(integer, -3);
  assert_ok(fields_integer(&integer, &fields, "w", 0, 16));  // some clients have floats alone
  assert_int_equal(integer, 16);
  assert_ok(fields_integer(&kept, &fields, "none", 0, 1));
  assert_ok(fields_integer(&kept, &fields, "absent", 0, 1));
  assert_int_equal(kept, 7);
  assert_ok(fields_float(&number, &fields, "f", 0, 3));
  assert_true(number == 2.5);
  assert_ok(fields_float(&number, &fields, "g", 0, 3));
  assert_true(number == 2);
  assert_ok(fields_string(&text, &fields, "s"));
  assert_string_equal(text, "x");
  assert_ok(fields_array(&tree, &fields, "l"));
  assert_true(json_is_array(tree));
  assert_ok(fields_object(&tree, &fields, "o"));
  assert_true(json_is_object(tree));
  assert_null(fields.param);
  json_decref(owner);
}

static void a_wrong_value_is_refused_and_named(void **state) {
  (void)state;
  json_t *owner;
  Fields fields = fields_of(&owner, "{\"b\": 1, \"i\": 2.5, \"h\": 1e300, \"f\": \"2\", \"s\": 3, \"l\": {}, \"o\": []}");
  bool flag;
  int64_t integer;
  double number;
  const char *text;
  const json_t *tree;
  assert_fails(STATUS_USAGE, fields_bool(&flag, &fields, "b"), "\"b\"", "boolean", "integer");
  assert_string_equal(fields.param, "b");
  assert_fails(STATUS_USAGE, fields_integer(&integer, &fields, "i", 0, 9), "\"i\"", "integer");
  assert_fails(STATUS_USAGE, fields_integer(&integer, &fields, "h", 0, 9), "\"h\"");
  assert_fails(STATUS_USAGE, fields_integer(&integer, &fields, "b", 2, 9), "from 2 to 9", "is 1");
  assert_fails(STATUS_USAGE, fields_float(&number, &fields, "f", 0, 9), "\"f\"", "number", "string");
  assert_fails(STATUS_USAGE, fields_float(&number, &fields, "i", 0, 1), "from 0 to 1", "2.5");
  assert_fails(STATUS_USAGE, fields_string(&text, &fields, "s"), "\"s\"", "string");
  assert_fails(STATUS_USAGE, fields_array(&tree, &fields, "l"), "list", "object");
  assert_fails(STATUS_USAGE, fields_object(&tree, &fields, "o"), "object", "list");
  assert_string_equal(fields.param, "o");
  json_decref(owner);
}

static void strings_may_be_one_or_several(void **state) {
  (void)state;
  json_t *owner;
  Fields fields = fields_of(&owner, "{\"one\": \"a\", \"two\": [\"b\", \"c\"], \"empty\": [\"\"], \"mixed\": [\"a\", 1]}");
  const char **items = NULL;
  int count = 0, capacity = 0;
  assert_ok(fields_strings(&items, &count, &capacity, &fields, "one", 4));
  assert_ok(fields_strings(&items, &count, &capacity, &fields, "two", 4));
  assert_int_equal(count, 3);
  assert_string_equal(items[2], "c");
  assert_fails(STATUS_USAGE, fields_strings(&items, &count, &capacity, &fields, "two", 1), "2 strings", "at most 1");
  assert_fails(STATUS_USAGE, fields_strings(&items, &count, &capacity, &fields, "empty", 4), "empty string");
  assert_fails(STATUS_USAGE, fields_strings(&items, &count, &capacity, &fields, "mixed", 4), "list of strings", "integer");
  free(items);
  json_decref(owner);
}

// Each byte is a token.
static Status encode_bytes(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length) {
  (void)tokenizer;
  for (size_t i = 0; i < length; i++) token_list_push(out, (unsigned char)text[i]);
  return STATUS_OK;
}

static int read_texts(TokenList **lists, const char *text, int most, Status expected) {
  json_t *owner;
  char *object = memory_format("{\"input\": %s}", text);
  Fields fields = fields_of(&owner, object);
  int count = 0;
  *lists = NULL;
  Status status = fields_texts(lists, &count, &fields, "input", NULL, 256, encode_bytes, most);
  if (status != expected) fail_msg("%s: status %d: %s", text, status, status_message());
  if (status != STATUS_OK) assert_string_equal(fields.param, "input");
  free(object);
  json_decref(owner);
  return count;
}

static void texts_have_four_forms(void **state) {
  (void)state;
  const struct {
    const char *text;
    int count;
    int64_t last;  // tokens of the last
  } cases[] = {{"\"abc\"", 1, 3}, {"[\"a\", \"bcd\"]", 2, 3}, {"[1, 2]", 1, 2}, {"[[1], [2, 3]]", 2, 2}, {"[[7]]", 1, 1}};
  TokenList *lists;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int count = read_texts(&lists, cases[i].text, 2, STATUS_OK);
    assert_int_equal(count, cases[i].count);
    assert_int_equal(lists[count - 1].count, cases[i].last);
    token_lists_release(lists, count);
  }
  const char *const wrong[] = {"null", "3",          "[]",          "[[]]",       "\"\"",  "[256]",
                               "[-1]", "[1, \"a\"]", "[[1], \"\"]", "[[1, [2]]]", "[1.5]", "[\"a\", \"b\", \"c\"]",
                               "{}"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    int count = read_texts(&lists, wrong[i], 2, STATUS_USAGE);
    token_lists_release(lists, count);
  }
}

static void a_body_is_json_without_keys_twice_and_not_too_deep(void **state) {
  (void)state;
  json_t *tree;
  assert_ok(json_body_read(&tree, "{\"a\": \"[[[\\\"[[\"}", 16));
  json_decref(tree);
  assert_fails(STATUS_USAGE, json_body_read(&tree, NULL, 0), "no JSON");
  assert_fails(STATUS_USAGE, json_body_read(&tree, "{\"a\": 1, \"a\": 2}", 16), "duplicate");
  assert_fails(STATUS_USAGE, json_body_read(&tree, "\"\xff\"", 3), "no JSON");
  Buffer deep = {0};
  for (int i = 0; i < JSON_DEPTH_MOST; i++) buffer_append_string(&deep, "[");
  for (int i = 0; i < JSON_DEPTH_MOST; i++) buffer_append_string(&deep, "]");
  assert_ok(json_body_read(&tree, deep.data, deep.length));
  json_decref(tree);
  buffer_append_string(&deep, " ");
  memmove(deep.data + 1, deep.data, deep.length - 1);
  assert_fails(STATUS_USAGE, json_body_read(&tree, deep.data, deep.length), "deep");
  buffer_release(&deep);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_are_read_by_their_types),
      cmocka_unit_test(a_wrong_value_is_refused_and_named),
      cmocka_unit_test(strings_may_be_one_or_several),
      cmocka_unit_test(texts_have_four_forms),
      cmocka_unit_test(a_body_is_json_without_keys_twice_and_not_too_deep),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
