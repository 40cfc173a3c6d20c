// Tokens that are new to a vocabulary: in memory, and in the tokenizer.json of a folder, whose list added_tokens gets them.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

static Status add_token(Tokenizer *tokenizer, const char *text) {
  int32_t id = (int32_t)tokenizer->size;
  tokenizer->tokens = memory_grow(tokenizer->tokens, (size_t)id + 1, sizeof *tokenizer->tokens);
  tokenizer->tokens[id] = (Token){.text = arena_copy_string(&tokenizer->arena, text), .length = (uint32_t)strlen(text), .added = true};
  tokenizer->size++;
  TRY(tokenizer_set_token(tokenizer, id, text, strlen(text), TOKEN_USER_DEFINED));
  matcher_add(&tokenizer->raw_matcher, text, strlen(text), id);
  return STATUS_OK;
}

Status tokenizer_add_tokens(Tokenizer *tokenizer, const char *const *texts, int count) {
  for (int i = 0; i < count; i++) {
    if (tokenizer_find(tokenizer, texts[i]) >= 0) continue;
    if (!texts[i][0]) return status_fail(STATUS_USAGE, "an empty text is no token");
    if (tokenizer->model.loose_count)  // numbered from the vocabulary's size on
      return status_fail(STATUS_USAGE, "%s: \"%s\" cannot be added: its tokens hold characters that are none themselves", tokenizer->source,
                         texts[i]);
    TRY(add_token(tokenizer, texts[i]));
  }
  return STATUS_OK;
}

static Status copy_file(const char *to, const char *from, const char *name) {
  char *source = path_join(from, name), *target = path_join(to, name);
  FileMap map;
  Status status = STATUS_OK;
  if (file_exists(source) && (status = file_map(&map, source)) == STATUS_OK) {
    status = file_write_whole(target, map.data, map.size);
    file_unmap(&map);
  }
  free(source);
  free(target);
  return status;
}

static Status write_json(json_t *root, const char *folder) {
  char *text = json_dumps(root, JSON_INDENT(2)), *path = path_join(folder, "tokenizer.json");
  Status status = text ? file_write_whole(path, text, strlen(text)) : status_fail(STATUS_FAILED, "%s: cannot be put into JSON", path);
  free(path);
  free(text);
  return status;
}

// The tokens that the vocabulary has not, with the ids that tokenizer_add_tokens gives them.
static Status add_to_json(json_t *root, const char *folder, const char *const *texts, int count) {
  Tokenizer *tokenizer;
  TRY(tokenizer_from_folder(&tokenizer, folder));
  int64_t before = tokenizer_size(tokenizer);
  Status status = tokenizer_add_tokens(tokenizer, texts, count);
  json_t *added = json_object_get(root, "added_tokens");
  if (!json_is_array(added)) json_object_set_new(root, "added_tokens", added = json_array());
  for (int64_t id = before; status == STATUS_OK && id < tokenizer_size(tokenizer); id++)
    json_array_append_new(
        added, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", tokenizer_text(tokenizer, (int32_t)id),
                         "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 0));
  tokenizer_free(tokenizer);
  return status;
}

// (Numbers as they are: the library wants whole ones where they are whole.) NULL when there is no such file.
static Status read_json(json_t **root, const char *path) {
  enum { FILE_LIMIT = 512 << 20 };
  Buffer text = {0};
  json_error_t error;
  *root = NULL;
  if (!file_exists(path)) return STATUS_OK;
  Status status = file_read(&text, path, FILE_LIMIT);
  if (status == STATUS_OK) *root = json_loadb(text.data, text.length, 0, &error);
  if (status == STATUS_OK && !json_is_object(*root))
    status = status_fail(STATUS_BAD_INPUT, "%s:%d: not a JSON object: %s", path, *root ? 1 : error.line, *root ? "" : error.text);
  if (status != STATUS_OK) json_decref(*root), *root = NULL;
  buffer_release(&text);
  return status;
}

Status tokenizer_copy_folder(const char *to, const char *from, const char *const *texts, int count) {
  static const char *const others[] = {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json"};
  json_t *root;
  char *path = path_join(from, "tokenizer.json");
  Status status = read_json(&root, path);
  free(path);
  TRY(status);
  if (!root)
    return status_fail(STATUS_USAGE,
                       "%s: has no tokenizer.json, into which new tokens would be written; name a Hugging Face folder with one", from);
  status = add_to_json(root, from, texts, count);
  if (status == STATUS_OK) status = write_json(root, to);
  json_decref(root);
  for (size_t i = 0; status == STATUS_OK && i < sizeof others / sizeof *others; i++) status = copy_file(to, from, others[i]);
  return status;
}
