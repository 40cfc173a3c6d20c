// Calls of tools in the formats of families: which one a template teaches, what is read from texts, and that it does not depend on how they
// are cut.
#include "runtime/tool_calls.h"

#include "core/file.h"
#include "tests/support/test.h"

#define SEP "<\xef\xbd\x9ctool\xe2\x96\x81sep\xef\xbd\x9c>"
#define CALL_BEGIN                \
  "<\xef\xbd\x9ctool\xe2\x96\x81" \
  "call\xe2\x96\x81"              \
  "begin\xef\xbd\x9c>"
#define CALL_END                  \
  "<\xef\xbd\x9ctool\xe2\x96\x81" \
  "call\xe2\x96\x81"              \
  "end\xef\xbd\x9c>"
#define CALLS_BEGIN               \
  "<\xef\xbd\x9ctool\xe2\x96\x81" \
  "calls\xe2\x96\x81"             \
  "begin\xef\xbd\x9c>"
#define CALLS_END                 \
  "<\xef\xbd\x9ctool\xe2\x96\x81" \
  "calls\xe2\x96\x81"             \
  "end\xef\xbd\x9c>"

typedef struct CallCase {
  ToolFormat format;
  const char *text, *content;
  const char *calls[8];  // name, arguments, name, arguments, ...
} CallCase;

