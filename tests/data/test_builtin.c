// The built-in chat templates print what Axolotl's templates of the same names print by transformers (tests/tools/make_builtin_golden.py),
// and mark the same bytes as generated.
#include "data/template/builtin.h"

#include "data/jinja/jinja.h"
#include "tests/support/test.h"

static json_t *golden;

static int set_up(void **state) {
  (void)state;
  setenv("TZ", "UTC", 1);
  golden = json_load_file(TESTS_DIR "/data/templates/builtin.json", 0, NULL);
  return golden ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  json_decref(golden);
  return 0;
}

static void set_or_null(json_t *variables, const char *name, json_t *value) {
  if (value) json_object_set(variables, name, value);
  else json_object_set_new(variables, name, json_null());
}

// bos_token and eos_token are the file's, unless the case has null there: then the variable is undefined.
static void set_token(json_t *variables, const char *name, const json_t *item, const char *key) {
  if (!json_object_get(item, key)) json_object_set(variables, name, json_object_get(golden, key));
}

static json_t *case_variables(const json_t *item) {
  const char *name = json_string_value(json_object_get(item, "conversation"));
  const json_t *conversation = json_object_get(json_object_get(golden, "conversations"), name);
  json_t *variables = json_object();
  set_or_null(variables, "messages", json_object_get(conversation, "messages"));
  set_or_null(variables, "tools", json_object_get(conversation, "tools"));
  json_object_set_new(variables, "documents", json_null());
  json_object_set(variables, "add_generation_prompt", json_object_get(item, "prompt"));
  set_token(variables, "bos_token", item, "bos");
  set_token(variables, "eos_token", item, "eos");
  json_object_update(variables, json_object_get(item, "variables"));
  return variables;
}

static char *expected_text(const json_t *item) {
  const json_t *opening = json_object_get(item, "opening");
  const char *first =
      opening ? json_string_value(json_array_get(json_object_get(golden, "openings"), (size_t)json_integer_value(opening))) : "";
  return memory_format("%s%s", first, json_string_value(json_object_get(item, "text")));
}

static void check_generated(const json_t *item, const JinjaText *text, const char *what) {
  const json_t *spans = json_object_get(item, "generated");
  if (!spans) return;
  size_t index = 0;
  for (size_t at = 0; at < text->text.length; at++) {
    while (index < json_array_size(spans) && at >= (size_t)json_integer_value(json_array_get(json_array_get(spans, index), 1))) index++;
    const json_t *span = json_array_get(spans, index);
    bool inside = span && at >= (size_t)json_integer_value(json_array_get(span, 0));
    if (inside != (text->generated[at] != 0)) fail_msg("%s: byte %zu is %sgenerated", what, at, inside ? "" : "not ");
  }
}

static void check_case(const json_t *item, const Jinja *jinja, const char *what) {
  json_t *variables = case_variables(item);
  JinjaText text = {0};
  Status status =
      jinja_render(&text, jinja, &(JinjaInput){.variables = variables, .now = (time_t)json_integer_value(json_object_get(golden, "now"))});
  if (json_is_true(json_object_get(item, "error"))) {
    if (status == STATUS_OK) fail_msg("%s: rendered, where transformers fails: %s", what, text.text.data);
  } else {
    char *expected = expected_text(item);
    if (status != STATUS_OK) fail_msg("%s: %s", what, status_message());
    if (strcmp(text.text.data, expected) != 0) fail_msg("%s:\n--- expected\n%s\n--- got\n%s", what, expected, text.text.data);
    check_generated(item, &text, what);
    free(expected);
  }
  jinja_text_release(&text);
  json_decref(variables);
}

static void each_prints_what_its_namesake_prints(void **state) {
  (void)state;
  size_t i;
  json_t *item;
  Jinja *jinja = NULL;
  const char *open = "";
  assert_true(json_array_size(json_object_get(golden, "cases")) > 1000);
  json_array_foreach(json_object_get(golden, "cases"), i, item) {
    const char *name = json_string_value(json_object_get(item, "template"));
    if (strcmp(name, open) != 0) {
      jinja_free(jinja);
      const char *source = builtin_template(name);
      if (!source) fail_msg("%s is not built in", name);
      assert_ok(jinja_compile(&jinja, name, source, strlen(source)));
      open = name;
    }
    char *what = memory_format("%s, case %zu (%s)", name, i, json_string_value(json_object_get(item, "conversation")));
    check_case(item, jinja, what);
    free(what);
  }
  jinja_free(jinja);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(each_prints_what_its_namesake_prints)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
