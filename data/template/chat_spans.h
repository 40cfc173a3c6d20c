// From the origins of a rendered text's bytes to messages and their spans; for data/template/ alone.
#ifndef DATA_TEMPLATE_CHAT_SPANS_H
#define DATA_TEMPLATE_CHAT_SPANS_H

#include "data/template/chat_template.h"
#include "data/jinja/jinja.h"

// One string of a message: its bytes have the origins first, first + 1, ...
typedef struct Source {
  uint32_t first, length;
  int32_t message;
  bool is_content;
} Source;

typedef struct SourceMap {
  JinjaMark *marks;  // [count] beside sources
  Source *sources;  // by rising first
  size_t count, mark_capacity, source_capacity;
  uint32_t next;  // origin
} SourceMap;

// Every string of every message that a reply consists of: not its role, nor names and ids that only refer to others.
void source_map_fill(SourceMap *map, const json_t *messages);
void source_map_release(SourceMap *map);

// Texts that end a turn.
typedef struct StopList {
  char **items;
  size_t count, capacity;
} StopList;

void stop_list_add(StopList *stops, const char *text);  // empty and known ones are not added
void stop_list_release(StopList *stops);
// The first of them, the longest there, in text[begin .. end).
bool stop_list_find(size_t *found_begin, size_t *found_end, const StopList *stops, const char *text, size_t begin, size_t end);

// Takes the rendered text over, and finds its spans, whose replies are themselves and whose stops are empty as yet.
void chat_text_fill(ChatText *out, JinjaText *text, const SourceMap *sources, bool has_generation);
// Sets each span's stop, and lets its reply reach up to that.
void find_stops(ChatText *text, const StopList *stops);
bool span_begins_with_content(const ChatText *text, const ChatSpan *span);  // and not with thoughts or tool calls

#endif
