// The head of the card, between two lines "---", as a YAML document.
#include "hub/card.h"

#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "core/memory.h"
#include "core/text.h"

typedef struct Card {
  yaml_document_t *document;
  const char *prefix;  // data_dir, or ""
  HubNames *patterns;
} Card;

static const char *scalar_text(const yaml_node_t *node) {
  return node && node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : NULL;
}

static yaml_node_t *find_key(const Card *card, const yaml_node_t *mapping, const char *key) {
  if (!mapping || mapping->type != YAML_MAPPING_NODE) return NULL;
  for (yaml_node_pair_t *pair = mapping->data.mapping.pairs.start; pair < mapping->data.mapping.pairs.top; pair++) {
    const char *name = scalar_text(yaml_document_get_node(card->document, pair->key));
    if (name && strcmp(name, key) == 0) return yaml_document_get_node(card->document, pair->value);
  }
  return NULL;
}

// The items of a sequence, or the one node itself.
static int item_count(const yaml_node_t *node) {
  if (!node) return 0;
  return node->type == YAML_SEQUENCE_NODE ? (int)(node->data.sequence.items.top - node->data.sequence.items.start) : 1;
}

static yaml_node_t *item_at(const Card *card, yaml_node_t *node, int index) {
  return node->type == YAML_SEQUENCE_NODE ? yaml_document_get_node(card->document, node->data.sequence.items.start[index]) : node;
}

static void add_pattern(const Card *card, const char *pattern) {
  while (text_starts_with(pattern, "./")) pattern += 2;
  size_t length = strlen(card->prefix);
  const char *between = length && card->prefix[length - 1] != '/' ? "/" : "";
  char *whole = memory_format("%s%s%s", card->prefix, between, pattern);
  hub_names_add(card->patterns, whole);
  free(whole);
}

static void add_paths(const Card *card, yaml_node_t *paths) {
  for (int i = 0; i < item_count(paths); i++)
    if (scalar_text(item_at(card, paths, i))) add_pattern(card, scalar_text(item_at(card, paths, i)));
}

// data_files: plain names are the training split's.
static Status take_files(const Card *card, yaml_node_t *files, const char *split) {
  Buffer others = {0};
  for (int i = 0; i < item_count(files); i++) {
    yaml_node_t *item = item_at(card, files, i);
    const char *name = item && item->type == YAML_SCALAR_NODE ? "train" : scalar_text(find_key(card, item, "split"));
    if (!name) continue;
    if (strcmp(name, split) == 0) add_paths(card, item->type == YAML_SCALAR_NODE ? item : find_key(card, item, "path"));
    else buffer_format(&others, "%s%s", others.length ? ", " : "", text_is_printable(name, strlen(name)) ? name : "?");
  }
  Status status = STATUS_OK;
  if (!card->patterns->count && others.length)
    status = status_fail(STATUS_BAD_INPUT, "has no split \"%s\"; it has: %s", split, others.data);
  buffer_release(&others);
  return status;
}

// NULL with STATUS_OK: the card leaves it open.
static Status find_config(yaml_node_t **found, const Card *card, yaml_node_t *configs, const char *config) {
  Buffer others = {0};
  int count = item_count(configs);
  *found = NULL;
  for (int i = 0; i < count; i++) {
    yaml_node_t *item = item_at(card, configs, i);
    const char *name = scalar_text(find_key(card, item, "config_name")), *standard = scalar_text(find_key(card, item, "default"));
    bool is_default = count == 1 || (name && strcmp(name, "default") == 0) || (standard && strcmp(standard, "true") == 0);
    if (!*found && (config ? name && strcmp(name, config) == 0 : is_default)) *found = item;
    if (name) buffer_format(&others, "%s%s", others.length ? ", " : "", text_is_printable(name, strlen(name)) ? name : "?");
  }
  Status status = STATUS_OK;
  if (!*found && others.length && config)
    status = status_fail(STATUS_BAD_INPUT, "has no configuration \"%s\" (name); it has: %s", config, others.data);
  else if (!*found && others.length)
    status = status_fail(STATUS_BAD_INPUT, "has more than one configuration; give one as name: %s", others.data);
  buffer_release(&others);
  return status;
}

static Status read_configs(Card *card, char **folder, const char *config, const char *split) {
  yaml_node_t *configs = find_key(card, yaml_document_get_root_node(card->document), "configs"), *chosen;
  if (!configs || configs->type != YAML_SEQUENCE_NODE) return STATUS_OK;
  TRY(find_config(&chosen, card, configs, config));
  yaml_node_t *files = find_key(card, chosen, "data_files");
  const char *prefix = scalar_text(find_key(card, chosen, "data_dir"));
  card->prefix = prefix ? prefix : "";
  if (files) return take_files(card, files, split);
  if (prefix) *folder = memory_copy_string(prefix);
  return STATUS_OK;
}

// The length of the head behind its first line; 0: there is none.
static size_t head_length(const char *text, size_t length) {
  if (length < 4 || memcmp(text, "---\n", 4) != 0) return 0;
  for (size_t i = 3; i + 4 <= length; i++)
    if (memcmp(text + i, "\n---", 4) == 0) return i - 3;
  return 0;
}

Status hub_card_patterns(HubNames *patterns, char **folder, const char *text, size_t length, const char *config, const char *split) {
  yaml_parser_t parser;
  yaml_document_t document;
  Status status = STATUS_OK;
  size_t head = head_length(text, length);
  *folder = NULL;
  if (!head || !yaml_parser_initialize(&parser)) return STATUS_OK;
  yaml_parser_set_input_string(&parser, (const unsigned char *)text + 4, head);
  if (yaml_parser_load(&parser, &document)) {  // a card that is no YAML says nothing
    Card card = {.document = &document, .patterns = patterns};
    status = read_configs(&card, folder, config, split);
    yaml_document_delete(&document);
  }
  yaml_parser_delete(&parser);
  return status;
}
