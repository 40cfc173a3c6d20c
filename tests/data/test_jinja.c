// Templates print, byte for byte, what transformers prints (tests/data/templates/golden.json, by tests/tools/make_template_golden.py);
// every printed byte knows where it came from; what is wrong or endless is refused with its place.
#include "data/jinja/jinja.h"

#include <time.h>

#include "core/file.h"
#include "tests/support/test.h"

static json_t *golden;

static int set_up(void **state) {
  (void)state;
  json_error_t error;
  setenv("TZ", "UTC", 1);
  tzset();
  golden = json_load_file(TESTS_DIR "/data/templates/golden.json", JSON_ALLOW_NUL, &error);
  return golden ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  json_decref(golden);
  return 0;
}

static Status render(JinjaText *text, const char *source, size_t length, const json_t *variables) {
  Jinja *jinja;
  TRY(jinja_compile(&jinja, "template", source, length));
  JinjaInput input = {.variables = variables, .now = (time_t)json_integer_value(json_object_get(golden, "now"))};
  Status status = jinja_render(text, jinja, &input);
  jinja_free(jinja);
  return status;
}

// ---- The same bytes as transformers.

static bool check_small(const json_t *item) {
  const json_t *source = json_array_get(item, 0), *expected = json_array_get(item, 1), *message = json_array_get(item, 2);
  JinjaText text = {0};
  Status status = render(&text, json_string_value(source), json_string_length(source), json_object_get(golden, "variables"));
  bool good;
  if (json_is_null(expected)) good = status == STATUS_BAD_INPUT && (!message || strcmp(status_message(), json_string_value(message)) == 0);
  else
    good = status == STATUS_OK && text.text.length == json_string_length(expected) &&
           memcmp(text.text.data, json_string_value(expected), text.text.length) == 0;
  if (!good) {
    print_error("%s\n  should give: %s\n  gives: %s\n", json_string_value(source),
                json_string_value(expected) ? json_string_value(expected) : "an error",
                status == STATUS_OK ? text.text.data : status_message());
  }
  jinja_text_release(&text);
  return good;
}

static void small_templates_print_what_transformers_prints(void **state) {
  (void)state;
  size_t i, wrong = 0;
  json_t *item;
  assert_true(json_array_size(json_object_get(golden, "small")) >= 900);
  json_array_foreach(json_object_get(golden, "small"), i, item) wrong += !check_small(item);
  assert_int_equal(wrong, 0);
}

// The variables of a case: conversations, then tools, generation prompt and extras, the last the fastest.
static json_t *case_variables(size_t index) {
  json_t *variables = json_object(), *extras = json_object_get(golden, "extras");
  size_t extra = index % json_array_size(extras), rest = index / json_array_size(extras);
  json_object_set_new(variables, "documents", json_null());
  json_object_update(variables, json_object_get(golden, "fixed"));
  json_object_update(variables, json_array_get(extras, extra));
  json_object_set_new(variables, "add_generation_prompt", json_boolean(rest % 2));
  json_object_set(variables, "tools", rest / 2 % 2 ? json_object_get(golden, "tools") : json_null());
  json_object_set(variables, "messages", json_array_get(json_array_get(json_object_get(golden, "conversations"), rest / 4), 1));
  return variables;
}

static bool check_digest(const char *name, const Buffer *source, size_t index, const char *expected, const char *whole) {
  json_t *variables = case_variables(index);
  JinjaText text = {0};
  char digest[65] = "error";
  Status status = render(&text, source->data, source->length, variables);
  if (status == STATUS_OK) sha256_bytes(digest, text.text.data, text.text.length);
  bool good = strncmp(digest, expected, strlen(expected)) == 0 && (!whole || strcmp(text.text.data, whole) == 0);
  if (!good) {
    print_error("%s, case %zu: %s\n", name, index, status == STATUS_OK ? text.text.data : status_message());
    if (whole) print_error("  should give: %s\n", whole);
  }
  json_decref(variables);
  jinja_text_release(&text);
  return good;
}

static void check_file(const char *name, const json_t *item, const char *path) {
  Buffer source = {0};
  size_t i, wrong = 0;
  json_t *expected;
  assert_ok(file_read(&source, path, 1 << 20));
  const char *known = json_string_value(json_object_get(item, "sha256"));
  if (known) {
    char digest[65];
    sha256_bytes(digest, source.data, source.length);
    assert_string_equal(digest, known);
  }
  json_array_foreach(json_object_get(item, "digests"), i, expected) {
    char key[24];
    snprintf(key, sizeof key, "%zu", i);
    wrong += !check_digest(name, &source, i, json_string_value(expected),
                           json_string_value(json_object_get(json_object_get(item, "texts"), key)));
  }
  assert_true(i >= 180);
  buffer_release(&source);
  assert_int_equal(wrong, 0);
}

