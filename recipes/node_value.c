// What a node says: its type by the look of its text (yaml.org/type: bool, int, float; and `2e-5`), its
// members, the values that the command line puts in, and the tree written out again.
#include "recipes/node.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <yaml.h>

Node *node_find(const Node *mapping, const char *key) {
  if (!mapping || mapping->kind != NODE_MAPPING) return NULL;
  for (int i = 0; i < mapping->count; i++)
    if (strcmp(mapping->keys[i]->text, key) == 0) return mapping->items[i];
  return NULL;
}

Node *node_find_key(const Node *mapping, const char *key) {
  if (!mapping || mapping->kind != NODE_MAPPING) return NULL;
  for (int i = 0; i < mapping->count; i++)
    if (strcmp(mapping->keys[i]->text, key) == 0) return mapping->keys[i];
  return NULL;
}

bool node_is_null(const Node *node) {
  if (!node) return true;
  if (node->kind != NODE_SCALAR || node->quoted) return false;
  static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
  for (size_t i = 0; i < sizeof nulls / sizeof nulls[0]; i++)
    if (strcmp(node->text, nulls[i]) == 0) return true;
  return false;
}

bool node_boolean(const Node *node, bool *value) {
  if (!node || node->kind != NODE_SCALAR) return false;
  static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    if (strcasecmp(node->text, words[i]) != 0) continue;
    *value = i % 2 == 1;
    return true;
  }
  return false;
}

bool node_number(const Node *node, double *value) {
  enum { LONGEST = 64 };
  char text[LONGEST + 1];
  size_t length = 0;
  if (!node || node->kind != NODE_SCALAR) return false;
  for (const char *p = node->text; *p; p++) {
    if (*p == '_' && p > node->text) continue;
    // strtod also reads "infinity", "nan" and hexadecimal fractions: none is a recipe's number.
    if (!strchr("0123456789abcdefABCDEFxX+-.", *p) || length == LONGEST) return false;
    text[length++] = *p;
  }
  text[length] = 0;
  if (length == 0) return false;
  bool hexadecimal = strchr(text, 'x') || strchr(text, 'X');
  char *end;
  errno = 0;
  double number = hexadecimal ? (double)strtoll(text, &end, 16) : strtod(text, &end);
  if (*end || !isfinite(number) || (hexadecimal && errno)) return false;
  *value = number;
  return true;
}

bool node_integer(const Node *node, int64_t *value) {
  double number;
  // Beyond 2^53 a double no longer holds every whole number; no key needs one.
  if (!node_number(node, &number) || number != floor(number) || fabs(number) > 9007199254740992.0) return false;
  *value = (int64_t)number;
  return true;
}

bool node_is_off(const Node *node) {
  if (node_is_null(node)) return true;
  if (node->kind != NODE_SCALAR) return node->count == 0;
  bool truth;
  double number;
  if (node->text[0] == 0) return true;
  if (node_boolean(node, &truth)) return !truth;
  return node_number(node, &number) && number == 0;
}

// --- values of the command line ---

static void clear_positions(Node *node) {
  node->line = node->column = 0;
  for (int i = 0; i < node->count; i++) {
    if (node->keys[i]) clear_positions(node->keys[i]);
    clear_positions(node->items[i]);
  }
}

Status node_parse_argument(Node **node, Arena *arena, const char *name, const char *text) {
  if (text[0] && strchr("[{'\"", text[0])) {
    TRY(node_parse(node, arena, name, text, strlen(text)));
    if (*node) clear_positions(*node);
  } else {
    *node = node_new(arena, NODE_SCALAR);
    (*node)->text = arena_copy_string(arena, text);
  }
  return STATUS_OK;
}

static Node *copy_container(Arena *arena, const Node *node) {
  Node *copy = node_new(arena, node->kind);
  copy->line = node->line, copy->column = node->column;
  for (int i = 0; i < node->count; i++) node_append(arena, copy, node->keys[i], node->items[i]);
  return copy;
}

