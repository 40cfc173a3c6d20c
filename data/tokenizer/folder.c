// A tokenizer from a Hugging Face folder: tokenizer.json, or in older ones tokenizer.model and what was added to it (folder_pieces.c);
// and what the files beside it say of special tokens. bos, eos and pad are named by tokenizer_config.json, else
// special_tokens_map.json; ids in generation_config.json, else config.json, fill what is still open, and every end-of-sequence id
// that they list ends generation.
#include <string.h>

#include "core/file.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

enum { FILE_LIMIT = 512 << 20 };

static Status read_tokenizer(Tokenizer *tokenizer, const char *folder) {
  json_t *root;
  TRY(folder_read_json(&root, folder, "tokenizer.json"));
  if (!root) return folder_read_pieces(tokenizer, folder);
  Status status = tokenizer_read_json(tokenizer, root);
  json_decref(root);
  return status;
}

// ---- Special tokens by text ----

// A padding token outside the vocabulary is nothing to us (rows are padded by masks); another one would be made up by guessing.
static Status read_named(Tokenizer *tokenizer, const char *folder, const char *file, const json_t *root) {
  struct {
    const char *key;
    int32_t *id;
  } const roles[] = {
      {"bos_token", &tokenizer->bos}, {"eos_token", &tokenizer->eos}, {"pad_token", &tokenizer->pad}, {"eot_token", &tokenizer->eot}};
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
    const char *text = json_get_token_text(root, roles[i].key);
    if (!text || *roles[i].id >= 0) continue;
    *roles[i].id = tokenizer_find(tokenizer, text);
    if (*roles[i].id < 0 && roles[i].id != &tokenizer->pad) {
      return status_fail(STATUS_BAD_INPUT, "%s/%s: %s: `%s` is not in the vocabulary of tokenizer.json", folder, file, roles[i].key, text);
    }
  }
  return STATUS_OK;
}

// A string, or a list of {name, template} of which `default` is meant.
static const char *template_text(const json_t *value) {
  if (json_is_string(value)) return json_string_value(value);
  size_t i;
  json_t *entry;
  json_array_foreach(value, i, entry) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    if (name && strcmp(name, "default") == 0) return json_string_value(json_object_get(entry, "template"));
  }
  return NULL;
}

static Status read_texts(Tokenizer *tokenizer, const char *folder) {
  static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    json_t *root;
    TRY(folder_read_json(&root, folder, files[i]));
    Status status = read_named(tokenizer, folder, files[i], root);
    const char *template = template_text(json_object_get(root, "chat_template"));
    if (template && !tokenizer->chat_template) tokenizer->chat_template = arena_copy_string(&tokenizer->arena, template);
    json_decref(root);
    TRY(status);
  }
  return STATUS_OK;
}

// ---- Special tokens by id ----

static Status read_id(Tokenizer *tokenizer, const char *folder, const char *file, const char *key, const json_t *value, int32_t *id,
                      bool ends) {
  if (!json_is_number(value)) return STATUS_OK;
  int32_t number;
  if (!json_get_id(value, tokenizer->size, &number) || !tokenizer_text(tokenizer, number)) {
    return status_fail(STATUS_BAD_INPUT, "%s/%s: %s: %.17g is not the id of a token", folder, file, key, json_number_value(value));
  }
  if (*id < 0) *id = number;
  if (ends) tokenizer_add_end(tokenizer, number);
  return STATUS_OK;
}

static Status read_numbered(Tokenizer *tokenizer, const char *folder, const char *file, const json_t *root) {
  const json_t *ends = json_object_get(root, "eos_token_id");
  TRY(read_id(tokenizer, folder, file, "bos_token_id", json_object_get(root, "bos_token_id"), &tokenizer->bos, false));
  TRY(read_id(tokenizer, folder, file, "eos_token_id", ends, &tokenizer->eos, true));
  size_t i;
  json_t *entry;
  json_array_foreach(ends, i, entry) TRY(read_id(tokenizer, folder, file, "eos_token_id", entry, &tokenizer->eos, true));
  return STATUS_OK;
}

static Status read_ids(Tokenizer *tokenizer, const char *folder) {
  static const char *const files[] = {"generation_config.json", "config.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    json_t *root;
    TRY(folder_read_json(&root, folder, files[i]));
    Status status = read_numbered(tokenizer, folder, files[i], root);
    json_decref(root);
    TRY(status);
  }
  return STATUS_OK;
}

static Status read_template_file(Tokenizer *tokenizer, const char *folder) {
  char *path = path_join(folder, "chat_template.jinja");
  Buffer text = {0};
  Status status = STATUS_OK;
  if (file_exists(path)) {
    status = file_read(&text, path, FILE_LIMIT);
    if (status == STATUS_OK) tokenizer->chat_template = arena_copy_bytes(&tokenizer->arena, text.data, text.length);
  }
  buffer_release(&text);
  free(path);
  return status;
}

// Tokens that are named as special are control tokens, whatever tokenizer.json says of them.
static void mark_special(Tokenizer *tokenizer) {
  const int32_t ids[] = {tokenizer->bos, tokenizer->eos, tokenizer->pad, tokenizer->eot};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    Token *token = ids[i] >= 0 ? &tokenizer->tokens[ids[i]] : NULL;
    if (!token || token->type == TOKEN_UNKNOWN) continue;
    token->type = TOKEN_CONTROL;
    token->added = true;
  }
}

Status tokenizer_from_folder(Tokenizer **out, const char *folder) {
  Tokenizer *tokenizer = tokenizer_new(folder);
  Status status;
  *out = NULL;
  char *path = path_join(folder, "tokenizer.json");
  tokenizer->source = arena_copy_string(&tokenizer->arena, path);
  free(path);
  TRY_DONE(read_tokenizer(tokenizer, folder));
  TRY_DONE(read_template_file(tokenizer, folder));
  TRY_DONE(read_texts(tokenizer, folder));
  TRY_DONE(read_ids(tokenizer, folder));
  mark_special(tokenizer);
  TRY_DONE(tokenizer_finish(tokenizer));
  *out = tokenizer;
  return STATUS_OK;
done:
  tokenizer_free(tokenizer);
  return status;
}