static void templates_in_the_manner_of_each_family_print_what_transformers_prints(void **state) {
  (void)state;
  const char *name;
  json_t *item;
  assert_true(json_object_size(json_object_get(golden, "own")) >= 9);
  json_object_foreach(json_object_get(golden, "own"), name, item) {
    char *path = memory_format(TESTS_DIR "/data/templates/%s", name);
    check_file(name, item, path);
    free(path);
  }
}

static void published_templates_print_what_transformers_prints(void **state) {
  (void)state;
  const char *name;
  json_t *item;
  char *folder = shared_path("data/templates");
  if (!folder) skip_test("the published templates are not here");
  json_object_foreach(json_object_get(golden, "shared"), name, item) {
    char *path = path_join(folder, name);
    check_file(name, item, path);
    free(path);
  }
  free(folder);
}

static void generation_blocks_are_marked_as_transformers_marks_them(void **state) {
  (void)state;
  size_t i, s;
  json_t *item, *span;
  json_array_foreach(json_object_get(golden, "generations"), i, item) {
    const json_t *source = json_array_get(item, 0);
    JinjaText text = {0};
    assert_ok(render(&text, json_string_value(source), json_string_length(source), json_object_get(golden, "variables")));
    assert_string_equal(text.text.data, json_string_value(json_array_get(item, 1)));
    uint8_t *expected = memory_new(text.text.length, 1);
    json_array_foreach(json_array_get(item, 2), s, span) {
      json_int_t begin = json_integer_value(json_array_get(span, 0)), end = json_integer_value(json_array_get(span, 1));
      memset(expected + begin, 1, (size_t)(end - begin));
    }
    assert_memory_equal(text.generated, expected, text.text.length);
    free(expected);
    jinja_text_release(&text);
  }
}

static void generation_blocks_in_macros_are_marked(void **state) {
  (void)state;
  static const char source[] = "{% macro say(x) %}<{% generation %}{{ x }}{% endgeneration %}>{% endmacro %}a{{ say('bc') | upper }}d";
  JinjaText text = {0};
  assert_ok(render(&text, source, strlen(source), NULL));
  assert_string_equal(text.text.data, "a<BC>d");
  assert_memory_equal(text.generated, ((uint8_t[]){0, 0, 1, 1, 0, 0}), 6);
  jinja_text_release(&text);
}

// ---- Origins.

// Renders with the marked variable a = "hello world" (origins from 100 on) and b = " <é\n> " (from 500 on).
static void check_origins(const char *expression, const char *expected, const uint32_t *origins) {
  json_t *variables = json_pack("{s:s, s:s, s:[{s:s}]}", "a", "hello world", "b", " <\xC3\xA9\n> ", "list", "x", "abc");
  JinjaMark marks[] = {{json_object_get(variables, "b"), 500},
                       {json_object_get(variables, "a"), 100},
                       {json_object_get(json_array_get(json_object_get(variables, "list"), 0), "x"), 900}};
  JinjaInput input = {.variables = variables, .marks = marks, .mark_count = 3};
  Jinja *jinja;
  JinjaText text = {0};
  assert_ok(jinja_compile(&jinja, "origins", expression, strlen(expression)));
  assert_ok(jinja_render(&text, jinja, &input));
  assert_string_equal(text.text.data, expected);
  for (size_t i = 0; i < text.text.length; i++) {
    if (text.origins[i] != origins[i])
      fail_msg("%s: byte %zu of \"%s\" has origin %u, not %u", expression, i, expected, text.origins[i], origins[i]);
  }
  jinja_text_release(&text);
  jinja_free(jinja);
  json_decref(variables);
}

#define CHECK_ORIGINS(expression, expected, ...)                            \
  do {                                                                      \
    static const uint32_t origins_[] = {__VA_ARGS__};                       \
    assert_int_equal(sizeof origins_ / sizeof *origins_, strlen(expected)); \
    check_origins((expression), (expected), origins_);                      \
  } while (0)

