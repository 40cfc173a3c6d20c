// What a GGUF's keys say, compared with its tensors and vocabulary, so that no reader above has to doubt it:
//   {architecture}.block_count against the tensors blk.N.*; the head counts against attn_q, attn_k and attn_v's rows;
//   scores and token types as many as tokens; special token ids inside the vocabulary; byte tokens <0x00> to <0xFF>.
#include "formats/gguf_check.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

enum { MAXIMUM_BLOCKS = 1 << 16, MAXIMUM_HEADS = 1 << 16, TOKEN_TYPE_BYTE = 6 };

#define CONVERT_AGAIN "the file is damaged: fetch or convert it again"

static bool string_is(const Gguf *gguf, const char *key, const char *text) {
  GgufString value;
  return gguf_get_string(gguf, key, &value) && value.length == strlen(text) && memcmp(value.data, text, value.length) == 0;
}

// "blk.12.attn_q.weight" gives 12 and "attn_q.weight"; -1 for names of another form.
static int64_t block_of_name(const char *name, const char **rest) {
  if (!text_starts_with(name, "blk.") || !isdigit((unsigned char)name[4])) return -1;
  char *end;
  long long block = strtoll(name + 4, &end, 10);  // saturates, which no block_count reaches
  if (*end != '.') return -1;
  *rest = end + 1;
  return block;
}

static Status check_block_count(const Gguf *gguf, const char *architecture, int64_t *blocks) {
  char *key = memory_format("%s.block_count", architecture);
  const GgufValue *value = gguf_find(gguf, key);
  bool is_integer = gguf_get_integer(gguf, key, blocks);
  Status status = STATUS_OK;
  if (!value) *blocks = MAXIMUM_BLOCKS;
  else if (!is_integer || *blocks < 0 || *blocks > MAXIMUM_BLOCKS)
    status = status_fail(STATUS_BAD_INPUT, "%s: key '%s' is no integer from 0 to %d; " CONVERT_AGAIN, gguf->path, key, MAXIMUM_BLOCKS);
  int64_t seen = 0;
  for (int64_t i = 0; status == STATUS_OK && i < gguf->tensor_count; i++) {
    const char *rest;
    int64_t block = block_of_name(gguf->tensors[i].name, &rest);
    if (block >= *blocks)
      status = status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' lies outside the %" PRId64 " blocks of key '%s'; " CONVERT_AGAIN, gguf->path,
                           gguf->tensors[i].name, *blocks, key);
    else if (block >= seen) seen = block + 1;
  }
  // One file of a split model, read alone, and an adapter hold only some of the blocks.
  bool is_partial = seen == 0 || gguf_find(gguf, "split.count") || string_is(gguf, "general.type", "adapter");
  if (status == STATUS_OK && value && !is_partial && seen != *blocks)
    status = status_fail(STATUS_BAD_INPUT, "%s: key '%s' says %" PRId64 " where the tensors make %" PRId64 " blocks; " CONVERT_AGAIN,
                         gguf->path, key, *blocks, seen);
  free(key);
  return status;
}

// The head count of a block: a number, or an array of one for each block. `otherwise` when the key is absent; -1 when it makes no sense.
static int64_t head_count(const Gguf *gguf, const char *architecture, const char *name, int64_t block, int64_t otherwise) {
  char *key = memory_format("%s.attention.%s", architecture, name);
  const GgufValue *value = gguf_find(gguf, key);
  free(key);
  if (!value) return otherwise;
  int64_t count;
  if (!gguf_array_integer(value, value->type == GGUF_ARRAY ? (uint64_t)block : 0, &count) || count < 0 || count > MAXIMUM_HEADS) return -1;
  return count;
}

static Status check_heads(const Gguf *gguf, const char *architecture) {
  if (head_count(gguf, architecture, "head_count", 0, 0) < 0 || head_count(gguf, architecture, "head_count_kv", 0, 0) < 0)
    return status_fail(STATUS_BAD_INPUT, "%s: key '%s.attention.head_count' or '.head_count_kv' is no integer from 0 to %d; " CONVERT_AGAIN,
                       gguf->path, architecture, MAXIMUM_HEADS);
  for (int64_t i = 0; i < gguf->tensor_count; i++) {
    const GgufTensor *tensor = &gguf->tensors[i];
    const char *rest = "";
    int64_t block = block_of_name(tensor->name, &rest);
    bool is_query = strcmp(rest, "attn_q.weight") == 0;
    if (!is_query && strcmp(rest, "attn_k.weight") != 0 && strcmp(rest, "attn_v.weight") != 0) continue;
    int64_t heads = head_count(gguf, architecture, "head_count", block, 1);
    int64_t key_heads = head_count(gguf, architecture, "head_count_kv", block, heads);
    int64_t rows_of = is_query ? heads : key_heads;
    if (heads < 1 || key_heads < 1 || heads % key_heads || tensor->shape[1] % rows_of)
      return status_fail(STATUS_BAD_INPUT,
                         "%s: tensor '%s' with %" PRId64 " rows does not fit key '%s.attention.head_count' %" PRId64
                         " with head_count_kv %" PRId64 "; " CONVERT_AGAIN,
                         gguf->path, tensor->name, tensor->shape[1], architecture, heads, key_heads);
  }
  return STATUS_OK;
}

