// Calls of tools as they stream. Content goes on until a word that opens a call; from there bytes are held until the call is complete, or
// cannot be one: then the word is content, and what is behind it is read again.
#include "runtime/tool_calls.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "runtime/tool_call_text.h"

enum { MAX_OPENINGS = 2, MAX_SILENT = 2, MAX_HEADER = 256 };

#define DEEPSEEK(word) "<\xef\xbd\x9ctool\xe2\x96\x81" word "\xef\xbd\x9c>"  // <｜tool▁..｜>

typedef enum Body {
  BODY_JSON,  // a JSON value, then the closing word if it is there
  BODY_NAMED,  // the same, or NAME[ARGS] before an object
  BODY_BLOCK,  // all up to the closing word, or the end of the text
} Body;

typedef struct ToolOpening {
  const char *word;
  size_t kept;  // bytes at its end that are part of the body
  const char *close;  // NULL: none
} ToolOpening;

typedef struct FormatRow {
  const char *name;
  Body body;
  ToolOpening openings[MAX_OPENINGS];
  const char *silent[MAX_SILENT];  // words around calls that are no content
  const char *const *marks;  // lists of words, each ended by NULL, of which a template has all of one; the last list is empty
} FormatRow;

#define MARKS(...) \
  (const char *const[]) { __VA_ARGS__, NULL, NULL }

static const FormatRow rows[TOOL_FORMAT_COUNT] = {
    [TOOL_FORMAT_NONE] = {.name = "none"},
    [TOOL_FORMAT_HERMES] = {"hermes", BODY_JSON, {{"<tool_call>", 0, "</tool_call>"}}, {NULL}, MARKS("<tool_call>")},
    [TOOL_FORMAT_QWEN_XML] = {"qwen-xml",
                              BODY_BLOCK,
                              {{"<tool_call>", 0, "</tool_call>"}, {"<function=", 10, "</function>"}},
                              {"</tool_call>"},
                              MARKS("<function=", "<parameter=")},
    [TOOL_FORMAT_LLAMA] = {"llama",
                           BODY_JSON,
                           {{"<|python_tag|>", 0, NULL}, {"{", 1, NULL}},
                           {NULL},
                           MARKS("<|python_tag|>", NULL, "\"parameters\": ", "{\"name\": ")},
    [TOOL_FORMAT_MISTRAL] = {"mistral", BODY_NAMED, {{"[TOOL_CALLS]", 0, NULL}}, {NULL}, MARKS("[TOOL_CALLS]")},
    [TOOL_FORMAT_DEEPSEEK] = {"deepseek",
                              BODY_BLOCK,
                              {{DEEPSEEK("call\xe2\x96\x81"
                                         "begin"),
                                0,
                                DEEPSEEK("call\xe2\x96\x81"
                                         "end")}},
                              {DEEPSEEK("calls\xe2\x96\x81"
                                        "begin"),
                               DEEPSEEK("calls\xe2\x96\x81"
                                        "end")},
                              MARKS(DEEPSEEK("call\xe2\x96\x81"
                                             "begin"))},
    [TOOL_FORMAT_PHI] = {"phi", BODY_JSON, {{"<|tool_call|>", 0, "<|/tool_call|>"}}, {NULL}, MARKS("<|tool_call|>", "<|/tool_call|>")},
    [TOOL_FORMAT_GRANITE] = {"granite", BODY_JSON, {{"<|tool_call|>", 0, NULL}}, {NULL}, MARKS("<|tool_call|>")},
    [TOOL_FORMAT_FUNCTOOLS] = {"functools", BODY_JSON, {{"functools[", 1, NULL}}, {NULL}, MARKS("functools[")},
    [TOOL_FORMAT_GEMMA] = {"gemma", BODY_BLOCK, {{"```tool_code", 0, "```"}}, {NULL}, MARKS("```tool_code")},
    [TOOL_FORMAT_GEMMA4] = {"gemma4", BODY_BLOCK, {{"<|tool_call>", 0, "<tool_call|>"}}, {NULL}, MARKS("<|tool_call>", "<tool_call|>")},
};

const char *tool_format_name(ToolFormat format) { return rows[format].name; }

