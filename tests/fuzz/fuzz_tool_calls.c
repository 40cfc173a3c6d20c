// A text in each format, cut where the first byte says: pieces and the whole must give the same, and without calls nothing may be lost.
#include <stdlib.h>
#include <string.h>

#include "runtime/tool_calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Told {
  Buffer content, calls;
} Told;

static void add_content(const char *text, size_t length, void *context) { buffer_append(&((Told *)context)->content, text, length); }

static void add_call(int index, const ToolCall *call, void *context) {
  json_t *arguments = json_loads(call->arguments, 0, NULL);
  if (!json_is_object(arguments)) abort();
  json_decref(arguments);
  buffer_format(&((Told *)context)->calls, "%d %s %s\n", index, call->name, call->arguments);
}

static void read_pieces(Told *told, ToolFormat format, const char *text, size_t length, size_t piece) {
  ToolStream stream;
  *told = (Told){0};
  tool_stream_new(&stream, format, NULL, (ToolReader){add_content, add_call, told});
  for (size_t at = 0; at < length; at += piece) tool_stream_push(&stream, text + at, length - at < piece ? length - at : piece);
  tool_stream_finish(&stream);
  tool_stream_release(&stream);
}

static bool are_equal(const Buffer *a, const Buffer *b) {
  return a->length == b->length && (!a->length || memcmp(a->data, b->data, a->length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!size) return 0;
  const char *text = (const char *)data + 1;
  size_t length = size - 1;
  for (ToolFormat format = 0; format < TOOL_FORMAT_COUNT; format++) {
    Told whole, pieces;
    read_pieces(&whole, format, text, length, length + 1);
    read_pieces(&pieces, format, text, length, 1 + data[0] % 16);
    if (!are_equal(&whole.content, &pieces.content) || !are_equal(&whole.calls, &pieces.calls)) abort();
    bool keeps_all = !whole.calls.length && format != TOOL_FORMAT_DEEPSEEK;  // whose words around calls are dropped
    if (keeps_all && (whole.content.length != length || (length && memcmp(whole.content.data, text, length) != 0))) abort();
    buffer_release(&whole.content);
    buffer_release(&whole.calls);
    buffer_release(&pieces.content);
    buffer_release(&pieces.calls);
  }
  return 0;
}
