// A recipe from its file to the struct: YAML -> overrides -> schema -> checks; and what is said about it on the way.
#include "recipes/recipe.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "recipes/schema.h"

enum { MOST_LINES = 50 };  // of one message

static Status apply_overrides(Recipe *recipe, const RecipeOverride *overrides, int count) {
  for (int i = 0; i < count; i++) {
    char *name = arena_format(&recipe->arena, "--%s", overrides[i].key);
    Node *value = NULL;
    TRY(node_parse_argument(&value, &recipe->arena, name, overrides[i].value));
    if (!value) value = node_new(&recipe->arena, NODE_SCALAR);
    const char *problem = node_set_path(&recipe->arena, &recipe->tree, overrides[i].key, value);
    if (problem) return status_fail(STATUS_USAGE, "%s %s", name, problem);
  }
  return STATUS_OK;
}

// "FILE:LINE:COL: key: message"; "--key: message" for what the command line said; "FILE:1:1: ..." for the file as a whole.
static void write_remark(Buffer *out, const Recipe *recipe, const RecipeRemark *remark) {
  RecipePosition at = remark->position;
  if (at.line == 0 && node_find_key(recipe->tree, remark->key)) buffer_format(out, "--%s: %s", remark->key, remark->message);
  else buffer_format(out, "%s:%d:%d: %s: %s", recipe->path, at.line ? at.line : 1, at.line ? at.column : 1, remark->key, remark->message);
}

static void log_notices(const Recipe *recipe) {
  for (int i = 0; i < recipe->remark_count; i++) {
    if (!recipe->remarks[i].is_notice) continue;
    Buffer line = {0};
    write_remark(&line, recipe, &recipe->remarks[i]);
    log_notice("%s", line.data);
    buffer_release(&line);
  }
}

static Status report_problems(const Recipe *recipe) {
  if (recipe->problem_count == 0) return STATUS_OK;
  Buffer text = {0};
  int lines = 0;
  for (int i = 0; i < recipe->remark_count && lines < MOST_LINES; i++) {
    if (recipe->remarks[i].is_notice) continue;
    if (lines++) buffer_append_string(&text, "\n");
    write_remark(&text, recipe, &recipe->remarks[i]);
  }
  if (lines < recipe->problem_count) buffer_format(&text, "\n%s: and %d more", recipe->path, recipe->problem_count - lines);
  status_fail(STATUS_USAGE, "%s", text.data);
  buffer_release(&text);
  return STATUS_USAGE;
}

static Status read_tree(Recipe *recipe) {
  Node *tree = recipe->tree;
  if (!tree || tree->kind != NODE_MAPPING)
    return status_fail(STATUS_USAGE, "%s:1:1: is no recipe: it must be a mapping of keys, such as base_model: model.gguf", recipe->path);
  Loader loader = {.recipe = recipe, .arena = &recipe->arena, .root = tree, .strict = true, .scope = ""};
  node_boolean(node_find(tree, "strict"), &loader.strict);
  loader_notice_twice(&loader, tree, "");
  loader_read_mapping(&loader, &schema_recipe, &schema_others, tree, recipe);
  recipe_check(&loader);
  Buffer text = {0};
  node_write_yaml(&text, tree);
  recipe->resolved = arena_copy_string(&recipe->arena, text.data);
  buffer_release(&text);
  log_notices(recipe);
  return report_problems(recipe);
}

Status recipe_parse(Recipe *recipe, const char *path, const char *text, size_t length, const RecipeOverride *overrides,
                    int override_count) {
  *recipe = (Recipe){0};
  recipe->path = arena_copy_string(&recipe->arena, path);
  TRY(node_parse(&recipe->tree, &recipe->arena, recipe->path, text, length));
  TRY(apply_overrides(recipe, overrides, override_count));
  return read_tree(recipe);
}

static Status read_stdin(Buffer *text) {
  char bytes[4096];
  for (size_t got; (got = fread(bytes, 1, sizeof bytes, stdin)) > 0;) {
    buffer_append(text, bytes, got);
    if (text->length > NODE_MAX_BYTES) return status_fail(STATUS_USAGE, "standard input is longer than any recipe");
  }
  return STATUS_OK;
}

Status recipe_load(Recipe *recipe, const char *path, const RecipeOverride *overrides, int override_count) {
  *recipe = (Recipe){0};
  Buffer text = {0};
  bool standard = strcmp(path, "-") == 0;
  Status status = standard ? read_stdin(&text) : file_read(&text, path, NODE_MAX_BYTES);
  if (status == STATUS_BAD_INPUT || status == STATUS_FAILED) status = STATUS_USAGE;
  if (status == STATUS_OK)
    status = recipe_parse(recipe, standard ? "(stdin)" : path, text.data ? text.data : "", text.length, overrides, override_count);
  buffer_release(&text);
  return status;
}

void recipe_release(Recipe *recipe) {
  arena_release(&recipe->arena);
  *recipe = (Recipe){0};
}

const char *recipe_model_name(const Recipe *recipe) { return recipe->base_model_id ? recipe->base_model_id : recipe->base_model; }

RecipePosition recipe_position(const Recipe *recipe, const char *key) {
  const Node *node = recipe->tree, *at = NULL;
  for (const char *p = key; node && *p;) {
    size_t length = strcspn(p, ".");
    const Node *next = NULL;
    if (node->kind == NODE_SEQUENCE) {
      long index = strtol(p, NULL, 10);
      if (index >= 0 && index < node->count) at = next = node->items[index];
    } else if (node->kind == NODE_MAPPING) {
      for (int i = 0; i < node->count; i++)
        if (strlen(node->keys[i]->text) == length && memcmp(node->keys[i]->text, p, length) == 0) at = node->keys[i], next = node->items[i];
    }
    node = next;
    p += length;
    if (*p == '.') p++;
  }
  return node && at ? (RecipePosition){at->line, at->column} : (RecipePosition){0, 0};
}

Status recipe_fail(const Recipe *recipe, Status code, const char *key, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const RecipeRemark remark = {.position = recipe_position(recipe, key), .key = (char *)key, .message = text};
  Buffer line = {0};
  write_remark(&line, recipe, &remark);
  status_fail(code, "%s", line.data);
  buffer_release(&line);
  return code;
}