// Of a list of words up to NULL; *next is behind it.
static bool has_all(const char *text, const char *const *words, const char *const **next) {
  bool has = true;
  for (; *words; words++) has &= strstr(text, *words) != NULL;
  *next = words + 1;
  return has;
}

ToolFormat tool_format_detect(const char *chat_template) {
  static const ToolFormat order[] = {TOOL_FORMAT_MISTRAL, TOOL_FORMAT_DEEPSEEK, TOOL_FORMAT_QWEN_XML, TOOL_FORMAT_PHI,
                                     TOOL_FORMAT_GRANITE, TOOL_FORMAT_HERMES,   TOOL_FORMAT_LLAMA,    TOOL_FORMAT_FUNCTOOLS,
                                     TOOL_FORMAT_GEMMA,   TOOL_FORMAT_GEMMA4};
  for (size_t i = 0; chat_template && i < sizeof order / sizeof *order; i++) {
    for (const char *const *words = rows[order[i]].marks; *words;)
      if (has_all(chat_template, words, &words)) return order[i];
  }
  return TOOL_FORMAT_NONE;
}

void tool_calls_release(ToolCalls *calls) {
  tool_calls_cut(calls, 0);
  free(calls->items);
  *calls = (ToolCalls){0};
}

// ---- content ----

typedef enum Step { STEP_CONTENT, STEP_BODY, STEP_HEADER, STEP_VALUE, STEP_CLOSE, STEP_BLOCK } Step;

void tool_stream_new(ToolStream *stream, ToolFormat format, const json_t *tools, ToolReader reader) {
  *stream = (ToolStream){.format = format, .tools = tools, .reader = reader};
}

void tool_stream_release(ToolStream *stream) {
  buffer_release(&stream->held);
  buffer_release(&stream->space);
}

// Llama puts ';' between calls.
static bool is_space(const ToolStream *stream, char c) {
  return tool_call_is_space(c) || (c == ';' && stream->format == TOOL_FORMAT_LLAMA && stream->is_after_call);
}

static void tell(ToolStream *stream, const char *text, size_t length) {
  if (length && stream->reader.content) stream->reader.content(text, length, stream->reader.context);
}

static void tell_space(ToolStream *stream) {
  if (!stream->is_after_call) tell(stream, stream->space.data, stream->space.length);
  stream->space.length = 0;
}

// White space waits for what comes behind it.
static void tell_content(ToolStream *stream, const char *text, size_t length) {
  size_t begin = 0, end = length;
  while (begin < length && is_space(stream, text[begin])) begin++;
  buffer_append(&stream->space, text, begin);
  if (begin == length) return;
  tell_space(stream);
  stream->is_after_call = false;
  stream->has_content = true;
  while (tool_call_is_space(text[end - 1])) end--;
  tell(stream, text + begin, end - begin);
  buffer_append(&stream->space, text + end, length - end);
}

static void drop(ToolStream *stream, size_t length) {
  memmove(stream->held.data, stream->held.data + length, stream->held.length - length);
  stream->held.length -= length;
}

typedef struct Word {
  size_t place;  // in held; its length where there is none
  size_t length;
  const ToolOpening *opening;  // NULL: a silent word
  bool is_part;  // held ends within it
} Word;

// Where a word begins first, whole or cut off by the end.
static void look_for(Word *first, const Buffer *held, const char *word, const ToolOpening *opening) {
  size_t length = strlen(word);
  for (size_t i = 0; i < first->place; i++) {
    size_t left = held->length - i, compared = left < length ? left : length;
    if (memcmp(held->data + i, word, compared) != 0) continue;
    *first = (Word){.place = i, .length = length, .opening = opening, .is_part = left < length};
    return;
  }
}

// An object that begins the text, or follows calls, may be a call without a word before it.
static void look_for_object(Word *first, const ToolStream *stream, const ToolOpening *opening) {
  size_t at = 0;
  while (at < stream->held.length && is_space(stream, stream->held.data[at])) at++;
  if (stream->has_content || at >= first->place || stream->held.data[at] != '{') return;
  *first = (Word){.place = at, .length = 1, .opening = opening};
}

