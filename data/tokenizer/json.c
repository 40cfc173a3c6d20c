// A tokenizer from a tokenizer.json of Hugging Face's tokenizers library (https://github.com/huggingface/tokenizers): its model,
// added tokens, normalizer, pre_tokenizer, post_processor and decoder, each as the file describes it. A kind of component that is
// not here is refused by its name.
#include <math.h>
#include <string.h>

#include "core/text.h"
#include "core/file.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

enum { FILE_LIMIT = 512 << 20 };

// ---- Reading ----

// Integers as doubles: model_max_length is often 10^30, which fits no integer; ids are exact either way.
Status json_parse(json_t **out, const char *name, const char *text, size_t length) {
  json_error_t error;
  *out = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
  if (*out) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: not valid JSON: %s", name, error.line, error.column, error.text);
}

bool json_is_flag(const json_t *object, const char *key) { return json_is_true(json_object_get(object, key)); }

// The string of a key; "" when there is none.
const char *json_get_text(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

const char *json_get_token_text(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

bool json_is_absent(const json_t *value) { return !value || json_is_null(value); }

Status json_fail(const Tokenizer *tokenizer, const char *place, const char *what) {
  return status_fail(STATUS_BAD_INPUT, "%s: %s: %s", tokenizer->source, place, what);
}

Status json_refuse_type(const Tokenizer *tokenizer, const char *place, const json_t *component) {
  if (!json_is_object(component) || !json_object_get(component, "type")) return json_fail(tokenizer, place, "not an object with a type");
  return status_fail(STATUS_BAD_INPUT, "%s: %s: the type `%.64s` is not supported", tokenizer->source, place,
                     json_get_text(component, "type"));
}

Status folder_read_json(json_t **out, const char *folder, const char *file) {
  char *path = path_join(folder, file);
  Buffer text = {0};
  Status status = STATUS_OK;
  *out = NULL;
  if (file_exists(path)) {
    status = file_read(&text, path, FILE_LIMIT);
    if (status == STATUS_OK) status = json_parse(out, path, text.data ? text.data : "", text.length);
  }
  buffer_release(&text);
  free(path);
  return status;
}

bool json_get_id(const json_t *value, int64_t limit, int32_t *id) {
  double number = json_number_value(value);
  if (!json_is_number(value) || !(number >= 0 && number < (double)limit) || number != floor(number)) return false;
  *id = (int32_t)number;
  return true;
}

// ---- Tokens and merges ----

static Status measure_vocabulary(Tokenizer *tokenizer, json_t *vocab, const json_t *added) {
  const char *text;
  json_t *value;
  int32_t id, highest = -1;
  json_object_foreach(vocab, text, value) {
    if (!json_get_id(value, INT32_MAX, &id)) {
      return status_fail(STATUS_BAD_INPUT, "%s: model.vocab: the id of `%.64s` is not a number from 0", tokenizer->source, text);
    }
    if (id > highest) highest = id;
  }
  size_t i;
  json_array_foreach(added, i, value) {
    if (!json_get_id(json_object_get(value, "id"), INT32_MAX, &id) || !json_is_string(json_object_get(value, "content"))) {
      return status_fail(STATUS_BAD_INPUT, "%s: added_tokens[%zu] has no id from 0 and content", tokenizer->source, i);
    }
    if (id > highest) highest = id;
  }
  size_t entries = json_object_size(vocab) + json_array_size(added);
  if (highest < 0) return json_fail(tokenizer, "model.vocab", "the vocabulary is empty");
  if ((size_t)highest > 2 * entries + 4096) {
    return status_fail(STATUS_BAD_INPUT, "%s: the highest token id is %d, but there are only %zu tokens", tokenizer->source, highest,
                       entries);
  }
  tokenizer->size = (int64_t)highest + 1;
  tokenizer->tokens = memory_new((size_t)tokenizer->size, sizeof *tokenizer->tokens);
  return STATUS_OK;
}

static Status read_added(Tokenizer *tokenizer, const json_t *added) {
  const char *unknown = tokenizer->unknown >= 0 ? tokenizer->tokens[tokenizer->unknown].text : NULL;
  size_t i;
  json_t *entry;
  json_array_foreach(added, i, entry) {
    const json_t *content = json_object_get(entry, "content");
    int32_t id = (int32_t)json_number_value(json_object_get(entry, "id"));
    Token *token = &tokenizer->tokens[id];
    size_t length = json_string_length(content);
    if (token->text && (token->length != length || memcmp(token->text, json_string_value(content), length) != 0)) {
      return status_fail(STATUS_BAD_INPUT, "%s: added_tokens[%zu]: the id %d is `%.64s` in the vocabulary already", tokenizer->source, i,
                         id, token->text);
    }
    bool special = json_is_flag(entry, "special");
    bool is_unknown = unknown && strcmp(unknown, json_string_value(content)) == 0;
    TokenType type = !special ? TOKEN_USER_DEFINED : is_unknown ? TOKEN_UNKNOWN : TOKEN_CONTROL;
    TRY(tokenizer_set_token(tokenizer, id, json_string_value(content), length, type));
    token->added = true;
    token->single_word = json_is_flag(entry, "single_word");
    token->lstrip = json_is_flag(entry, "lstrip");
    token->rstrip = json_is_flag(entry, "rstrip");
    token->normalized = json_is_flag(entry, "normalized");
  }
  return STATUS_OK;
}

static Status read_tokens(Tokenizer *tokenizer, json_t *model, const json_t *added) {
  json_t *vocab = json_object_get(model, "vocab"), *value;
  if (!json_is_object(vocab)) return json_fail(tokenizer, "model.vocab", "not an object of token texts and ids");
  if (!json_is_absent(added) && !json_is_array(added)) return json_fail(tokenizer, "added_tokens", "not an array");
  TRY(measure_vocabulary(tokenizer, vocab, added));
  const char *text;
  json_object_foreach(vocab, text, value) {
    int32_t id = (int32_t)json_number_value(value);
    if (tokenizer->tokens[id].text) {
      return status_fail(STATUS_BAD_INPUT, "%s: model.vocab: `%.64s` and `%.64s` have the same id %d", tokenizer->source,
                         tokenizer->tokens[id].text, text, id);
    }
    TRY(tokenizer_set_token(tokenizer, id, text, strlen(text), TOKEN_NORMAL));
    if (tokenizer->model.byte_fallback && byte_token_value(&tokenizer->tokens[id]) >= 0) tokenizer->tokens[id].type = TOKEN_BYTE;
  }
  const json_t *unknown = json_object_get(model, "unk_token");
  if (json_is_string(unknown)) {
    tokenizer->unknown = tokenizer->model.unknown = tokenizer_find(tokenizer, json_string_value(unknown));
    if (tokenizer->unknown < 0) return json_fail(tokenizer, "model.unk_token", "the token is not in the vocabulary");
  }
  return read_added(tokenizer, added);
}

// A merge is "left right", or [left, right] where a token may hold a space.
static Status read_merges(Tokenizer *tokenizer, const json_t *merges) {
  if (!json_is_array(merges)) return json_fail(tokenizer, "model.merges", "not an array");
  size_t i, count = json_array_size(merges);
  if (count > INT32_MAX) return json_fail(tokenizer, "model.merges", "too many merges");
  tokenizer->model.merge_count = (int32_t)count;
  model_reserve_merges(&tokenizer->model, count);
  json_t *merge;
  json_array_foreach(merges, i, merge) {
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    const char *text = json_string_value(merge);
    const char *space = text ? memchr(text, ' ', json_string_length(merge)) : NULL;
    if (space) {
      size_t length = (size_t)(space - text);
      TRY(tokenizer_add_merge(tokenizer, text, length, space + 1, json_string_length(merge) - length - 1, (int64_t)i));
    } else if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right)) {
      TRY(tokenizer_add_merge(tokenizer, json_string_value(left), json_string_length(left), json_string_value(right),
                              json_string_length(right), (int64_t)i));
    } else {
      return status_fail(STATUS_BAD_INPUT, "%s: model.merges[%zu] is not two tokens", tokenizer->source, i);
    }
  }
  return STATUS_OK;
}

