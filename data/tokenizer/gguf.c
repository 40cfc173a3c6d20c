// A tokenizer from GGUF metadata (tokenizer.ggml.*; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer), with the
// defaults of llama.cpp (src/llama-vocab.cpp) for keys that are missing. That token types are as many as tokens, byte tokens well formed
// and special ids inside the vocabulary has been checked with the file.
#include <ctype.h>
#include <string.h>

#include "data/tokenizer/parts.h"

typedef enum GgufModel {
  GGUF_MODEL_BYTES,  // gpt2: byte-level BPE by merges, words cut by the rule of tokenizer.ggml.pre
  GGUF_MODEL_SCORES,  // llama: SentencePiece's BPE by scores
  GGUF_MODEL_MERGES,  // gemma4: spaces as U+2581 like SentencePiece, but merges from a list
} GgufModel;

static bool string_is(GgufString string, const char *text) {
  return string.length == strlen(text) && memcmp(string.data, text, string.length) == 0;
}

static Status read_model(GgufModel *model, const Gguf *gguf) {
  static const char *const names[] = {[GGUF_MODEL_BYTES] = "gpt2", [GGUF_MODEL_SCORES] = "llama", [GGUF_MODEL_MERGES] = "gemma4"};
  GgufString name;
  if (!gguf_get_string(gguf, "tokenizer.ggml.model", &name)) {
    return status_fail(STATUS_BAD_INPUT, "%s: no tokenizer.ggml.model: the file carries no vocabulary", gguf->path);
  }
  for (int i = GGUF_MODEL_BYTES; i <= GGUF_MODEL_MERGES; i++) {
    *model = (GgufModel)i;
    if (string_is(name, names[i])) return STATUS_OK;
  }
  return status_fail(
      STATUS_BAD_INPUT,
      "%s: tokenizer.ggml.model: `%.*s` is not supported, only gpt2 (byte-level BPE), llama (SentencePiece's BPE) and gemma4: use the "
      "model's Hugging Face folder with its tokenizer.json, or another model",
      gguf->path, (int)(name.length < 64 ? name.length : 64), name.data);
}

// ---- Normalisation and words ----

static Status apply_rule(Tokenizer *tokenizer, const PreRule *rule) {
  tokenizer->model.kind = rule->alphabet_after ? MODEL_BPE_CHARACTERS : MODEL_BPE_BYTES;
  tokenizer->model.ignore_merges = rule->ignore_merges;
  tokenizer->decode = (DecodeRule){.byte_level = true, .steps = {{.kind = DECODE_ALPHABET}}, .count = 1};
  if (rule->nfc && !rule->nfc_left_out) tokenizer_add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_UNICODE, .form = UNICODE_NFC});
  for (int i = 0; i < pre_rule_steps(rule); i++) {
    if (rule->alphabet_after && i == rule->alphabet_after) TRY(tokenizer_add_stage(tokenizer, (Stage){.kind = STAGE_ALPHABET}));
    TRY(tokenizer_add_split(tokenizer, rule->steps[i].pattern, rule->steps[i].behavior, false));
  }
  return STATUS_OK;
}

static Status read_pre(Tokenizer *tokenizer, const Gguf *gguf, bool *adds_bos) {
  GgufString pre;
  if (!gguf_get_string(gguf, "tokenizer.ggml.pre", &pre)) {
    return status_fail(STATUS_BAD_INPUT,
                       "%s: no tokenizer.ggml.pre, so how words are cut is not known: convert the model again with a present llama.cpp, or "
                       "set the key (`default` is what llama.cpp would take)",
                       gguf->path);
  }
  char *name = arena_copy_bytes(&tokenizer->arena, pre.data, pre.length);
  const PreRule *rule = pre_rule_find(name);
  if (rule) {
    *adds_bos = rule->adds_bos;
    return apply_rule(tokenizer, rule);
  }
  Buffer names = {0};
  pre_rule_names(&names);
  Status status =
      status_fail(STATUS_BAD_INPUT,
                  "%s: tokenizer.ggml.pre: the pre-tokenizer `%.64s` is not known: use the model's Hugging Face folder with its "
                  "tokenizer.json (known: %s)",
                  gguf->path, name, names.data);
  buffer_release(&names);
  return status;
}

// ---- Tokens ----

