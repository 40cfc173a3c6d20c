// Reads YAML by libyaml's events (YAML 1.1, with positions) into nodes. Source: yaml.org/spec/1.1 and
// yaml.org/type/merge for `<<`.
#include "recipes/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "core/map.h"

typedef struct Reader {
  yaml_parser_t parser;
  Arena *arena;
  const char *name;
  Map anchors;  // name -> index in `anchored`
  Node **anchored;  // NULL while the anchored node is still open
  int anchored_count, anchored_capacity;
  int depth;
} Reader;

static PRINTF_LIKE(4, 5) Status fail_at(const Reader *reader, int line, int column, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status_fail(STATUS_USAGE, "%s:%d:%d: %s", reader->name, line, column, text);
}

#define FAIL_AT_EVENT(reader, event, ...) \
  fail_at((reader), (int)(event)->start_mark.line + 1, (int)(event)->start_mark.column + 1, __VA_ARGS__)

Node *node_new(Arena *arena, NodeKind kind) {
  Node *node = arena_new(arena, 1, sizeof *node);
  *node = (Node){.kind = kind, .weight = 1, .text = kind == NODE_SCALAR ? arena_copy_string(arena, "") : NULL};
  return node;
}

void node_append(Arena *arena, Node *parent, Node *key, Node *item) {
  if (parent->count == parent->capacity) {
    int capacity = parent->capacity ? parent->capacity * 2 : 4;
    Node **items = arena_new(arena, (size_t)capacity, sizeof *items), **keys = arena_new(arena, (size_t)capacity, sizeof *keys);
    if (parent->count) {
      memcpy(items, parent->items, (size_t)parent->count * sizeof *items);
      memcpy(keys, parent->keys, (size_t)parent->count * sizeof *keys);
    }
    parent->items = items, parent->keys = keys, parent->capacity = capacity;
  }
  parent->keys[parent->count] = key;
  parent->items[parent->count++] = item;
  parent->weight += item->weight + (key ? key->weight : 0);
}

static Status next_event(Reader *reader, yaml_event_t *event) {
  if (yaml_parser_parse(&reader->parser, event)) return STATUS_OK;
  const yaml_parser_t *parser = &reader->parser;
  if (parser->error == YAML_MEMORY_ERROR) return status_fail(STATUS_NO_SPACE, "out of memory while reading %s", reader->name);
  int line = (int)parser->problem_mark.line + 1, column = (int)parser->problem_mark.column + 1;
  const char *problem = parser->problem ? parser->problem : "unreadable";
  if (parser->context)
    return fail_at(reader, line, column, "malformed YAML: %s, %s that began on line %d; check indentation, colons and quotes there",
                   problem, parser->context, (int)parser->context_mark.line + 1);
  return fail_at(reader, line, column, "malformed YAML: %s; check indentation, colons, quotes and tabs there", problem);
}

static Status check_tag(const Reader *reader, const yaml_event_t *event, const yaml_char_t *tag) {
  static const char *const known[] = {YAML_STR_TAG,  YAML_INT_TAG, YAML_FLOAT_TAG, YAML_BOOL_TAG,
                                      YAML_NULL_TAG, YAML_SEQ_TAG, YAML_MAP_TAG,   "!"};
  if (!tag) return STATUS_OK;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp((const char *)tag, known[i]) == 0) return STATUS_OK;
  return FAIL_AT_EVENT(reader, event, "the tag %s is not understood in a recipe; leave it out", (const char *)tag);
}

// Remembers an anchor; returns its index, or -1 when there is none.
static int add_anchor(Reader *reader, const yaml_char_t *anchor) {
  if (!anchor) return -1;
  map_set_string(&reader->anchors, (const char *)anchor, reader->anchored_count);
  ARRAY_PUSH(reader->anchored, reader->anchored_count, reader->anchored_capacity) = NULL;
  return reader->anchored_count - 1;
}

static Node *place_node(Reader *reader, NodeKind kind, const yaml_event_t *event) {
  Node *node = node_new(reader->arena, kind);
  node->line = (int)event->start_mark.line + 1;
  node->column = (int)event->start_mark.column + 1;
  return node;
}

static Status read_node(Reader *reader, yaml_event_t *event, Node **out);

