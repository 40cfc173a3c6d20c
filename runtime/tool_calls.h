// Calls of tools in what a model writes. Families write them in different ways; which one a model has been taught is seen in its chat
// template. Text is read as it comes: what is content is told as soon as it is certain, a call when it is complete. A call that is
// malformed, or never ends, is content. White space beside calls is dropped.
#ifndef RUNTIME_TOOL_CALLS_H
#define RUNTIME_TOOL_CALLS_H

#include <jansson.h>

#include "core/memory.h"

typedef enum ToolFormat {
  TOOL_FORMAT_NONE,  // everything is content
  TOOL_FORMAT_HERMES,  // <tool_call>{"name": .., "arguments": {..}}</tool_call>: Hermes, Qwen 2.5 and 3
  TOOL_FORMAT_QWEN_XML,  // <tool_call><function=NAME><parameter=KEY>..</parameter></function></tool_call>: Qwen3-Coder
  TOOL_FORMAT_LLAMA,  // the whole text is {"name": .., "parameters": {..}}, maybe behind <|python_tag|>: Llama 3
  TOOL_FORMAT_MISTRAL,  // [TOOL_CALLS][{"name": .., "arguments": {..}}], or [TOOL_CALLS]NAME[ARGS]{..}
  TOOL_FORMAT_DEEPSEEK,  // <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME, a block of JSON, <｜tool▁call▁end｜>; V3.1: NAME<｜tool▁sep｜>{..}
  TOOL_FORMAT_PHI,  // <|tool_call|>[{..}]<|/tool_call|>: Phi-4
  TOOL_FORMAT_GRANITE,  // <|tool_call|>[{..}]: Granite 3
  TOOL_FORMAT_FUNCTOOLS,  // functools[{..}]: FireFunction, Phi-4-mini
  TOOL_FORMAT_GEMMA,  // a block of code ```tool_code with NAME(KEY=VALUE, ..) in it: Gemma
  TOOL_FORMAT_GEMMA4,  // <|tool_call>call:NAME{KEY:VALUE,..}<tool_call|>: Gemma 4
  TOOL_FORMAT_COUNT,
} ToolFormat;

const char *tool_format_name(ToolFormat format);  // "none", "hermes", ...
ToolFormat tool_format_detect(const char *chat_template);  // NULL: TOOL_FORMAT_NONE

typedef struct ToolCall {
  char *name;
  char *arguments;  // a JSON object, as the model wrote it
} ToolCall;

typedef struct ToolCalls {
  ToolCall *items;  // [count]
  int count, capacity;
} ToolCalls;

void tool_calls_release(ToolCalls *calls);

// All are called from within tool_stream_push and tool_stream_finish, in the order of the text.
typedef struct ToolReader {
  void (*content)(const char *text, size_t length, void *context);
  void (*call)(int index, const ToolCall *call, void *context);  // index: 0, 1, ... in the text
  void *context;
} ToolReader;

typedef struct ToolStream {
  ToolFormat format;
  const json_t *tools;  // as in a request, for the types of parameters that are not written in JSON; NULL: what looks like JSON is
  ToolReader reader;
  Buffer held;  // not told yet; begins with a call's opening once that has been seen
  Buffer space;  // white space that may stand beside a call
  int step;  // of the call that may be there
  const struct ToolOpening *opening;
  size_t begin, value, at;  // in held: of the call's body, of the JSON value in it, and what is read so far
  int depth;  // of brackets, in the JSON value
  bool in_string, is_escaped;
  int calls;
  bool has_content;  // something else than white space
  bool is_after_call;
} ToolStream;

void tool_stream_new(ToolStream *stream, ToolFormat format, const json_t *tools, ToolReader reader);
void tool_stream_push(ToolStream *stream, const char *text, size_t length);
void tool_stream_finish(ToolStream *stream);  // the text ends here
void tool_stream_release(ToolStream *stream);

// The same for a whole text: appends to both.
void tool_calls_parse(ToolCalls *out, Buffer *content, ToolFormat format, const json_t *tools, const char *text, size_t length);

#endif