static Word find_word(const ToolStream *stream) {
  const FormatRow *row = &rows[stream->format];
  Word first = {.place = stream->held.length};
  for (int i = 0; i < MAX_OPENINGS && row->openings[i].word; i++) {
    if (row->openings[i].word[0] == '{') look_for_object(&first, stream, &row->openings[i]);
    else look_for(&first, &stream->held, row->openings[i].word, &row->openings[i]);
  }
  for (int i = 0; i < MAX_SILENT && row->silent[i]; i++) look_for(&first, &stream->held, row->silent[i], NULL);
  return first;
}

// A word around calls; what closes a call closes nothing where none was.
static void pass_silent(ToolStream *stream, size_t length) {
  if (stream->format == TOOL_FORMAT_QWEN_XML && !stream->is_after_call) tell_content(stream, stream->held.data, length);
  drop(stream, length);
}

// False: more text is needed.
static bool read_content(ToolStream *stream, bool is_end) {
  Word word = find_word(stream);
  if (word.is_part && is_end) word = (Word){.place = stream->held.length};
  tell_content(stream, stream->held.data, word.place);
  drop(stream, word.place);
  if (!word.length || word.is_part) return false;
  if (!word.opening) return pass_silent(stream, word.length), true;
  stream->opening = word.opening;
  stream->begin = stream->at = word.length - word.opening->kept;
  stream->step = STEP_BODY;
  return true;
}

// ---- calls ----

typedef enum Progress { PROGRESS_MORE, PROGRESS_NONE, PROGRESS_CALL, PROGRESS_NEXT } Progress;  // NONE: it is no call

static Progress read_body(ToolStream *stream) {
  const FormatRow *row = &rows[stream->format];
  while (stream->at < stream->held.length && tool_call_is_space(stream->held.data[stream->at])) stream->at++;
  if (row->body == BODY_BLOCK) return stream->step = STEP_BLOCK, PROGRESS_NEXT;
  if (stream->at == stream->held.length) return PROGRESS_MORE;
  char c = stream->held.data[stream->at];
  stream->begin = stream->value = stream->at;
  stream->depth = 0;
  stream->in_string = stream->is_escaped = false;
  if (c == '{' || c == '[') stream->step = STEP_VALUE;
  else if (row->body == BODY_NAMED) stream->step = STEP_HEADER;
  else if (stream->format == TOOL_FORMAT_LLAMA) stream->step = STEP_BLOCK;  // Python behind <|python_tag|>
  else return PROGRESS_NONE;
  return PROGRESS_NEXT;
}

static size_t name_length(const char *text, size_t length) {
  size_t n = 0;
  while (n < length && (isalnum((unsigned char)text[n]) || strchr("_-.", text[n])) && text[n]) n++;
  return n;
}

// NAME, [CALL_ID]ID, [ARGS], the last two if they are there.
static bool is_header(const char *text, size_t length) {
  static const char id[] = "[CALL_ID]", arguments[] = "[ARGS]";
  size_t at = name_length(text, length);
  if (!at) return false;
  if (length - at >= strlen(id) && memcmp(text + at, id, strlen(id)) == 0) at += strlen(id), at += name_length(text + at, length - at);
  if (length - at >= strlen(arguments) && memcmp(text + at, arguments, strlen(arguments)) == 0) at += strlen(arguments);
  while (at < length && tool_call_is_space(text[at])) at++;
  return at == length;
}

static Progress read_header(ToolStream *stream) {
  for (; stream->at < stream->held.length; stream->at++) {
    if (stream->held.data[stream->at] == '{') break;
    if (stream->at - stream->begin > MAX_HEADER) return PROGRESS_NONE;
  }
  if (stream->at == stream->held.length) return PROGRESS_MORE;
  if (!is_header(stream->held.data + stream->begin, stream->at - stream->begin)) return PROGRESS_NONE;
  stream->value = stream->at;
  stream->step = STEP_VALUE;
  return PROGRESS_NEXT;
}

static bool is_bare(const ToolStream *stream) { return stream->opening->word[0] == '{'; }

