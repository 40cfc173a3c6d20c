// A folder without a tokenizer.json: its tokenizer.model, the tokens that were added to it (added_tokens_decoder of tokenizer_config.json,
// else added_tokens.json), and whether BOS and EOS come around a text (tokenizer_config.json; LlamaTokenizer adds BOS unless told not to).
#include <string.h>

#include "core/file.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"
#include "data/tokenizer/sentencepiece.h"

enum { MODEL_LIMIT = 512 << 20, ADDED_MOST = 1 << 20 };

typedef struct Extra {
  int32_t id;
  const char *text;
  bool special, lstrip, rstrip;
} Extra;

typedef struct Extras {
  Extra *list;
  size_t count, capacity;
} Extras;

static Status bad_entry(const char *folder, const char *file, const char *key) {
  return status_fail(STATUS_BAD_INPUT, "%s/%s: `%.64s` is not a token with an id below %d", folder, file, key, ADDED_MOST);
}

static Status list_extras(Extras *extras, const char *folder, const json_t *settings, const json_t *added) {
  const char *key;
  json_t *value;
  Extra extra;
  json_object_foreach(json_object_get(settings, "added_tokens_decoder"), key, value) {
    char *end;
    double id = strtod(key, &end);
    extra = (Extra){.text = json_get_text(value, "content"),
                    .special = json_is_flag(value, "special"),
                    .lstrip = json_is_flag(value, "lstrip"),
                    .rstrip = json_is_flag(value, "rstrip")};
    if (*end || !(id >= 0 && id < ADDED_MOST) || id != (int32_t)id || !*extra.text) return bad_entry(folder, "tokenizer_config.json", key);
    extra.id = (int32_t)id;
    ARRAY_PUSH(extras->list, extras->count, extras->capacity) = extra;
  }
  if (extras->count) return STATUS_OK;
  json_object_foreach((json_t *)added, key, value) {
    extra = (Extra){.text = key};
    if (!json_get_id(value, ADDED_MOST, &extra.id) || !*key) return bad_entry(folder, "added_tokens.json", key);
    ARRAY_PUSH(extras->list, extras->count, extras->capacity) = extra;
  }
  return STATUS_OK;
}

// What stands in the model already keeps its type there.
static Status set_extras(Tokenizer *tokenizer, const Extras *extras) {
  for (size_t i = 0; i < extras->count; i++) {
    const Extra *extra = &extras->list[i];
    Token *token = &tokenizer->tokens[extra->id];
    if (token->text && strcmp(token->text, extra->text) == 0) continue;
    if (token->text) {
      return status_fail(STATUS_BAD_INPUT, "%s: the added token `%.64s` has the id %d, which is `%.64s` in the model", tokenizer->source,
                         extra->text, extra->id, token->text);
    }
    TRY(tokenizer_set_token(tokenizer, extra->id, extra->text, strlen(extra->text), extra->special ? TOKEN_CONTROL : TOKEN_USER_DEFINED));
    token->added = true;
    token->lstrip = extra->lstrip;
    token->rstrip = extra->rstrip;
  }
  return STATUS_OK;
}

// The special token that the settings name, else the model's.
static int32_t named_token(const Tokenizer *tokenizer, const json_t *settings, const char *key, int32_t otherwise) {
  const char *text = json_get_token_text(settings, key);
  int32_t id = text ? tokenizer_find(tokenizer, text) : -1;
  return id >= 0 ? id : otherwise;
}

static Status read_pieces(Tokenizer *tokenizer, const Buffer *file, const Extras *extras, const json_t *settings) {
  int64_t rows = 0;
  for (size_t i = 0; i < extras->count; i++) rows = extras->list[i].id >= rows ? extras->list[i].id + 1 : rows;
  TRY(sentencepiece_read(tokenizer, (const uint8_t *)file->data, file->length, rows));
  TRY(set_extras(tokenizer, extras));
  tokenizer->bos = named_token(tokenizer, settings, "bos_token", tokenizer->bos);
  tokenizer->eos = named_token(tokenizer, settings, "eos_token", tokenizer->eos);
  tokenizer->pad = named_token(tokenizer, settings, "pad_token", tokenizer->pad);
  bool adds_bos = !json_is_false(json_object_get(settings, "add_bos_token")), adds_eos = json_is_flag(settings, "add_eos_token");
  if (adds_bos && tokenizer->bos >= 0) token_list_push(&tokenizer->prefix, tokenizer->bos);
  if (adds_eos && tokenizer->eos >= 0) token_list_push(&tokenizer->suffix, tokenizer->eos);
  return STATUS_OK;
}

bool tokenizer_is_there(const char *folder) {
  if (!directory_exists(folder)) return true;
  char *json = path_join(folder, "tokenizer.json"), *pieces = path_join(folder, "tokenizer.model");
  bool has = file_exists(json) || file_exists(pieces);
  free(json);
  free(pieces);
  return has;
}

Status folder_read_pieces(Tokenizer *tokenizer, const char *folder) {
  char *path = path_join(folder, "tokenizer.model");
  Buffer file = {0};
  json_t *settings = NULL, *added = NULL;
  Extras extras = {0};
  Status status;
  if (!file_exists(path)) {
    status = status_fail(
        STATUS_BAD_INPUT,
        "%s: no tokenizer.json and no tokenizer.model: write the first with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) "
        "of transformers",
        folder);
    goto done;
  }
  tokenizer->source = arena_copy_string(&tokenizer->arena, path);
  TRY_DONE(file_read(&file, path, MODEL_LIMIT));
  TRY_DONE(folder_read_json(&settings, folder, "tokenizer_config.json"));
  TRY_DONE(folder_read_json(&added, folder, "added_tokens.json"));
  TRY_DONE(list_extras(&extras, folder, settings, added));
  status = read_pieces(tokenizer, &file, &extras, settings);
done:
  free(extras.list);
  json_decref(settings);
  json_decref(added);
  buffer_release(&file);
  free(path);
  return status;
}