static const CallCase cases[] = {
    {TOOL_FORMAT_NONE, "<tool_call>{\"name\": \"f\"}</tool_call> ", "<tool_call>{\"name\": \"f\"}</tool_call> ", {NULL}},
    {TOOL_FORMAT_HERMES, " plain text\n", " plain text\n", {NULL}},
    {TOOL_FORMAT_HERMES, "", "", {NULL}},
    {TOOL_FORMAT_HERMES, "a < b <tool", "a < b <tool", {NULL}},
    {TOOL_FORMAT_HERMES, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 0.1}}\n</tool_call>", "", {"f", "{\"x\": 0.1}"}},
    {TOOL_FORMAT_HERMES,
     "Let me see.\n<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_call> \\\" "
     "{\"}}</tool_call>\n<tool_call>\n{\"arguments\":{},\"name\":\"g\"}\n</tool_call>\n",
     "Let me see.",
     {"f", "{\"x\": \"</tool_call> \\\" {\"}", "g", "{}"}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call> done", "done", {"f", "{\"a\": 1}"}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": \"f\"}</tool_call>", "", {"f", "{}"}},
    {TOOL_FORMAT_HERMES,
     "<tool_call>{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"a\": []}}}</tool_call>",
     "",
     {"f", "{\"a\": []}"}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {}} and more", "and more", {"f", "{}"}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_c", "</tool_c", {"f", "{}"}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {", "<tool_call>{\"name\": \"f\", \"arguments\": {", {NULL}},
    {TOOL_FORMAT_HERMES, "<tool_call>no\n</tool_call> x", "<tool_call>no\n</tool_call> x", {NULL}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": 3}</tool_call>", "<tool_call>{\"name\": 3}</tool_call>", {NULL}},
    {TOOL_FORMAT_HERMES,
     "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
     "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
     {NULL}},
    {TOOL_FORMAT_HERMES,
     "<tool_call>{'name': 'f'}</tool_call><tool_call>{\"name\": \"g\"}</tool_call>",
     "<tool_call>{'name': 'f'}</tool_call>",
     {"g", "{}"}},
    {TOOL_FORMAT_HERMES, "<tool_call>{\"name\": \"\xff\"}</tool_call>", "<tool_call>{\"name\": \"\xff\"}</tool_call>", {NULL}},
    {TOOL_FORMAT_QWEN_XML,
     "I "
     "look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</"
     "parameter>\n<parameter=code>\nif a < b:\n  \"x\"\n"
     "</parameter>\n</function>\n</tool_call>",
     "I look.",
     {"get_weather", "{\"city\":\"Paris\",\"days\":3,\"code\":\"if a < b:\\n  \\\"x\\\"\"}"}},
    {TOOL_FORMAT_QWEN_XML,
     "<tool_call>\n<function=f>\n<parameter=zip>\n00123\n</parameter>\n<parameter=phone>\n123\n</parameter>\n</function>\n</tool_call>",
     "",
     {"f", "{\"zip\":\"00123\",\"phone\":\"123\"}"}},
    {TOOL_FORMAT_QWEN_XML,
     "<function=f>\n</function>\n</tool_call>\n<function=g><parameter=l>[1, {}]</parameter></function>",
     "",
     {"f", "{}", "g", "{\"l\":[1,{}]}"}},
    {TOOL_FORMAT_QWEN_XML,
     "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>",
     "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>",
     {NULL}},
    {TOOL_FORMAT_LLAMA, "{\"name\": \"f\", \"parameters\": {\"q\": \"x\"}}", "", {"f", "{\"q\": \"x\"}"}},
    {TOOL_FORMAT_LLAMA,
     "\n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"a\": 1}}",
     "",
     {"f", "{}", "g", "{\"a\": 1}"}},
    {TOOL_FORMAT_LLAMA, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "", {"f", "{}"}},
    {TOOL_FORMAT_LLAMA,
     "<|python_tag|>brave_search.call(query=\"it's\", n=[1, -2.5], deep={'a': True, 'b': None})",
     "",
     {"brave_search", "{\"query\": \"it's\", \"n\": [1, -2.5], \"deep\": {\"a\": true, \"b\": null}}"}},
    {TOOL_FORMAT_LLAMA, "<|python_tag|>print(\"hi\")", "<|python_tag|>print(\"hi\")", {NULL}},
    {TOOL_FORMAT_LLAMA, "{ }", "{ }", {NULL}},
    {TOOL_FORMAT_LLAMA, "{\"name\": \"Ada\", \"age\": 36}", "{\"name\": \"Ada\", \"age\": 36}", {NULL}},
    {TOOL_FORMAT_LLAMA, "{\"answer\": 42}", "{\"answer\": 42}", {NULL}},
    {TOOL_FORMAT_LLAMA,
     "Use {\"name\": \"f\", \"parameters\": {}} here; now.",
     "Use {\"name\": \"f\", \"parameters\": {}} here; now.",
     {NULL}},
    {TOOL_FORMAT_LLAMA, "{\"name\": \"f\", \"parameters\": {\"a\": ", "{\"name\": \"f\", \"parameters\": {\"a\": ", {NULL}},
    {TOOL_FORMAT_MISTRAL,
     "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, {\"name\": \"g\", \"arguments\": {}}]",
     "",
     {"f", "{\"a\": 1}", "g", "{}"}},
    {TOOL_FORMAT_MISTRAL, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]", "", {"f", "{}"}},
    {TOOL_FORMAT_MISTRAL,
     "Sure.[TOOL_CALLS]get_time[ARGS]{\"zone\": \"UTC\"}[TOOL_CALLS]g[CALL_ID]abc123[ARGS]{}",
     "Sure.",
     {"get_time", "{\"zone\": \"UTC\"}", "g", "{}"}},
    {TOOL_FORMAT_MISTRAL, "[TOOL_CALLS]f{\"a\": 2}", "", {"f", "{\"a\": 2}"}},
    {TOOL_FORMAT_MISTRAL, "[TOOL_CALLS]two words{\"a\": 2}", "[TOOL_CALLS]two words{\"a\": 2}", {NULL}},
    {TOOL_FORMAT_MISTRAL, "[TOOL_CALLS][{\"name\": \"f\"}, 3]", "[TOOL_CALLS][{\"name\": \"f\"}, 3]", {NULL}},
    {TOOL_FORMAT_DEEPSEEK,
     "Hm." CALLS_BEGIN CALL_BEGIN "function" SEP "f\n```json\n{\"a\": 1}\n```" CALL_END "\n" CALL_BEGIN "function" SEP
     "g\n```json\n{}\n```" CALL_END CALLS_END,
     "Hm.",
     {"f", "{\"a\": 1}", "g", "{}"}},
    {TOOL_FORMAT_DEEPSEEK, CALLS_BEGIN CALL_BEGIN "f" SEP "{\"a\": \"b\"}" CALL_END CALLS_END, "", {"f", "{\"a\": \"b\"}"}},
    {TOOL_FORMAT_DEEPSEEK, CALL_BEGIN "f" SEP "{\"a\": \"b\"}", "", {"f", "{\"a\": \"b\"}"}},
    {TOOL_FORMAT_DEEPSEEK, CALL_BEGIN "f {\"a\": 1}" CALL_END, CALL_BEGIN "f {\"a\": 1}" CALL_END, {NULL}},
    {TOOL_FORMAT_PHI, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]<|/tool_call|>", "", {"f", "{\"a\": 1}"}},
    {TOOL_FORMAT_GRANITE, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]", "", {"f", "{\"a\": 1}"}},
    {TOOL_FORMAT_FUNCTOOLS, " functools[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]", "", {"f", "{\"a\": 1}"}},
    {TOOL_FORMAT_FUNCTOOLS, "functools is a module", "functools is a module", {NULL}},
    {TOOL_FORMAT_GEMMA,
     "OK\n```tool_code\nget(a=1, b='x\\'y',)\nprint(other())\n```\n",
     "OK",
     {"get", "{\"a\": 1, \"b\": \"x'y\"}", "other", "{}"}},
    {TOOL_FORMAT_GEMMA, "```tool_code\nx = 1\n```", "```tool_code\nx = 1\n```", {NULL}},
    {TOOL_FORMAT_GEMMA4,
     "Now.<|tool_call>call:f{a:<|\"|>x, "
     "{\"y\"}<|\"|>,b:[1,-2.5,true,None],c:{},d:{<|\"|>e<|\"|>:<|\"|><|\"|>}}<tool_call|><|tool_call>call:g{}<tool_call|>",
     "Now.",
     {"f", "{\"a\":\"x, {\\\"y\\\"}\",\"b\":[1,-2.5,true,null],\"c\":{},\"d\":{\"e\":\"\"}}", "g", "{}"}},
    {TOOL_FORMAT_GEMMA4, "<|tool_call>call:f{a:x}<tool_call|>", "<|tool_call>call:f{a:x}<tool_call|>", {NULL}},
    {TOOL_FORMAT_GEMMA4, "<|tool_call>call:f{a:[1}<tool_call|>", "<|tool_call>call:f{a:[1}<tool_call|>", {NULL}},
};