static void origins_follow_slices_and_joins(void **state) {
  (void)state;
  CHECK_ORIGINS("{{ a[:2] }}", "he", 100, 101);
  CHECK_ORIGINS("<{{ a[-2:] }}>", "<ld>", 0, 109, 110, 0);
  CHECK_ORIGINS("{{ a[::-5] }}", "d h", 110, 105, 100);
  CHECK_ORIGINS("{{ a[4] ~ '-' ~ a[0] }}", "o-h", 104, 0, 100);
  CHECK_ORIGINS("{{ a[4] + 'x' + a[4] }}", "oxo", 104, 0, 104);
  CHECK_ORIGINS("{{ [a[0], 'y', a[1]] | join('+') }}", "h+y+e", 100, 0, 0, 0, 101);
  CHECK_ORIGINS("{{ ','.join([a[0], a[1]]) }}", "h,e", 100, 0, 101);
  CHECK_ORIGINS("{{ a[0] * 3 }}", "hhh", 100, 100, 100);
  CHECK_ORIGINS("{% for c in a[:2] %}{{ c }}.{% endfor %}", "h.e.", 100, 0, 101, 0);
  CHECK_ORIGINS("{{ (a | list)[6] ~ (a | first) ~ (a | last) }}", "whd", 106, 100, 110);
  CHECK_ORIGINS("{{ a[:3] | reverse }}", "leh", 102, 101, 100);
}

static void origins_follow_stripping_and_splitting(void **state) {
  (void)state;
  CHECK_ORIGINS("{{ b | trim }}", "<\xC3\xA9\n>", 501, 502, 503, 504, 505);
  CHECK_ORIGINS("{{ b.strip(' <>') }}", "\xC3\xA9\n", 502, 503, 504);
  CHECK_ORIGINS("{{ b.lstrip()[:1] ~ b.rstrip()[-1:] }}", "<>", 501, 505);
  CHECK_ORIGINS("{{ a.split('o')[1] }}", " w", 105, 106);
  CHECK_ORIGINS("{{ a.split()[1] }}", "world", 106, 107, 108, 109, 110);
  CHECK_ORIGINS("{{ a.rsplit('o', 1)[0][5:] ~ a.partition(' ')[2][:1] ~ a.rpartition('l')[1] }}",
                " ww"
                "l",
                105, 106, 106, 109);
  CHECK_ORIGINS("{{ b.splitlines()[1] }}", "> ", 505, 506);
  CHECK_ORIGINS("{{ a.removeprefix('hello ').removesuffix('rld') }}", "wo", 106, 107);
  CHECK_ORIGINS("{{ a | truncate(8, true, '..', 0) }}", "hello ..", 100, 101, 102, 103, 104, 105, 0, 0);
}

static void origins_follow_replacements_and_cases(void **state) {
  (void)state;
  CHECK_ORIGINS("{{ a[:5] | replace('l', 'LL') }}", "heLLLLo", 100, 101, 0, 0, 0, 0, 104);
  CHECK_ORIGINS("{{ 'x-y'.replace('-', a[:2]) }}", "xhey", 0, 100, 101, 0);
  CHECK_ORIGINS("{{ a[:2] | upper ~ a[:2].title() ~ a[:2] | capitalize }}", "HEHeHe", 100, 101, 100, 101, 100, 101);
  CHECK_ORIGINS("{{ b[1:3].upper() }}", "<\xC3\x89", 501, 502, 503);
  CHECK_ORIGINS("{{ b[1:3] | escape }}", "&lt;\xC3\xA9", 501, 501, 501, 501, 502, 503);
  CHECK_ORIGINS("{{ b | indent(1) }}", " <\xC3\xA9\n > ", 500, 501, 502, 503, 0, 0, 505, 506);
  CHECK_ORIGINS("{{ a[:1].center(3, '*') }}", "*h*", 0, 100, 0);
}

static void origins_follow_formats_and_json(void **state) {
  (void)state;
  CHECK_ORIGINS("{{ '%s=%3s' % (a[:2], a[4]) }}", "he=  o", 100, 101, 0, 0, 0, 104);
  CHECK_ORIGINS("{{ '[{}|{x:>2}]'.format(a[0], x=a[1]) }}", "[h| e]", 0, 100, 0, 0, 101, 0);
  CHECK_ORIGINS("{{ '%s' | format(a[0]) }}", "h", 100);
  CHECK_ORIGINS("{{ {'k': b[2:4]} | tojson }}", "{\"k\": \"\xC3\xA9\\n\"}", 0, 0, 0, 0, 0, 0, 0, 502, 503, 504, 504, 0, 0);
  CHECK_ORIGINS("{{ b[2:3] | tojson(ensure_ascii=true) }}", "\"\\u00e9\"", 0, 502, 502, 502, 502, 502, 502, 0);
  CHECK_ORIGINS("{{ list }}", "[{'x': 'abc'}]", 0, 0, 0, 0, 0, 0, 0, 0, 900, 901, 902, 0, 0, 0);
  CHECK_ORIGINS("{{ [b[3]] }}", "['\\n']", 0, 0, 504, 504, 0, 0);
  CHECK_ORIGINS("{{ a[0] | string | safe ~ 1 }}", "h1", 100, 0);
}

