// A tokenizer from GGUF metadata (tokenizer.ggml.*; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer). That token
// types are as many as tokens, byte tokens well formed and special ids inside the vocabulary has been checked with the file.
#include <string.h>

#include "data/tokenizer/parts.h"

static Status read_model(Tokenizer *tokenizer, const Gguf *gguf) {
  GgufString model;
  if (!gguf_get_string(gguf, "tokenizer.ggml.model", &model)) {
    return status_fail(STATUS_BAD_INPUT, "%s: no tokenizer.ggml.model: the file carries no vocabulary", gguf->path);
  }
  if (model.length == 4 && memcmp(model.data, "gpt2", 4) == 0) {
    tokenizer->model.kind = MODEL_BPE_BYTES;
    tokenizer->decode.byte_level = true;
    return STATUS_OK;
  }
  return status_fail(
      STATUS_BAD_INPUT,
      "%s: tokenizer.ggml.model: `%.*s` is not supported, only gpt2 (byte-level BPE): use the model's Hugging Face folder with "
      "its tokenizer.json, or another model",
      gguf->path, (int)(model.length < 64 ? model.length : 64), model.data);
}

static Status read_pre(Tokenizer *tokenizer, const Gguf *gguf, const PreRule **rule) {
  GgufString pre;
  Buffer names = {0};
  pre_rule_names(&names);
  Status status = STATUS_OK;
  *rule = NULL;
  if (!gguf_get_string(gguf, "tokenizer.ggml.pre", &pre)) {
    status = status_fail(STATUS_BAD_INPUT,
                         "%s: no tokenizer.ggml.pre, so how words are cut is not known: convert the model again with a present "
                         "llama.cpp, or set the key (known: %s)",
                         gguf->path, names.data);
  } else {
    char *name = arena_copy_bytes(&tokenizer->arena, pre.data, pre.length);
    *rule = pre_rule_find(name);
    if (!*rule) {
      status =
          status_fail(STATUS_BAD_INPUT,
                      "%s: tokenizer.ggml.pre: the pre-tokenizer `%.64s` is not known (known: %s): use the model's Hugging Face folder "
                      "with its tokenizer.json",
                      gguf->path, name, names.data);
    }
  }
  buffer_release(&names);
  TRY(status);
  for (size_t i = 0; i < sizeof(*rule)->patterns / sizeof *(*rule)->patterns && (*rule)->patterns[i]; i++) {
    TRY(tokenizer_add_split(tokenizer, (*rule)->patterns[i], SPLIT_ISOLATED, false));
  }
  tokenizer->model.ignore_merges = (*rule)->ignore_merges;
  if ((*rule)->nfc) {
    tokenizer->steps = memory_new(1, sizeof *tokenizer->steps);
    tokenizer->steps[tokenizer->step_count++] = (NormalizeStep){.kind = NORMALIZE_UNICODE, .form = UNICODE_NFC};
  }
  return STATUS_OK;
}

static Status read_tokens(Tokenizer *tokenizer, const Gguf *gguf) {
  const GgufValue *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
  const GgufValue *types = gguf_find(gguf, "tokenizer.ggml.token_type");
  if (!tokens || tokens->type != GGUF_ARRAY || tokens->element != GGUF_STRING || tokens->count == 0 || tokens->count > INT32_MAX) {
    return status_fail(STATUS_BAD_INPUT, "%s: tokenizer.ggml.tokens is not an array of strings", gguf->path);
  }
  tokenizer->size = (int64_t)tokens->count;
  tokenizer->tokens = memory_new(tokens->count, sizeof *tokenizer->tokens);
  for (uint64_t i = 0; i < tokens->count; i++) {
    int64_t type = TOKEN_NORMAL;
    if (types) gguf_array_integer(types, i, &type);
    if (type == 0) type = TOKEN_NORMAL;  // "undefined"
    TRY(tokenizer_set_token(tokenizer, (int32_t)i, tokens->strings[i].data, tokens->strings[i].length, (TokenType)type));
    tokenizer->tokens[i].added = type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN;
  }
  return STATUS_OK;
}

static Status read_merges(Tokenizer *tokenizer, const Gguf *gguf) {
  const GgufValue *merges = gguf_find(gguf, "tokenizer.ggml.merges");
  if (!merges || merges->type != GGUF_ARRAY || merges->element != GGUF_STRING || merges->count > INT32_MAX) {
    return status_fail(STATUS_BAD_INPUT, "%s: tokenizer.ggml.merges is not an array of strings", gguf->path);
  }
  tokenizer->model.rank_count = (int32_t)merges->count;
  tokenizer->model.merged = memory_new(merges->count, sizeof *tokenizer->model.merged);
  for (uint64_t i = 0; i < merges->count; i++) {
    const GgufString *merge = &merges->strings[i];
    const char *space = merge->length > 1 ? memchr(merge->data + 1, ' ', merge->length - 1) : NULL;
    if (!space) {
      return status_fail(STATUS_BAD_INPUT, "%s: tokenizer.ggml.merges[%llu] is not two tokens with a space between", gguf->path,
                         (unsigned long long)i);
    }
    size_t left = (size_t)(space - merge->data);
    TRY(tokenizer_add_merge(tokenizer, merge->data, left, space + 1, merge->length - left - 1, (int64_t)i));
  }
  return STATUS_OK;
}

static int32_t get_id(const Gguf *gguf, const char *key) {
  int64_t id = -1;
  gguf_get_integer(gguf, key, &id);
  return (int32_t)id;
}

static void read_special(Tokenizer *tokenizer, const Gguf *gguf, const PreRule *rule) {
  tokenizer->bos = get_id(gguf, "tokenizer.ggml.bos_token_id");
  tokenizer->eos = get_id(gguf, "tokenizer.ggml.eos_token_id");
  tokenizer->pad = get_id(gguf, "tokenizer.ggml.padding_token_id");
  tokenizer->unknown = get_id(gguf, "tokenizer.ggml.unknown_token_id");
  tokenizer->eot = get_id(gguf, "tokenizer.ggml.eot_token_id");
  tokenizer_add_end(tokenizer, get_id(gguf, "tokenizer.ggml.eom_token_id"));
  bool adds_bos = rule->adds_bos, adds_eos = false;
  gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &adds_bos);
  gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", &adds_eos);
  if (adds_bos && tokenizer->bos >= 0) token_list_push(&tokenizer->prefix, tokenizer->bos);
  if (adds_eos && tokenizer->eos >= 0) token_list_push(&tokenizer->suffix, tokenizer->eos);
  GgufString template;
  if (gguf_get_string(gguf, "tokenizer.chat_template", &template)) {
    tokenizer->chat_template = arena_copy_bytes(&tokenizer->arena, template.data, template.length);
  }
}

Status tokenizer_from_gguf(Tokenizer **out, const Gguf *gguf) {
  Tokenizer *tokenizer = tokenizer_new(gguf->path);
  const PreRule *rule;
  Status status;
  *out = NULL;
  TRY_DONE(read_model(tokenizer, gguf));
  TRY_DONE(read_pre(tokenizer, gguf, &rule));
  TRY_DONE(read_tokens(tokenizer, gguf));
  TRY_DONE(read_merges(tokenizer, gguf));
  read_special(tokenizer, gguf, rule);
  TRY_DONE(tokenizer_finish(tokenizer));
  *out = tokenizer;
  return STATUS_OK;
done:
  tokenizer_free(tokenizer);
  return status;
}