static const char tools_text[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\", \"properties\": {\"phone\": "
    "{\"type\": \"string\"}, \"a\": {\"type\": "
    "\"integer\"}}}}}]";

typedef struct Told {
  Buffer content;
  ToolCalls calls;
} Told;

static void add_content(const char *text, size_t length, void *context) {
  assert_true(length > 0);
  buffer_append(&((Told *)context)->content, text, length);
}

static void add_call(int index, const ToolCall *call, void *context) {
  ToolCalls *calls = &((Told *)context)->calls;
  assert_int_equal(index, calls->count);
  ARRAY_PUSH(calls->items, calls->count, calls->capacity) = (ToolCall){memory_copy_string(call->name), memory_copy_string(call->arguments)};
}

static void assert_told(const Told *told, const CallCase *one, const char *how) {
  int expected = 0;
  while (expected < 8 && one->calls[expected]) expected++;
  if (strcmp(told->content.data ? told->content.data : "", one->content) != 0)
    fail_msg("%s, %s: %s: content \"%s\"", tool_format_name(one->format), how, one->text, told->content.data ? told->content.data : "");
  if (told->calls.count != expected / 2) fail_msg("%s, %s: %s: %d calls", tool_format_name(one->format), how, one->text, told->calls.count);
  for (int i = 0; i < told->calls.count; i++) {
    assert_string_equal(told->calls.items[i].name, one->calls[2 * i]);
    assert_string_equal(told->calls.items[i].arguments, one->calls[2 * i + 1]);
  }
}

static void told_release(Told *told) {
  buffer_release(&told->content);
  tool_calls_release(&told->calls);
}

// In pieces of `size` bytes, the first one of `first`.
static void stream_case(const CallCase *one, const json_t *tools, size_t first, size_t size, const char *how) {
  Told told = {0};
  ToolStream stream;
  size_t length = strlen(one->text);
  tool_stream_new(&stream, one->format, tools, (ToolReader){add_content, add_call, &told});
  for (size_t at = 0, n = first; at < length; at += n, n = size) {
    if (n > length - at) n = length - at;
    tool_stream_push(&stream, one->text + at, n);
  }
  tool_stream_finish(&stream);
  assert_told(&told, one, how);
  tool_stream_release(&stream);
  told_release(&told);
}

static void calls_are_read_in_all_formats(void **state) {
  (void)state;
  json_t *tools = json_loads(tools_text, 0, NULL);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Told told = {0};
    tool_calls_parse(&told.calls, &told.content, cases[i].format, tools, cases[i].text, strlen(cases[i].text));
    assert_told(&told, &cases[i], "whole");
    told_release(&told);
  }
  json_decref(tools);
}