static Status check_architecture(const Gguf *gguf) {
  GgufString text;
  const GgufValue *value = gguf_find(gguf, "general.architecture");
  if (!value) return STATUS_OK;  // who needs one says so
  if (!gguf_get_string(gguf, "general.architecture", &text) || text.length == 0 || text.length > 64 || memchr(text.data, 0, text.length) ||
      !utf8_is_valid(text.data, text.length, NULL))
    return status_fail(STATUS_BAD_INPUT, "%s: key 'general.architecture' is not a name of 1 to 64 bytes; " CONVERT_AGAIN, gguf->path);
  char architecture[65] = "";
  memcpy(architecture, text.data, text.length);
  int64_t blocks;
  TRY(check_block_count(gguf, architecture, &blocks));
  return check_heads(gguf, architecture);
}

static bool is_byte_token(GgufString token) {
  return token.length == 6 && memcmp(token.data, "<0x", 3) == 0 && token.data[5] == '>' && isxdigit((unsigned char)token.data[3]) &&
         isxdigit((unsigned char)token.data[4]);
}

// An array beside the tokens: absent, or of as many elements.
static Status check_length(const Gguf *gguf, const char *key, uint64_t tokens, const GgufValue **value) {
  *value = gguf_find(gguf, key);
  if (*value && ((*value)->type != GGUF_ARRAY || (*value)->count != tokens))
    return status_fail(STATUS_BAD_INPUT, "%s: key '%s' is no array of %" PRIu64 ", one for each token; " CONVERT_AGAIN, gguf->path, key,
                       tokens);
  return STATUS_OK;
}

static Status check_vocabulary(const Gguf *gguf) {
  const GgufValue *tokens = gguf_find(gguf, "tokenizer.ggml.tokens"), *types, *scores;
  if (!tokens) return STATUS_OK;
  if (tokens->type != GGUF_ARRAY || tokens->element != GGUF_STRING)
    return status_fail(STATUS_BAD_INPUT, "%s: key 'tokenizer.ggml.tokens' is no array of strings; " CONVERT_AGAIN, gguf->path);
  TRY(check_length(gguf, "tokenizer.ggml.scores", tokens->count, &scores));
  TRY(check_length(gguf, "tokenizer.ggml.token_type", tokens->count, &types));
  for (uint64_t i = 0; types && i < tokens->count; i++) {
    int64_t type;
    if (!gguf_array_integer(types, i, &type) || type < 0 || type > TOKEN_TYPE_BYTE)
      return status_fail(STATUS_BAD_INPUT,
                         "%s: key 'tokenizer.ggml.token_type': token %" PRIu64 " has no type from 0 to %d; " CONVERT_AGAIN, gguf->path, i,
                         TOKEN_TYPE_BYTE);
    if (type == TOKEN_TYPE_BYTE && !is_byte_token(tokens->strings[i]))
      return status_fail(STATUS_BAD_INPUT,
                         "%s: key 'tokenizer.ggml.tokens': token %" PRIu64
                         " is typed as a byte but is not <0x00> to <0xFF>; " CONVERT_AGAIN,
                         gguf->path, i);
  }
  for (int64_t i = 0; i < gguf->value_count; i++) {
    const char *key = gguf->values[i].key;
    int64_t id;
    if (!text_starts_with(key, "tokenizer.ggml.") || !text_ends_with(key, "_token_id")) continue;
    if (!gguf_get_integer(gguf, key, &id) || id < 0 || (uint64_t)id >= tokens->count)
      return status_fail(STATUS_BAD_INPUT, "%s: key '%s' is no token of the vocabulary of %" PRIu64 "; " CONVERT_AGAIN, gguf->path, key,
                         tokens->count);
  }
  return STATUS_OK;
}

Status gguf_check_contents(const Gguf *gguf) {
  TRY(check_architecture(gguf));
  return check_vocabulary(gguf);
}
