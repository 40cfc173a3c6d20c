// Tokens that are new to a vocabulary, and new texts for reserved ones: in memory, and in the tokenizer.json of a folder, whose list
// added_tokens gets them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
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

static Status override_tokens(Tokenizer *tokenizer, const TokenChanges *changes) {
  for (int i = 0; i < changes->override_count; i++) {
    int32_t id = changes->ids[i], other = tokenizer_find(tokenizer, changes->texts[i]);
    if (!tokenizer_text(tokenizer, id) || !tokenizer->tokens[id].added || !changes->texts[i][0])
      return status_fail(STATUS_USAGE, "%s: %d is no added token, and only those can get another text", tokenizer->source, id);
    if (other >= 0 && other != id)
      return status_fail(STATUS_USAGE, "%s: \"%s\" is the token %d already", tokenizer->source, changes->texts[i], other);
    Token *token = &tokenizer->tokens[id];
    token->text = arena_copy_string(&tokenizer->arena, changes->texts[i]);
    token->length = (uint32_t)strlen(token->text);
    if (token->length > tokenizer->model.longest) tokenizer->model.longest = token->length;
    TRY(tokenizer_index(tokenizer));
  }
  return STATUS_OK;
}

Status tokenizer_change(Tokenizer *tokenizer, const TokenChanges *changes) {
  TRY(override_tokens(tokenizer, changes));
  for (int i = 0; i < changes->added_count; i++) {
    const char *text = changes->added[i];
    if (tokenizer_find(tokenizer, text) >= 0) continue;
    if (!text[0]) return status_fail(STATUS_USAGE, "an empty text is no token");
    if (tokenizer->model.loose_count)  // numbered from the vocabulary's size on
      return status_fail(STATUS_USAGE, "%s: \"%s\" cannot be added: its tokens hold characters that are none themselves", tokenizer->source,
                         text);
    TRY(add_token(tokenizer, text));
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

static Status write_json(json_t *root, const char *folder, const char *name) {
  char *text = json_dumps(root, JSON_INDENT(2)), *path = path_join(folder, name);
  Status status = text ? file_write_whole(path, text, strlen(text)) : status_fail(STATUS_FAILED, "%s: cannot be put into JSON", path);
  free(path);
  free(text);
  return status;
}

// The same changes in tokenizer.json, with the ids that tokenizer_change gives; where `from` can be opened so.
static Status change_json(json_t *root, const char *from, const TokenChanges *changes) {
  Tokenizer *tokenizer;
  TRY(tokenizer_from_folder(&tokenizer, from));
  int64_t before = tokenizer_size(tokenizer);
  json_t *added = json_object_get(root, "added_tokens"), *vocabulary = json_object_get(json_object_get(root, "model"), "vocab"), *token;
  if (!json_is_array(added)) json_object_set_new(root, "added_tokens", added = json_array());
  for (int i = 0; i < changes->override_count; i++) {
    size_t index;
    const char *old = tokenizer_text(tokenizer, changes->ids[i]);
    json_array_foreach(added, index, token) if (json_integer_value(json_object_get(token, "id")) == changes->ids[i])
        json_object_set_new(token, "content", json_string(changes->texts[i]));
    if (!old || !json_is_object(vocabulary) || !json_object_get(vocabulary, old)) continue;
    json_object_set_new(vocabulary, changes->texts[i], json_integer(changes->ids[i]));
    json_object_del(vocabulary, old);
  }
  Status status = tokenizer_change(tokenizer, changes);
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

static Status read_in(json_t **root, const char *folder, const char *name) {
  char *path = path_join(folder, name);
  Status status = read_json(root, path);
  free(path);
  return status;
}

// In a file that names special tokens by their texts, or has the texts of added tokens once more.
static void override_names(json_t *root, const char *old, int32_t id, const char *text) {
  const char *key;
  json_t *value;
  json_object_foreach(root, key, value) {
    const char *named = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    if (!named || strcmp(named, old) != 0 || !text_ends_with(key, "_token")) continue;
    if (json_is_object(value)) json_object_set_new(value, "content", json_string(text));
    else json_string_set(value, text);
  }
  char number[16];
  snprintf(number, sizeof number, "%d", id);
  json_t *token = json_object_get(json_object_get(root, "added_tokens_decoder"), number);
  if (token) json_object_set_new(token, "content", json_string(text));
}

static Status copy_names(const char *to, const char *from, const char *name, const TokenChanges *changes) {
  if (changes->override_count == 0) return copy_file(to, from, name);
  json_t *root;
  Tokenizer *tokenizer;
  TRY(read_in(&root, from, name));
  if (!root) return STATUS_OK;
  Status status = tokenizer_from_folder(&tokenizer, from);
  if (status == STATUS_OK) {
    for (int i = 0; i < changes->override_count; i++)
      override_names(root, tokenizer_text(tokenizer, changes->ids[i]), changes->ids[i], changes->texts[i]);
    status = write_json(root, to, name);
    tokenizer_free(tokenizer);
  }
  json_decref(root);
  return status;
}

Status tokenizer_copy_folder(const char *to, const char *from, const TokenChanges *changes) {
  json_t *root;
  TRY(read_in(&root, from, "tokenizer.json"));
  if (!root)
    return status_fail(STATUS_USAGE,
                       "%s: has no tokenizer.json, into which new tokens would be written; name a Hugging Face folder with one", from);
  Status status = change_json(root, from, changes);
  if (status == STATUS_OK) status = write_json(root, to, "tokenizer.json");
  json_decref(root);
  if (status == STATUS_OK) status = copy_names(to, from, "tokenizer_config.json", changes);
  if (status == STATUS_OK) status = copy_names(to, from, "special_tokens_map.json", changes);
  return status == STATUS_OK ? copy_file(to, from, "generation_config.json") : status;
}
