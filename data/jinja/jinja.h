// The Jinja of chat templates (https://jinja.palletsprojects.com/en/stable/templates/), in the dialect of transformers'
// apply_chat_template: trim_blocks and lstrip_blocks are on, loop controls and {% generation %} are known, `tojson` is json.dumps with
// ensure_ascii=False, and raise_exception and strftime_now are there.
//
// While it renders, the engine knows of every byte where it came from: strings that the caller marks carry their positions through
// concatenation, slices, filters and methods into the printed text.
//
// Sandboxed: a template reads what it is given and nothing else, and its steps, depth, memory and output are bounded.
#ifndef DATA_JINJA_JINJA_H
#define DATA_JINJA_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/memory.h"
#include "core/status.h"

typedef struct Jinja Jinja;  // a compiled template, read-only: it may be rendered on several threads at once

// STATUS_BAD_INPUT: "NAME:LINE: what is wrong". `name` is for messages.
Status jinja_compile(Jinja **out, const char *name, const char *source, size_t length);
void jinja_free(Jinja *jinja);
bool jinja_has_generation(const Jinja *jinja);  // it has {% generation %} blocks
bool jinja_reads(const Jinja *jinja, const char *variable);  // the name stands anywhere in an expression as a variable

// The bytes of `string`, a value inside the variables, have the origins first, first + 1, ... (first >= 1).
typedef struct JinjaMark {
  const json_t *string;
  uint32_t first;
} JinjaMark;

typedef struct JinjaInput {
  const json_t *variables;  // an object: messages, tools, bos_token, add_generation_prompt, ...; null is None
  const JinjaMark *marks;  // [mark_count] in any order
  size_t mark_count;
  time_t now;  // for strftime_now, shown in local time
  int64_t max_steps;  // 0: 100 million, a few seconds
} JinjaInput;

typedef struct JinjaText {
  Buffer text;
  uint32_t *origins;  // [text.length] 0: a byte of the template's own; else where a marked string's byte came from
  uint8_t *generated;  // [text.length] 1: printed inside {% generation %}
  size_t capacity;  // of both arrays
} JinjaText;

// Fills `out`, which starts zeroed; release it in any case. STATUS_BAD_INPUT: what the template raised by raise_exception, or
// "NAME:LINE: ..." for an error of its own (an undefined value's attribute, a wrong type, a bound that was reached).
Status jinja_render(JinjaText *out, const Jinja *jinja, const JinjaInput *input);
void jinja_text_release(JinjaText *text);

#endif