static void the_cut_into_pieces_changes_nothing(void **state) {
  (void)state;
  json_t *tools = json_loads(tools_text, 0, NULL);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    stream_case(&cases[i], tools, 1, 1, "byte by byte");
    stream_case(&cases[i], tools, 2, 3, "in threes");
    for (size_t first = 1; first < strlen(cases[i].text); first++) stream_case(&cases[i], tools, first, strlen(cases[i].text), "in two");
  }
  json_decref(tools);
}

static void content_is_told_as_soon_as_it_is_certain(void **state) {
  (void)state;
  Told told = {0};
  ToolStream stream;
  tool_stream_new(&stream, TOOL_FORMAT_HERMES, NULL, (ToolReader){add_content, add_call, &told});
  tool_stream_push(&stream, "Hello wor", 9);
  assert_string_equal(told.content.data, "Hello wor");
  tool_stream_push(&stream, "ld <", 4);
  assert_string_equal(told.content.data, "Hello world");
  tool_stream_push(&stream, "b", 1);
  assert_string_equal(told.content.data, "Hello world <b");
  const char *call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  tool_stream_push(&stream, call, strlen(call));
  assert_int_equal(told.calls.count, 1);  // before the text has ended
  tool_stream_finish(&stream);
  assert_string_equal(told.content.data, "Hello world <b");
  tool_stream_release(&stream);
  told_release(&told);
}

static void an_answer_in_json_is_not_held(void **state) {
  (void)state;
  Told told = {0};
  ToolStream stream;
  tool_stream_new(&stream, TOOL_FORMAT_LLAMA, NULL, (ToolReader){add_content, add_call, &told});
  tool_stream_push(&stream, "{\"na", 4);
  assert_int_equal(told.content.length, 0);  // it may be "name" still
  tool_stream_push(&stream, "tion\": [", 8);
  assert_string_equal(told.content.data, "{\"nation\": [");
  tool_stream_finish(&stream);
  tool_stream_release(&stream);
  told_release(&told);
}

static void formats_are_detected_in_templates(void **state) {
  (void)state;
  static const struct {
    const char *words;
    ToolFormat format;
  } texts[] = {{"", TOOL_FORMAT_NONE},
               {"{{ '<tool_call>' }}", TOOL_FORMAT_HERMES},
               {"<tool_call>\\n<function=a>\\n<parameter=b>", TOOL_FORMAT_QWEN_XML},
               {"'<|python_tag|>'", TOOL_FORMAT_LLAMA},
               {"[TOOL_CALLS]", TOOL_FORMAT_MISTRAL},
               {CALLS_BEGIN CALL_BEGIN, TOOL_FORMAT_DEEPSEEK},
               {"<|tool_call|> <|/tool_call|>", TOOL_FORMAT_PHI},
               {"<|tool_call|>", TOOL_FORMAT_GRANITE},
               {" functools[", TOOL_FORMAT_FUNCTOOLS},
               {"```tool_code", TOOL_FORMAT_GEMMA},
               {"<|tool_call>call: <tool_call|>", TOOL_FORMAT_GEMMA4}};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) assert_int_equal(tool_format_detect(texts[i].words), texts[i].format);
  assert_int_equal(tool_format_detect(NULL), TOOL_FORMAT_NONE);
}

