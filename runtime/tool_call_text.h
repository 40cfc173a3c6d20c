// The text of one call, or of a list of them, once its end is known.
#ifndef RUNTIME_TOOL_CALL_TEXT_H
#define RUNTIME_TOOL_CALL_TEXT_H

#include "runtime/tool_calls.h"

// {"name": .., "arguments" or "parameters": {..}}, or a list of these; the arguments may be missing unless `needs_arguments`. False, and
// nothing appended, when it is anything else.
bool tool_call_read_json(ToolCalls *out, const char *text, size_t length, bool needs_arguments);
// A name, and arguments as a JSON object.
bool tool_call_read_named(ToolCalls *out, const char *name, size_t name_length, const char *arguments, size_t length);
// <function=NAME> <parameter=KEY>VALUE</parameter> ..; values are JSON or, where the tool says "string" or they are no JSON, text.
bool tool_call_read_xml(ToolCalls *out, const char *text, size_t length, const json_t *tools);
// NAME(KEY=VALUE, ..) with Python's literals, one on each line.
bool tool_call_read_python(ToolCalls *out, const char *text, size_t length);

// call:NAME{KEY:VALUE,..} in Gemma 4's notation, whose texts stand between <|"|>.
bool tool_call_read_gemma4(ToolCalls *out, const char *text, size_t length);

bool tool_call_is_space(char c);
void tool_call_strip(const char **text, size_t *length);  // white space of both ends
void tool_calls_cut(ToolCalls *calls, int count);  // gives up all calls behind the first `count`

#endif