// An object without a word before it is told apart from an answer in JSON by its first key, so that answers are not held until they end.
static bool may_be_call(const char *text, size_t length) {
  static const char *const keys[] = {"name", "type", "function", "parameters", "arguments", "id", NULL};
  size_t at = 1, end;
  while (at < length && tool_call_is_space(text[at])) at++;
  if (at == length) return true;
  if (text[at++] != '"') return false;
  for (end = at; end < length && text[end] != '"'; end++) continue;
  for (int i = 0; keys[i]; i++) {
    size_t known = strlen(keys[i]), written = end - at;
    if (written <= known && memcmp(keys[i], text + at, written) == 0 && (end == length || written == known)) return true;
  }
  return false;
}

// Up to the bracket that closes the first one.
static Progress read_value(ToolStream *stream) {
  if (is_bare(stream) && !may_be_call(stream->held.data + stream->value, stream->held.length - stream->value)) return PROGRESS_NONE;
  while (stream->at < stream->held.length) {
    char c = stream->held.data[stream->at++];
    if (stream->in_string) {
      if (!stream->is_escaped && c == '"') stream->in_string = false;
      stream->is_escaped = !stream->is_escaped && c == '\\';
    } else if (c == '"') {
      stream->in_string = true;
    } else if (c == '{' || c == '[') {
      stream->depth++;
    } else if ((c == '}' || c == ']') && --stream->depth == 0) {
      return stream->step = STEP_CLOSE, PROGRESS_NEXT;
    }
  }
  return PROGRESS_MORE;
}

static bool read_text(ToolCalls *calls, const ToolStream *stream, size_t end) {
  const char *held = stream->held.data;
  if (stream->value == stream->begin) return tool_call_read_json(calls, held + stream->begin, end - stream->begin, is_bare(stream));
  size_t length = name_length(held + stream->begin, stream->value - stream->begin);
  return tool_call_read_named(calls, held + stream->begin, length, held + stream->value, end - stream->value);
}

// The closing word, which may be missing.
static Progress read_close(ToolCalls *calls, ToolStream *stream, bool is_end) {
  const char *close = stream->opening->close;
  size_t end = stream->at, at = end;
  if (close) {
    while (at < stream->held.length && tool_call_is_space(stream->held.data[at])) at++;
    size_t left = stream->held.length - at, length = strlen(close), compared = left < length ? left : length;
    bool is_close = memcmp(stream->held.data + at, close, compared) == 0;
    if (is_close && left < length && !is_end) return PROGRESS_MORE;
    if (is_close && left >= length) stream->at = at + length;
  }
  return read_text(calls, stream, end) ? PROGRESS_CALL : PROGRESS_NONE;
}

static const char *find_text(const char *text, size_t length, const char *word) {
  size_t word_length = strlen(word);
  for (size_t i = 0; i + word_length <= length; i++)
    if (memcmp(text + i, word, word_length) == 0) return text + i;
  return NULL;
}

// function<sep>NAME and a block of code on the next lines, or NAME<sep>ARGUMENTS.
static bool read_deepseek(ToolCalls *calls, const char *text, size_t length) {
  static const char separator[] = DEEPSEEK("sep"), kind[] = "function", fence[] = "```";
  const char *found = find_text(text, length, separator), *name = text;
  if (!found) return false;
  size_t size = (size_t)(found - text);
  const char *rest = found + strlen(separator), *end = text + length;
  tool_call_strip(&name, &size);
  if (size == strlen(kind) && memcmp(name, kind, size) == 0) {
    const char *line = memchr(rest, '\n', (size_t)(end - rest));
    if (!line) return false;
    name = rest, size = (size_t)(line - rest), rest = line + 1;
  }
  size_t left = (size_t)(end - rest);
  tool_call_strip(&rest, &left);
  if (left > strlen(fence) && memcmp(rest, fence, strlen(fence)) == 0) {
    const char *line = memchr(rest, '\n', left), *stop = line ? find_text(line, (size_t)(rest + left - line), fence) : NULL;
    if (!stop) return false;
    rest = line, left = (size_t)(stop - line);
  }
  return tool_call_read_named(calls, name, size, rest, left);
}