static Status read_tokens(Tokenizer *tokenizer, const Gguf *gguf) {
  const GgufValue *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
  const GgufValue *types = gguf_find(gguf, "tokenizer.ggml.token_type");
  if (!tokens || tokens->type != GGUF_ARRAY || tokens->element != GGUF_STRING || tokens->count == 0 || tokens->count > INT32_MAX / 2) {
    return status_fail(STATUS_BAD_INPUT, "%s: tokenizer.ggml.tokens is not an array of strings", gguf->path);
  }
  tokenizer->size = (int64_t)tokens->count;
  tokenizer->tokens = memory_new(tokens->count, sizeof *tokenizer->tokens);
  for (uint64_t i = 0; i < tokens->count; i++) {
    int64_t type = TOKEN_NORMAL;
    if (types) gguf_array_integer(types, i, &type);
    if (type == 0) type = TOKEN_NORMAL;  // "undefined"
    if (tokens->strings[i].length == 0) continue;  // a hole: no text gives it
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
  tokenizer->model.merge_count = (int32_t)merges->count;
  model_reserve_merges(&tokenizer->model, merges->count);
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

static Status read_scores(Tokenizer *tokenizer, const Gguf *gguf) {
  const GgufValue *values = gguf_find(gguf, "tokenizer.ggml.scores");
  if (!values || values->type != GGUF_ARRAY || values->count < (uint64_t)tokenizer->size) {
    return status_fail(STATUS_BAD_INPUT, "%s: tokenizer.ggml.scores is not an array with the score of each token", gguf->path);
  }
  float *scores = memory_new((size_t)tokenizer->size, sizeof *scores);
  Status status = STATUS_OK;
  for (int64_t i = 0; i < tokenizer->size && status == STATUS_OK; i++) {
    double score;
    int64_t whole;
    if (gguf_array_float(values, (uint64_t)i, &score)) {
      scores[i] = (float)score;
    } else if (gguf_array_integer(values, (uint64_t)i, &whole)) {
      scores[i] = (float)whole;
    } else {
      status = status_fail(STATUS_BAD_INPUT, "%s: tokenizer.ggml.scores[%lld] is not a number", gguf->path, (long long)i);
    }
  }
  if (status == STATUS_OK) status = spm_set_merges(tokenizer, scores);
  free(scores);
  return status;
}

// ---- Special tokens ----

static int32_t get_id(const Tokenizer *tokenizer, const Gguf *gguf, const char *key, int64_t otherwise) {
  int64_t id = otherwise < tokenizer->size ? otherwise : -1;
  gguf_get_integer(gguf, key, &id);
  return id >= 0 && tokenizer->tokens[id].text ? (int32_t)id : -1;
}

static void read_special(Tokenizer *tokenizer, const Gguf *gguf, GgufModel model, bool adds_bos) {
  bool scores = model == GGUF_MODEL_SCORES;  // whose special ids have defaults
  tokenizer->bos = get_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", scores ? 1 : -1);
  tokenizer->eos = get_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", scores ? 2 : -1);
  tokenizer->unknown = get_id(tokenizer, gguf, "tokenizer.ggml.unknown_token_id", scores ? 0 : -1);
  tokenizer->pad = get_id(tokenizer, gguf, "tokenizer.ggml.padding_token_id", -1);
  tokenizer->eot = get_id(tokenizer, gguf, "tokenizer.ggml.eot_token_id", -1);
  tokenizer_add_end(tokenizer, get_id(tokenizer, gguf, "tokenizer.ggml.eom_token_id", -1));
  if (model != GGUF_MODEL_BYTES) tokenizer->model.unknown = tokenizer->unknown;
  bool adds_eos = false;
  gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &adds_bos);
  gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", &adds_eos);
  if (model == GGUF_MODEL_MERGES) adds_bos = true;  // Gemma 4 always has one, whatever early conversions say
  if (adds_bos && tokenizer->bos >= 0) token_list_push(&tokenizer->prefix, tokenizer->bos);
  if (adds_eos && tokenizer->eos >= 0) token_list_push(&tokenizer->suffix, tokenizer->eos);
  GgufString template;
  if (gguf_get_string(gguf, "tokenizer.chat_template", &template)) {
    tokenizer->chat_template = arena_copy_bytes(&tokenizer->arena, template.data, template.length);
  }
}

static bool name_has(GgufString name, const char *part) {
  size_t length = strlen(part);
  for (size_t i = 0; i + length <= name.length; i++) {
    size_t same = 0;
    while (same < length && tolower((unsigned char)name.data[i + same]) == part[same]) same++;
    if (same == length) return true;
  }
  return false;
}

// GGUF has no place for an added token's flags. Phi-3's special tokens take the white space behind them, but for three; llama.cpp knows
// the model by its name, and so do we.
static void set_phi3_flags(Tokenizer *tokenizer, const Gguf *gguf) {
  static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
  GgufString name;
  if (!gguf_get_string(gguf, "general.name", &name) || !(name_has(name, "phi-3") || name_has(name, "phi3"))) return;
  for (int64_t i = 0; i < tokenizer->size; i++) tokenizer->tokens[i].rstrip = tokenizer->tokens[i].added;
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
    int32_t id = tokenizer_find(tokenizer, plain[i]);
    if (id >= 0) tokenizer->tokens[id].rstrip = false;
  }
}

static Status read_all(Tokenizer *tokenizer, const Gguf *gguf) {
  GgufModel model;
  bool adds_bos = true, prefix;
  TRY(read_model(&model, gguf));
  TRY(read_tokens(tokenizer, gguf));
  if (model == GGUF_MODEL_BYTES) {
    TRY(read_pre(tokenizer, gguf, &adds_bos));
  } else {
    prefix = model == GGUF_MODEL_SCORES;
    gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", &prefix);
    tokenizer_set_spaces(tokenizer, prefix);
  }
  read_special(tokenizer, gguf, model, adds_bos);
  set_phi3_flags(tokenizer, gguf);
  TRY(model == GGUF_MODEL_SCORES ? read_scores(tokenizer, gguf) : read_merges(tokenizer, gguf));
  return tokenizer_finish(tokenizer);
}

Status tokenizer_from_gguf(Tokenizer **out, const Gguf *gguf) {
  Tokenizer *tokenizer = tokenizer_new(gguf->path);
  Status status = read_all(tokenizer, gguf);
  *out = status == STATUS_OK ? tokenizer : NULL;
  if (status != STATUS_OK) tokenizer_free(tokenizer);
  return status;
}