static void origins_follow_macros_blocks_and_containers(void **state) {
  (void)state;
  CHECK_ORIGINS("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(a[0])[1:] }}", "h>", 100, 0);
  CHECK_ORIGINS("{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ a[0] }}!{% endcall %}", "h!", 100, 0);
  CHECK_ORIGINS("{% set x %}({{ a[0] }}){% endset %}{{ x }}", "(h)", 0, 100, 0);
  CHECK_ORIGINS("{% filter upper %}x{{ a[0] }}{% endfilter %}", "XH", 0, 100);
  CHECK_ORIGINS("{% generation %}{{ a[0] }}{% endgeneration %}", "h", 100);
  CHECK_ORIGINS("{% set ns = namespace(t=a[0]) %}{{ ns.t ~ {'k': a[1]}.k ~ (none or a[2]) ~ (zz | default(a[3])) }}", "hell", 100, 101, 102,
                103);
  CHECK_ORIGINS("{% for x in list recursive %}{{ x.x }}{% endfor %}", "abc", 900, 901, 902);
  CHECK_ORIGINS("{{ list | map(attribute='x') | join }}", "abc", 900, 901, 902);
}

// Every content of a conversation is found again by its marks, trimmed or not.
static void marked_contents_are_found_in_the_text(void **state) {
  (void)state;
  Buffer source = {0};
  Jinja *jinja;
  JinjaText text = {0};
  assert_ok(file_read(&source, TESTS_DIR "/data/templates/turns.jinja", 1 << 20));
  assert_ok(jinja_compile(&jinja, "turns.jinja", source.data, source.length));
  json_t *variables =
      json_pack("{s:s, s:b, s:[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]}", "bos_token", "<s>", "add_generation_prompt", 1, "messages", "role",
                "user", "content", " same\n", "role", "assistant", "content", "\xC3\xA9 same ", "role", "user", "content", "same");
  const json_t *messages = json_object_get(variables, "messages");
  JinjaMark marks[3];
  for (size_t i = 0; i < 3; i++) marks[i] = (JinjaMark){json_object_get(json_array_get(messages, i), "content"), (uint32_t)(1 + 1000 * i)};
  assert_ok(jinja_render(&text, jinja, &(JinjaInput){.variables = variables, .marks = marks, .mark_count = 3}));
  static const char *const contents[] = {"same", "\xC3\xA9 same", "same"};
  for (size_t i = 0, at = 0; i < 3; i++) {
    while (at < text.text.length && text.origins[at] == 0) at++;
    size_t begin = at;
    uint32_t first = text.origins[at];
    assert_int_equal(first, 1 + 1000 * i + (i == 0));  // the first content's space is trimmed
    while (at < text.text.length && text.origins[at] == first + (at - begin)) at++;
    assert_int_equal(at - begin, strlen(contents[i]));
    assert_memory_equal(text.text.data + begin, contents[i], at - begin);
  }
  jinja_text_release(&text);
  jinja_free(jinja);
  json_decref(variables);
  buffer_release(&source);
}

// ---- Errors and bounds.

static void check_error(const char *source, const char *words) {
  JinjaText text = {0};
  assert_fails(STATUS_BAD_INPUT, render(&text, source, strlen(source), NULL), words);
  jinja_text_release(&text);
}

static void errors_name_the_line(void **state) {
  (void)state;
  check_error("a\n{% if x %}\n{{ 1 + }}", "template:3: ");
  check_error("a\n\n{% nosuch %}", "template:3: unknown tag `nosuch`");
  check_error("{#\n#}\n{{ 'a' | nosuch }}", "template:3: there is no filter named 'nosuch'");
  check_error("a\n{{ x.y.z }}", "template:2: 'x' is undefined");
  check_error("{% set d = {} %}\n{{ d.a.b }}", "template:2: 'dict object' has no attribute 'a'");
  check_error("\n{{ [].append(1) }}", "template:2: access to attribute 'append' of 'list' object is unsafe.");
  check_error("{%- macro m() %}\n\n{{ 1 / 0 }}{% endmacro %}{{ m() }}", "template:3: division by zero");
  check_error("{% include 'x' %}", "template:1: {% include %} is not for chat templates");
  check_error("{{ 9223372036854775807 + 1 }}", "template:1: an integer is too large");
  check_error("{{ raise_exception('only this') }}", "only this");
  check_error("\xFF", "not UTF-8");
}