static bool read_block_text(ToolCalls *calls, const ToolStream *stream, size_t end) {
  const char *text = stream->held.data + stream->begin;
  size_t length = end - stream->begin;
  if (stream->format == TOOL_FORMAT_DEEPSEEK) return read_deepseek(calls, text, length);
  if (stream->format == TOOL_FORMAT_QWEN_XML) return tool_call_read_xml(calls, text, length, stream->tools);
  if (stream->format == TOOL_FORMAT_GEMMA4) return tool_call_read_gemma4(calls, text, length);
  return tool_call_read_python(calls, text, length);
}

static Progress read_block(ToolCalls *calls, ToolStream *stream, bool is_end) {
  const char *close = stream->opening->close;
  size_t length = close ? strlen(close) : 0, end = stream->held.length;
  size_t from = stream->at > stream->begin + length ? stream->at - length : stream->begin;  // it may have been cut
  const char *found = close ? find_text(stream->held.data + from, stream->held.length - from, close) : NULL;
  stream->at = stream->held.length;
  if (!found && !is_end) return PROGRESS_MORE;
  if (found) end = (size_t)(found - stream->held.data), stream->at = end + length;
  return read_block_text(calls, stream, end) ? PROGRESS_CALL : PROGRESS_NONE;
}

static Progress read_step(ToolCalls *calls, ToolStream *stream, bool is_end) {
  switch ((Step)stream->step) {
    case STEP_BODY: return read_body(stream);
    case STEP_HEADER: return read_header(stream);
    case STEP_VALUE: return read_value(stream);
    case STEP_CLOSE: return read_close(calls, stream, is_end);
    default: return read_block(calls, stream, is_end);
  }
}

static void tell_calls(ToolStream *stream, const ToolCalls *calls) {
  stream->space.length = 0;
  stream->is_after_call = true;
  for (int i = 0; i < calls->count; i++) {
    if (stream->reader.call) stream->reader.call(stream->calls, &calls->items[i], stream->reader.context);
    stream->calls++;
  }
  drop(stream, stream->at);
}

// False: more text is needed.
static bool read_call(ToolStream *stream, bool is_end) {
  ToolCalls calls = {0};
  Progress progress = read_step(&calls, stream, is_end);
  if (progress == PROGRESS_MORE && !is_end) return false;
  if (progress == PROGRESS_NEXT) return true;
  if (progress == PROGRESS_CALL) {
    tell_calls(stream, &calls);
  } else {  // the word is content, and so is what follows unless another call opens there
    size_t length = strlen(stream->opening->word);
    tell_content(stream, stream->held.data, length);
    drop(stream, length);
  }
  tool_calls_release(&calls);
  stream->step = STEP_CONTENT;
  return true;
}

static void read_on(ToolStream *stream, bool is_end) {
  while (stream->held.length && (stream->step == STEP_CONTENT ? read_content(stream, is_end) : read_call(stream, is_end))) continue;
}

void tool_stream_push(ToolStream *stream, const char *text, size_t length) {
  buffer_append(&stream->held, text, length);
  read_on(stream, false);
}

void tool_stream_finish(ToolStream *stream) {
  read_on(stream, true);
  tell_space(stream);
}

// ---- a whole text ----

typedef struct WholeText {
  ToolCalls *calls;
  Buffer *content;
} WholeText;

static void add_content(const char *text, size_t length, void *context) { buffer_append(((WholeText *)context)->content, text, length); }

static void add_call(int index, const ToolCall *call, void *context) {
  ToolCalls *calls = ((WholeText *)context)->calls;
  (void)index;
  ARRAY_PUSH(calls->items, calls->count, calls->capacity) = (ToolCall){memory_copy_string(call->name), memory_copy_string(call->arguments)};
}

void tool_calls_parse(ToolCalls *out, Buffer *content, ToolFormat format, const json_t *tools, const char *text, size_t length) {
  WholeText whole = {out, content};
  ToolStream stream;
  tool_stream_new(&stream, format, tools, (ToolReader){.content = add_content, .call = add_call, .context = &whole});
  tool_stream_push(&stream, text, length);
  tool_stream_finish(&stream);
  tool_stream_release(&stream);
}
