#include "data/template/chat_spans.h"

#include <stdlib.h>
#include <string.h>

#include "core/text.h"

// ---- Where bytes come from

static void add_strings(SourceMap *map, const json_t *value, int32_t message, bool is_content) {
  size_t index;
  const char *key;
  json_t *item;
  if (json_is_string(value)) {
    uint32_t length = (uint32_t)json_string_length(value);
    if (!length || length > UINT32_MAX - map->next) return;
    size_t count = map->count;
    ARRAY_PUSH(map->marks, count, map->mark_capacity) = (JinjaMark){value, map->next};
    ARRAY_PUSH(map->sources, map->count, map->source_capacity) = (Source){map->next, length, message, is_content};
    map->next += length;
  }
  json_array_foreach(value, index, item) add_strings(map, item, message, false);
  json_object_foreach((json_t *)(uintptr_t)value, key, item) add_strings(map, item, message, false);
}

void source_map_fill(SourceMap *map, const json_t *messages) {
  static const char *const refer_only[] = {"role", "name", "tool_call_id", "id", "type", NULL};
  map->next = 1;
  for (size_t i = 0; i < json_array_size(messages); i++) {
    const char *key;
    json_t *value;
    json_object_foreach(json_array_get(messages, i), key, value) if (!word_is_in(refer_only, key))
        add_strings(map, value, (int32_t)i, strcmp(key, "content") == 0);
  }
}

void source_map_release(SourceMap *map) {
  free(map->marks);
  free(map->sources);
  *map = (SourceMap){0};
}

// The source of an origin, which exists. `guess` is where the byte before came from: mostly it is the same.
static size_t find_source(const SourceMap *map, uint32_t origin, size_t guess) {
  size_t low = 0, high = map->count;
  if (guess < map->count && origin >= map->sources[guess].first && origin - map->sources[guess].first < map->sources[guess].length)
    return guess;
  while (high - low > 1) {
    size_t middle = (low + high) / 2;
    if (map->sources[middle].first <= origin) low = middle;
    else high = middle;
  }
  return low;
}

// ---- Ends of turns

void stop_list_add(StopList *stops, const char *text) {
  if (!text || !*text) return;
  for (size_t i = 0; i < stops->count; i++)
    if (strcmp(stops->items[i], text) == 0) return;
  ARRAY_PUSH(stops->items, stops->count, stops->capacity) = memory_copy_string(text);
}

void stop_list_release(StopList *stops) {
  for (size_t i = 0; i < stops->count; i++) free(stops->items[i]);
  free(stops->items);
  *stops = (StopList){0};
}

bool stop_list_find(size_t *found_begin, size_t *found_end, const StopList *stops, const char *text, size_t begin, size_t end) {
  for (size_t at = begin; at < end; at++) {
    size_t longest = 0;
    for (size_t i = 0; i < stops->count; i++) {
      size_t length = strlen(stops->items[i]);
      if (length > longest && length <= end - at && memcmp(text + at, stops->items[i], length) == 0) longest = length;
    }
    if (!longest) continue;
    *found_begin = at;
    *found_end = at + longest;
    return true;
  }
  return false;
}

// ---- Spans

void chat_text_fill(ChatText *out, JinjaText *text, const SourceMap *sources, bool has_generation) {
  out->text = text->text;
  text->text = (Buffer){0};
  out->offsets = memory_new(out->text.length + 1, sizeof *out->offsets);
  if (has_generation) {
    out->generated = text->generated;
    text->generated = NULL;
  }
  ChatSpan *span = NULL;
  for (size_t at = 0, source = 0; at < out->text.length; at++) {
    uint32_t origin = text->origins[at];
    out->offsets[at] = -1;
    if (!origin) continue;
    source = find_source(sources, origin, source);
    const Source *from = &sources->sources[source];
    if (from->is_content) out->offsets[at] = (int32_t)(origin - from->first);
    if (!span || span->message != from->message) {
      ARRAY_PUSH(out->spans, out->count, out->capacity) = (ChatSpan){.message = from->message, .begin = at, .reply_begin = at};
      span = &out->spans[out->count - 1];
    }
    span->end = span->reply_end = span->stop_begin = span->stop_end = at + 1;
  }
}

void find_stops(ChatText *text, const StopList *stops) {
  for (int64_t s = 0; s < text->count; s++) {
    ChatSpan *span = &text->spans[s];
    size_t limit = s + 1 < text->count ? text->spans[s + 1].begin : text->text.length;
    if (stop_list_find(&span->stop_begin, &span->stop_end, stops, text->text.data, span->end, limit)) span->reply_end = span->stop_begin;
  }
}

bool span_begins_with_content(const ChatText *text, const ChatSpan *span) { return text->offsets[span->begin] >= 0; }

void chat_text_release(ChatText *text) {
  buffer_release(&text->text);
  free(text->offsets);
  free(text->generated);
  free(text->spans);
  *text = (ChatText){0};
}