static void endless_templates_are_stopped(void **state) {
  (void)state;
  check_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deep");
  check_error("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "nested too deep");
  check_error("{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}", "nested too deep");
  check_error("{{ range(100001) }}", "Range too big");
  check_error("{{ 'x' * 10000000000 }}", "memory");
  check_error("{{ [1] * 10000000000 }}", "memory");
  check_error("{{ 'x'.center(10000000000) }}", "memory");
  check_error("{{ [1] | batch(10000000000, 1) | list }}", "memory");
  check_error("{{ [1] | slice(10000000000) | list }}", "memory");
  check_error("{% set ns = namespace(x='xx') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory");
  check_error("{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "stopped");
  check_error(
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor "
      "%}"
      "{{ ns.x == ns.y }}",
      "stopped");
  check_error("{% set x = 'x' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}", "output");
  check_error("{% set ns = namespace(x=[1]) %}{% for i in range(50000) %}{% set ns.x = ns.x | map('abs') %}{% endfor %}{{ ns.x | list }}",
              "nested too deep");
}

static void steps_are_bounded(void **state) {
  (void)state;
  static const char source[] = "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}";
  Jinja *jinja;
  JinjaText text = {0};
  assert_ok(jinja_compile(&jinja, "steps", source, strlen(source)));
  assert_fails(STATUS_BAD_INPUT, jinja_render(&text, jinja, &(JinjaInput){.max_steps = 10000}), "steps:1: ", "too many steps");
  jinja_text_release(&text);
  assert_ok(jinja_render(&text, jinja, &(JinjaInput){0}));
  jinja_text_release(&text);
  jinja_free(jinja);
}

static void deep_sources_are_refused(void **state) {
  (void)state;
  static const char *const pieces[] = {"(",     "[",    "{'a':", "-",        "not ",       "a(",   "a[",
                                       "a if ", "1 + ", "1 ~ ",  "a | e | ", "{% if 1 %}", "1 ** "};
  for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
    Buffer source = {0};
    bool statement = pieces[p][1] == '%';
    if (!statement) buffer_append_string(&source, "{{ ");
    for (int i = 0; i < 20000; i++) buffer_append_string(&source, pieces[p]);
    if (!statement) buffer_append_string(&source, "1 }}");
    Jinja *jinja = NULL;
    Status status = jinja_compile(&jinja, "deep", source.data, source.length);
    assert_true(status == STATUS_BAD_INPUT || strcmp(pieces[p], "1 ~ ") == 0);
    jinja_free(jinja);
    buffer_release(&source);
  }
}

static void a_template_tells_what_it_reads(void **state) {
  (void)state;
  static const char source[] =
      "{% set own = enable_thinking %}{% for m in messages if m.a %}{{ m.tools }}{% endfor %}{% generation %}{% endgeneration %}";
  Jinja *jinja;
  assert_ok(jinja_compile(&jinja, "names", source, strlen(source)));
  assert_true(jinja_reads(jinja, "messages"));
  assert_true(jinja_reads(jinja, "enable_thinking"));
  assert_false(jinja_reads(jinja, "tools"));
  assert_false(jinja_reads(jinja, "own"));
  assert_true(jinja_has_generation(jinja));
  jinja_free(jinja);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_templates_print_what_transformers_prints),
      cmocka_unit_test(templates_in_the_manner_of_each_family_print_what_transformers_prints),
      cmocka_unit_test(published_templates_print_what_transformers_prints),
      cmocka_unit_test(generation_blocks_are_marked_as_transformers_marks_them),
      cmocka_unit_test(generation_blocks_in_macros_are_marked),
      cmocka_unit_test(origins_follow_slices_and_joins),
      cmocka_unit_test(origins_follow_stripping_and_splitting),
      cmocka_unit_test(origins_follow_replacements_and_cases),
      cmocka_unit_test(origins_follow_formats_and_json),
      cmocka_unit_test(origins_follow_macros_blocks_and_containers),
      cmocka_unit_test(marked_contents_are_found_in_the_text),
      cmocka_unit_test(errors_name_the_line),
      cmocka_unit_test(endless_templates_are_stopped),
      cmocka_unit_test(steps_are_bounded),
      cmocka_unit_test(deep_sources_are_refused),
      cmocka_unit_test(a_template_tells_what_it_reads),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
