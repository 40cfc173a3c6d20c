// Text that comes out in pieces of bytes (tokens) and is shown as it comes: what might be the beginning of a stop string
// or of a UTF-8 character waits until it is known. What comes out is always valid UTF-8: bytes that are not become U+FFFD.
#ifndef RUNTIME_TEXT_STREAM_H
#define RUNTIME_TEXT_STREAM_H

#include "core/memory.h"

typedef struct TextStream {
  const char *const *stops;  // not empty strings; borrowed
  int stop_count;
  Buffer held;
  int stopped_by;  // the index of the stop string that was met; -1: none
} TextStream;

void text_stream_new(TextStream *stream, const char *const *stops, int stop_count);
// Appends to `out` what is certain now. False when a stop string has been met: it and all behind it are dropped.
bool text_stream_push(Buffer *out, TextStream *stream, const char *bytes, size_t length);
// Appends what was still held back: the text ends here.
void text_stream_finish(Buffer *out, TextStream *stream);
void text_stream_release(TextStream *stream);

#endif