static Status read_scalar(Reader *reader, const yaml_event_t *event, Node **out) {
  TRY(check_tag(reader, event, event->data.scalar.tag));
  const char *value = (const char *)event->data.scalar.value;
  size_t length = event->data.scalar.length;
  if (memchr(value, 0, length)) return FAIL_AT_EVENT(reader, event, "a NUL character cannot stand in a recipe; remove it");
  Node *node = place_node(reader, NODE_SCALAR, event);
  node->text = arena_copy_bytes(reader->arena, value, length);
  const yaml_char_t *tag = event->data.scalar.tag;
  node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE || (tag && strcmp((const char *)tag, YAML_STR_TAG) == 0);
  *out = node;
  return STATUS_OK;
}

static Status read_alias(Reader *reader, const yaml_event_t *event, Node **out) {
  int64_t index;
  const char *anchor = (const char *)event->data.alias.anchor;
  if (!map_get_string(&reader->anchors, anchor, &index))
    return FAIL_AT_EVENT(reader, event, "*%s names an anchor that is not defined above; write &%s where it belongs", anchor, anchor);
  if (!reader->anchored[index]) return FAIL_AT_EVENT(reader, event, "*%s stands inside of what it names; spell it out", anchor);
  Node *node = arena_new(reader->arena, 1, sizeof *node);
  *node = *reader->anchored[index];
  node->line = (int)event->start_mark.line + 1;
  node->column = (int)event->start_mark.column + 1;
  // Its arrays are the anchor's: a full capacity makes node_append copy them.
  node->capacity = node->count;
  *out = node;
  return STATUS_OK;
}

static Status check_weight(const Reader *reader, const Node *node, const yaml_event_t *event) {
  if (node->weight <= NODE_MAX_COUNT) return STATUS_OK;
  return FAIL_AT_EVENT(reader, event, "more than %d values, aliases counted each time; that is no recipe", NODE_MAX_COUNT);
}

static Status read_sequence(Reader *reader, const yaml_event_t *start, Node **out) {
  TRY(check_tag(reader, start, start->data.sequence_start.tag));
  Node *node = place_node(reader, NODE_SEQUENCE, start);
  *out = node;
  for (;;) {
    yaml_event_t event;
    TRY(next_event(reader, &event));
    if (event.type == YAML_SEQUENCE_END_EVENT) {
      yaml_event_delete(&event);
      return STATUS_OK;
    }
    Node *item = NULL;
    Status status = read_node(reader, &event, &item);
    if (status == STATUS_OK) {
      node_append(reader->arena, node, NULL, item);
      status = check_weight(reader, node, &event);
    }
    yaml_event_delete(&event);
    TRY(status);
  }
}

// The keys of `source` that `node` does not have.
static Status merge_mapping(const Reader *reader, Node *node, const Node *source, Map *own) {
  if (source->kind != NODE_MAPPING)
    return fail_at(reader, source->line, source->column, "<<: merges mappings only; give it an alias of a mapping, or a list of them");
  for (int i = 0; i < source->count; i++) {
    if (map_get_string(own, source->keys[i]->text, NULL)) continue;
    map_set_string(own, source->keys[i]->text, 1);
    node_append(reader->arena, node, source->keys[i], source->items[i]);
    if (node->weight > NODE_MAX_COUNT)
      return fail_at(reader, source->line, source->column, "more than %d values, aliases counted each time; that is no recipe",
                     NODE_MAX_COUNT);
  }
  return STATUS_OK;
}

static Status merge_all(const Reader *reader, Node *node, const Node *merges, Map *own) {
  for (int i = 0; i < merges->count; i++) {
    const Node *source = merges->items[i];
    if (source->kind != NODE_SEQUENCE) {
      TRY(merge_mapping(reader, node, source, own));
      continue;
    }
    for (int j = 0; j < source->count; j++) TRY(merge_mapping(reader, node, source->items[j], own));
  }
  return STATUS_OK;
}

// A key that is there twice keeps its last value, as PyYAML has it, and remembers the line that it overrules.
static void set_pair(const Reader *reader, Node *node, Node *key, Node *value, Map *own) {
  int64_t index;
  if (!map_get_string(own, key->text, &index)) {
    map_set_string(own, key->text, node->count);
    node_append(reader->arena, node, key, value);
    return;
  }
  key->overrules_line = node->keys[index]->line;
  node->keys[index] = key;
  node->items[index] = value;
  node->weight += key->weight + value->weight;
}

