// A YAML document as a tree of nodes that know where they stand. Scalars keep their text; what type a
// text is, is the reader's question (node_boolean, node_integer, node_number), so that `2e-5` is a number
// although YAML 1.1 would call it a string.
//
// Aliases share the anchored node's children; merge keys (`<<`) are resolved while reading. A key that
// is there twice has its last value. Refused: more than one document, keys that are no scalars, unknown tags, and
// documents past the limits.
#ifndef RECIPES_NODE_H
#define RECIPES_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"

enum {
  NODE_MAX_BYTES = 1 << 20,  // of a document
  NODE_MAX_DEPTH = 64,
  NODE_MAX_COUNT = 100000,  // nodes, those reached through aliases counted each time
};

typedef enum NodeKind { NODE_SCALAR, NODE_SEQUENCE, NODE_MAPPING } NodeKind;

typedef struct Node {
  NodeKind kind;
  int line, column;  // from 1; 0: from the command line or a default
  int overrules_line;  // of a key: the line of the same key before it; 0: none
  bool quoted;  // a scalar in quotes, or a block scalar: text, whatever it looks like
  char *text;  // of a scalar; never NULL there, NUL-terminated, no NUL inside
  struct Node **keys;  // of a mapping: scalars, beside `items`
  struct Node **items;  // of a sequence or a mapping
  int count, capacity;
  int weight;  // this node and all below it
} Node;

// STATUS_USAGE with "NAME:LINE:COLUMN: ..." when refused. *root is NULL for a document with nothing in it.
Status node_parse(Node **root, Arena *arena, const char *name, const char *text, size_t length);

// A scalar as a user writes it behind an option: YAML where it starts with [, {, ' or ", else plain text.
Status node_parse_argument(Node **node, Arena *arena, const char *name, const char *text);

Node *node_new(Arena *arena, NodeKind kind);  // at line 0
Node *node_find(const Node *mapping, const char *key);  // the value, or NULL
Node *node_find_key(const Node *mapping, const char *key);  // the key itself, for its position
void node_append(Arena *arena, Node *parent, Node *key, Node *item);  // key NULL for a sequence

// Sets the value at a path with dots, "datasets.0.path". Containers on the way are copied, for an alias may
// share them; mappings that are missing are made; the index after the last appends. NULL, or what is wrong.
const char *node_set_path(Arena *arena, Node **root, const char *path, Node *value);

bool node_is_null(const Node *node);  // also for NULL
bool node_is_off(const Node *node);  // null, false, 0, "", [] or {}
bool node_boolean(const Node *node, bool *value);  // true/false, yes/no, on/off, 1/0
bool node_integer(const Node *node, int64_t *value);  // 10, 0x10, 1_000, 2.0, 1e3
bool node_number(const Node *node, double *value);  // the same, 2e-5, .5; finite

void node_write_yaml(Buffer *out, const Node *root);  // re-loadable: the same tree, aliases spelt out
void node_write_json(Buffer *out, const Node *node);  // one line; unquoted scalars by their type

#endif
