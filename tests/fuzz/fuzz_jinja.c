// A template, rendered over a fixed conversation; its origins must name bytes that are the same.
#include <stdlib.h>
#include <string.h>

#include "data/jinja/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *conversation(void) {
  static json_t *variables;
  if (!variables) {
    variables = json_loads(
        "{\"messages\": [{\"role\": \"system\", \"content\": \"Be <b>\"}, {\"role\": \"user\", \"content\": \" Hi \\u00e9\\n\\ud83d\\ude00 "
        "\"},"
        " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"abcdefghi\", \"function\": {\"name\": \"f\","
        " \"arguments\": {\"x\": 1.5, \"y\": [true, null, -3]}}}]}, {\"role\": \"tool\", \"content\": \"{}\"}],"
        " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"d\", \"parameters\": {\"type\": "
        "\"object\","
        " \"properties\": {\"x\": {\"type\": \"number\"}}}}}], \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"x\": \"ab\", "
        "\"n\": 3}",
        0, NULL);
  }
  return variables;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Jinja *jinja;
  JinjaText text = {0};
  const json_t *variables = conversation(),
               *content = json_object_get(json_array_get(json_object_get(variables, "messages"), 1), "content");
  JinjaMark mark = {content, 1};
  JinjaInput input = {.variables = variables, .marks = &mark, .mark_count = 1, .now = 1700000000, .max_steps = 100000};
  if (jinja_compile(&jinja, "fuzz", (const char *)data, size) != STATUS_OK) return 0;
  Status status = jinja_render(&text, jinja, &input);
  for (size_t i = 0; status == STATUS_OK && i < text.text.length; i++)
    if (text.origins[i] > json_string_length(content)) abort();
  jinja_text_release(&text);
  jinja_free(jinja);
  return 0;
}