static Status read_model(Tokenizer *tokenizer, const json_t *root) {
  json_t *model = json_object_get(root, "model");
  if (!json_is_object(model)) return json_fail(tokenizer, "model", "not an object");
  // Files of the library's first versions name no type; merges are BPE's alone.
  const char *type = json_get_text(model, "type");
  if (strcmp(type, "BPE") != 0 && !(json_is_absent(json_object_get(model, "type")) && json_object_get(model, "merges"))) {
    if (!*type) return json_refuse_type(tokenizer, "model", model);
    return status_fail(STATUS_BAD_INPUT,
                       "%s: model: the type `%.64s` is not supported, only BPE: of the models that generate text nearly all have it; take "
                       "one whose tokenizer.json does",
                       tokenizer->source, type);
  }
  const char *prefix = json_get_text(model, "continuing_subword_prefix"), *suffix = json_get_text(model, "end_of_word_suffix");
  if (*prefix) tokenizer->model.prefix = arena_copy_string(&tokenizer->arena, prefix);
  if (*suffix) tokenizer->model.suffix = arena_copy_string(&tokenizer->arena, suffix);
  tokenizer->model.byte_fallback = json_is_flag(model, "byte_fallback");
  tokenizer->model.fuse_unknown = json_is_flag(model, "fuse_unk");
  tokenizer->model.ignore_merges = json_is_flag(model, "ignore_merges");
  TRY(read_tokens(tokenizer, model, json_object_get(root, "added_tokens")));
  return read_merges(tokenizer, json_object_get(model, "merges"));  // dropout of merges is for training a tokenizer: never here
}

Status tokenizer_read_json(Tokenizer *tokenizer, const json_t *root) {
  if (!json_is_object(root)) return json_fail(tokenizer, "the top level", "not an object");
  tokenizer->model.kind = MODEL_BPE_CHARACTERS;  // unless the pre_tokenizer ends in bytes
  TRY(read_model(tokenizer, root));
  TRY(json_read_normalizer(tokenizer, json_object_get(root, "normalizer")));
  TRY(json_read_pre_tokenizer(tokenizer, json_object_get(root, "pre_tokenizer")));
  TRY(json_read_post_processor(tokenizer, json_object_get(root, "post_processor")));
  return json_read_decoder(tokenizer, json_object_get(root, "decoder"));
}

Status tokenizer_from_json(Tokenizer **out, const char *name, const char *text, size_t length) {
  json_t *root;
  *out = NULL;
  TRY(json_parse(&root, name, text, length));
  Tokenizer *tokenizer = tokenizer_new(name);
  Status status = tokenizer_read_json(tokenizer, root);
  json_decref(root);
  if (status == STATUS_OK) status = tokenizer_finish(tokenizer);
  if (status == STATUS_OK) {
    *out = tokenizer;
  } else {
    tokenizer_free(tokenizer);
  }
  return status;
}