static const char *set_below(Arena *arena, Node **slot, const char *path, Node *value, int depth) {
  if (*path == 0) {
    *slot = value;
    return NULL;
  }
  if (depth > NODE_MAX_DEPTH) return "has too many dots";
  const char *dot = strchr(path, '.');
  size_t length = dot ? (size_t)(dot - path) : strlen(path);
  const char *rest = dot ? dot + 1 : path + length;
  if (length == 0 || (dot && *rest == 0)) return "has an empty part between its dots";
  char *part = arena_copy_bytes(arena, path, length);
  Node *container = node_is_null(*slot) ? node_new(arena, NODE_MAPPING) : *slot;
  if (container->kind == NODE_SCALAR) return "goes into a value that has no parts; set that as a whole";
  container = copy_container(arena, container);
  int index = container->count;
  if (container->kind == NODE_SEQUENCE) {
    char *end;
    long number = strtol(part, &end, 10);
    if (*end || !isdigit((unsigned char)part[0])) return "needs a number where the recipe has a list: datasets.0.path";
    if (number > container->count) return "is past the end of the list";
    index = (int)number;
  } else {
    for (int i = 0; i < container->count; i++)
      if (strcmp(container->keys[i]->text, part) == 0) index = i;
  }
  Node *child = index < container->count ? container->items[index] : NULL;
  const char *problem = set_below(arena, &child, rest, value, depth + 1);
  if (problem) return problem;
  if (index < container->count) {
    container->items[index] = child;
    if (*rest == 0 && container->keys[index]) {
      // The key now stands on the command line.
      Node *key = container->keys[index] = node_new(arena, NODE_SCALAR);
      key->text = part;
    }
  } else {
    Node *key = NULL;
    if (container->kind == NODE_MAPPING) key = node_new(arena, NODE_SCALAR), key->text = part;
    node_append(arena, container, key, child);
  }
  *slot = container;
  return NULL;
}

const char *node_set_path(Arena *arena, Node **root, const char *path, Node *value) {
  if (*path == 0) return "is empty";
  return set_below(arena, root, path, value, 0);
}

// --- written out again ---

static int append_output(void *buffer, unsigned char *bytes, size_t size) {
  buffer_append(buffer, bytes, size);
  return 1;
}

static void emit_node(yaml_emitter_t *emitter, const Node *node) {
  yaml_event_t event;
  if (node->kind == NODE_SCALAR) {
    // An empty plain scalar would come back as the empty string.
    const char *text = node_is_null(node) ? "null" : node->text;
    yaml_scalar_style_t style = node->quoted ? YAML_SINGLE_QUOTED_SCALAR_STYLE : YAML_PLAIN_SCALAR_STYLE;
    if (yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)strlen(text), 1, 1, style))
      yaml_emitter_emit(emitter, &event);
    return;
  }
  bool mapping = node->kind == NODE_MAPPING;
  int begun = mapping ? yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
                      : yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE);
  if (!begun || !yaml_emitter_emit(emitter, &event)) return;
  for (int i = 0; i < node->count; i++) {
    if (mapping) emit_node(emitter, node->keys[i]);
    emit_node(emitter, node->items[i]);
  }
  if (mapping) yaml_mapping_end_event_initialize(&event);
  else yaml_sequence_end_event_initialize(&event);
  yaml_emitter_emit(emitter, &event);
}

void node_write_yaml(Buffer *out, const Node *root) {
  buffer_reserve(out, 0);
  out->data[out->length] = 0;
  yaml_emitter_t emitter;
  if (!root || !yaml_emitter_initialize(&emitter)) return;
  yaml_emitter_set_output(&emitter, append_output, out);
  yaml_emitter_set_unicode(&emitter, 1);
  yaml_emitter_set_width(&emitter, -1);
  yaml_event_t event;
  yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING);
  yaml_emitter_emit(&emitter, &event);
  yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1);
  yaml_emitter_emit(&emitter, &event);
  emit_node(&emitter, root);
  yaml_document_end_event_initialize(&event, 1);
  yaml_emitter_emit(&emitter, &event);
  yaml_stream_end_event_initialize(&event);
  yaml_emitter_emit(&emitter, &event);
  yaml_emitter_delete(&emitter);
}

static void write_json_string(Buffer *out, const char *text) {
  buffer_append_string(out, "\"");
  for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
    if (*p == '"' || *p == '\\') buffer_format(out, "\\%c", *p);
    else if (*p < 0x20) buffer_format(out, "\\u%04x", *p);
    else buffer_append(out, p, 1);
  }
  buffer_append_string(out, "\"");
}

static void write_json_scalar(Buffer *out, const Node *node) {
  bool truth;
  double number;
  if (node->quoted) write_json_string(out, node->text);
  else if (node_is_null(node)) buffer_append_string(out, "null");
  else if (node_number(node, &number)) buffer_format(out, "%.17g", number);
  else if (node_boolean(node, &truth)) buffer_append_string(out, truth ? "true" : "false");
  else write_json_string(out, node->text);
}

void node_write_json(Buffer *out, const Node *node) {
  if (node->kind == NODE_SCALAR) {
    write_json_scalar(out, node);
    return;
  }
  bool mapping = node->kind == NODE_MAPPING;
  buffer_append_string(out, mapping ? "{" : "[");
  for (int i = 0; i < node->count; i++) {
    if (i) buffer_append_string(out, ", ");
    if (mapping) write_json_string(out, node->keys[i]->text), buffer_append_string(out, ": ");
    node_write_json(out, node->items[i]);
  }
  buffer_append_string(out, mapping ? "}" : "]");
}