static Status read_pair(Reader *reader, yaml_event_t *key_event, Node *node, Node *merges, Map *own) {
  Node *key = NULL, *value = NULL;
  TRY(read_node(reader, key_event, &key));
  if (key->kind != NODE_SCALAR) return FAIL_AT_EVENT(reader, key_event, "a key must be one word; check brackets, braces and indentation");
  yaml_event_t event;
  TRY(next_event(reader, &event));
  Status status = read_node(reader, &event, &value);
  if (status == STATUS_OK && !key->quoted && strcmp(key->text, "<<") == 0) {
    node_append(reader->arena, merges, NULL, value);
    status = check_weight(reader, merges, &event);
  } else if (status == STATUS_OK) {
    set_pair(reader, node, key, value, own);
    status = check_weight(reader, node, &event);
  }
  yaml_event_delete(&event);
  return status;
}

static Status read_mapping(Reader *reader, const yaml_event_t *start, Node **out) {
  TRY(check_tag(reader, start, start->data.mapping_start.tag));
  Node *node = place_node(reader, NODE_MAPPING, start), *merges = node_new(reader->arena, NODE_SEQUENCE);
  *out = node;
  Map own = {0};
  Status status;
  for (;;) {
    yaml_event_t event;
    TRY_DONE(next_event(reader, &event));
    bool ended = event.type == YAML_MAPPING_END_EVENT;
    if (!ended) status = read_pair(reader, &event, node, merges, &own);
    yaml_event_delete(&event);
    if (ended || status != STATUS_OK) break;
  }
  if (status == STATUS_OK) status = merge_all(reader, node, merges, &own);
done:
  map_release(&own);
  return status;
}

// Reads the node that `event` begins; the caller deletes the event.
static Status read_node(Reader *reader, yaml_event_t *event, Node **out) {
  if (event->type == YAML_ALIAS_EVENT) return read_alias(reader, event, out);
  const yaml_char_t *anchor = event->type == YAML_SCALAR_EVENT           ? event->data.scalar.anchor
                              : event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.anchor
                                                                         : event->data.mapping_start.anchor;
  int index = add_anchor(reader, anchor);
  if (++reader->depth > NODE_MAX_DEPTH)
    return FAIL_AT_EVENT(reader, event, "nested deeper than %d levels; that is no recipe", NODE_MAX_DEPTH);
  Status status = event->type == YAML_SCALAR_EVENT           ? read_scalar(reader, event, out)
                  : event->type == YAML_SEQUENCE_START_EVENT ? read_sequence(reader, event, out)
                                                             : read_mapping(reader, event, out);
  reader->depth--;
  if (status == STATUS_OK && index >= 0) reader->anchored[index] = *out;
  return status;
}

// stream: one document at most. Every event type between its start and end begins a node.
static Status read_stream(Reader *reader, Node **root) {
  int documents = 0;
  for (;;) {
    yaml_event_t event;
    TRY(next_event(reader, &event));
    Status status = STATUS_OK;
    bool ended = event.type == YAML_STREAM_END_EVENT;
    switch (event.type) {
      case YAML_DOCUMENT_START_EVENT:
        if (++documents > 1) status = FAIL_AT_EVENT(reader, &event, "a second document begins; keep one recipe in a file");
        break;
      case YAML_SCALAR_EVENT:
      case YAML_ALIAS_EVENT:
      case YAML_SEQUENCE_START_EVENT:
      case YAML_MAPPING_START_EVENT: status = read_node(reader, &event, root); break;
      default: break;
    }
    yaml_event_delete(&event);
    if (ended || status != STATUS_OK) return status;
  }
}

Status node_parse(Node **root, Arena *arena, const char *name, const char *text, size_t length) {
  *root = NULL;
  Reader reader = {.arena = arena, .name = name};
  if (length > NODE_MAX_BYTES) return fail_at(&reader, 1, 1, "%zu bytes, more than the %d of any recipe", length, NODE_MAX_BYTES);
  if (!yaml_parser_initialize(&reader.parser)) return status_fail(STATUS_NO_SPACE, "out of memory while reading %s", name);
  yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
  // Windows' editors put a byte order mark in front; libyaml takes it for the first character of a key.
  if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, length -= 3;
  yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, length);
  Status status = read_stream(&reader, root);
  if (status != STATUS_OK) *root = NULL;
  yaml_parser_delete(&reader.parser);
  map_release(&reader.anchors);
  free(reader.anchored);
  return status;
}