static void formats_are_detected_in_shared_templates(void **state) {
  (void)state;
  static const struct {
    const char *name;
    ToolFormat format;
  } files[] = {{"Qwen-Qwen2.5-7B-Instruct", TOOL_FORMAT_HERMES},
               {"Qwen-Qwen3-0.6B", TOOL_FORMAT_HERMES},
               {"meta-llama-Llama-3.1-8B-Instruct", TOOL_FORMAT_LLAMA},
               {"meta-llama-Llama-3.2-3B-Instruct", TOOL_FORMAT_LLAMA},
               {"mistralai-Mistral-Nemo-Instruct-2407", TOOL_FORMAT_MISTRAL},
               {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", TOOL_FORMAT_DEEPSEEK},
               {"google-gemma-2-2b-it", TOOL_FORMAT_NONE},
               {"microsoft-Phi-3.5-mini-instruct", TOOL_FORMAT_NONE}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char *relative = memory_format("data/templates/%s.jinja", files[i].name), *path = shared_path(relative);
    Buffer text = {0};
    free(relative);
    if (!path) skip_test("no shared template %s", files[i].name);
    assert_ok(file_read(&text, path, 1 << 20));
    if (tool_format_detect(text.data) != files[i].format)
      fail_msg("%s: %s", files[i].name, tool_format_name(tool_format_detect(text.data)));
    buffer_release(&text);
    free(path);
  }
}

// Calls of a data set, as Hermes writes them, behind the words that an assistant said.
static void calls_of_a_data_set_come_back(void **state) {
  (void)state;
  char *path = shared_path("data/llama-factory/glaive_toolcall_en_demo.json");
  if (!path) skip_test("no shared rows with calls");
  Buffer text = {0};
  assert_ok(file_read(&text, path, 1 << 26));
  json_t *rows = json_loadb(text.data, text.length, 0, NULL), *row, *turn;
  size_t i, k;
  int read = 0;
  json_array_foreach(rows, i, row) json_array_foreach(json_object_get(row, "conversations"), k, turn) {
    if (strcmp(json_string_value(json_object_get(turn, "from")), "function_call") != 0) continue;
    const char *value = json_string_value(json_object_get(turn, "value"));
    char *words = memory_format("One moment.\n<tool_call>\n%s\n</tool_call>", value);
    json_t *expected = json_loads(value, 0, NULL);
    Told told = {0};
    if (!json_is_object(expected)) {  // rows whose call is no JSON are content
      json_decref(expected), free(words);
      continue;
    }
    tool_calls_parse(&told.calls, &told.content, TOOL_FORMAT_HERMES, NULL, words, strlen(words));
    assert_int_equal(told.calls.count, 1);
    assert_string_equal(told.content.data, "One moment.");
    assert_string_equal(told.calls.items[0].name, json_string_value(json_object_get(expected, "name")));
    json_t *arguments = json_loads(told.calls.items[0].arguments, 0, NULL);
    assert_true(json_equal(arguments, json_object_get(expected, "arguments")));
    json_decref(arguments);
    json_decref(expected);
    told_release(&told);
    free(words);
    read++;
  }
  print_message("%d calls of a data set read\n", read);
  assert_true(read > 100);
  json_decref(rows);
  buffer_release(&text);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(calls_are_read_in_all_formats),
      cmocka_unit_test(the_cut_into_pieces_changes_nothing),
      cmocka_unit_test(content_is_told_as_soon_as_it_is_certain),
      cmocka_unit_test(an_answer_in_json_is_not_held),
      cmocka_unit_test(formats_are_detected_in_templates),
      cmocka_unit_test(formats_are_detected_in_shared_templates),
      cmocka_unit_test(calls_of_a_data_set_come_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
