// Holding back: the longest end of the text that is the beginning of a stop string, or of a character.
#include "runtime/text_stream.h"

#include <string.h>

#include "core/text.h"

void text_stream_new(TextStream *stream, const char *const *stops, int stop_count) {
  *stream = (TextStream){.stops = stops, .stop_count = stop_count, .stopped_by = -1};
}

void text_stream_release(TextStream *stream) { buffer_release(&stream->held); }

// How many bytes a character that starts with `lead` has; 1 for what starts none.
static size_t expected_length(unsigned char lead) {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  return lead >= 0xf0 && lead <= 0xf4 ? 4 : 1;
}

// Where an unfinished character begins at the end of the text; `length` when there is none.
static size_t unfinished_character(const char *text, size_t length) {
  for (size_t back = 1; back <= 3 && back <= length; back++) {
    unsigned char byte = (unsigned char)text[length - back];
    if (byte >= 0x80 && byte < 0xc0) continue;
    return expected_length(byte) > back ? length - back : length;
  }
  return length;
}

// Where the longest end of the text begins that is the beginning of a stop string.
static size_t unfinished_stop(const TextStream *stream) {
  size_t begin = stream->held.length;
  for (int s = 0; s < stream->stop_count; s++) {
    size_t most = strlen(stream->stops[s]) - 1;
    if (most > stream->held.length) most = stream->held.length;
    for (size_t n = most; n > 0; n--) {
      if (memcmp(stream->held.data + stream->held.length - n, stream->stops[s], n) != 0) continue;
      if (stream->held.length - n < begin) begin = stream->held.length - n;
      break;
    }
  }
  return begin;
}

// The earliest stop string in the text, the longest of those that begin there.
static bool find_stop(size_t *at, TextStream *stream) {
  for (int s = 0; s < stream->stop_count; s++) {
    size_t length = strlen(stream->stops[s]);
    for (size_t i = 0; i + length <= stream->held.length; i++) {
      if (memcmp(stream->held.data + i, stream->stops[s], length) != 0) continue;
      bool is_first = stream->stopped_by < 0 || i < *at || (i == *at && length > strlen(stream->stops[stream->stopped_by]));
      if (is_first) *at = i, stream->stopped_by = s;
      break;
    }
  }
  return stream->stopped_by >= 0;
}

// Moves the first `length` held bytes to `out`.
static void release_bytes(Buffer *out, TextStream *stream, size_t length) {
  const unsigned char *text = (const unsigned char *)stream->held.data;
  for (size_t i = 0; i < length;) {
    int n = utf8_length(text + i, length - i);
    if (n > 0) buffer_append(out, text + i, (size_t)n);
    else buffer_append_string(out, "\xef\xbf\xbd");
    i += n > 0 ? (size_t)n : 1;
  }
  stream->held.length -= length;
  if (length) memmove(stream->held.data, stream->held.data + length, stream->held.length);
}

bool text_stream_push(Buffer *out, TextStream *stream, const char *bytes, size_t length) {
  size_t end = 0;
  buffer_append(&stream->held, bytes, length);
  if (find_stop(&end, stream)) {
    release_bytes(out, stream, end);
    stream->held.length = 0;
    return false;
  }
  end = unfinished_stop(stream);
  size_t whole = unfinished_character(stream->held.data, stream->held.length);
  release_bytes(out, stream, whole < end ? whole : end);
  return true;
}

void text_stream_finish(Buffer *out, TextStream *stream) { release_bytes(out, stream, stream->held.length); }
