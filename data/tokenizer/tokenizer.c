// The tokenizer as a whole: its table of tokens, encoding, decoding, and what a model's other parts ask of it.
#include "data/tokenizer/tokenizer.h"

#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "data/tokenizer/parts.h"

// ---- Bytes as text ----

// GPT-2's alphabet (openai/gpt-2, encoder.py, bytes_to_unicode): printable Latin-1 stands for itself, the other 68 bytes, in
// order, for U+0100 and on.
static bool is_printable(int byte) { return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174; }

static int alphabet_point(int byte) {
  if (is_printable(byte)) return byte;
  return 256 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

int byte_to_alphabet(char out[4], uint8_t byte) {
  int point = alphabet_point(byte);
  if (point < 0x80) {
    out[0] = (char)point;
    return 1;
  }
  out[0] = (char)(0xC0 | point >> 6);
  out[1] = (char)(0x80 | (point & 63));
  return 2;
}

static int alphabet_byte(int point) {
  if (point < 256) return is_printable(point) ? point : -1;
  int index = point - 256;
  return index <= 32 ? index : index <= 66 ? index - 33 + 127 : index == 67 ? 173 : -1;
}

bool alphabet_to_bytes(Buffer *out, const char *text, size_t length) {
  size_t before = out->length;
  for (size_t i = 0; i < length;) {
    uint8_t lead = (uint8_t)text[i];
    bool two = lead >= 0xC2 && lead < 0xE0 && i + 1 < length;
    int point = lead < 0x80 ? lead : two ? (lead & 31) << 6 | ((uint8_t)text[i + 1] & 63) : 1 << 16;
    int byte = alphabet_byte(point);
    if (byte < 0) {
      out->length = before;
      return false;
    }
    buffer_append(out, &(char){(char)byte}, 1);
    i += lead < 0x80 ? 1 : 2;
  }
  return true;
}

static int hexadecimal_digit(char c) {
  static const char digits[] = "0123456789ABCDEF";
  const char *found = c ? strchr(digits, c) : NULL;
  return found ? (int)(found - digits) : -1;
}

int32_t byte_token_value(const Token *token) {
  if (token->length != 6 || memcmp(token->text, "<0x", 3) != 0 || token->text[5] != '>') return -1;
  int high = hexadecimal_digit(token->text[3]), low = hexadecimal_digit(token->text[4]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

// ---- Construction ----

Tokenizer *tokenizer_new(const char *source) {
  Tokenizer *tokenizer = memory_new(1, sizeof *tokenizer);
  tokenizer->source = arena_copy_string(&tokenizer->arena, source);
  tokenizer->bos = tokenizer->eos = tokenizer->pad = tokenizer->eot = tokenizer->unknown = -1;
  tokenizer->model.unknown = -1;
  pthread_mutex_init(&tokenizer->pool_lock, NULL);
  return tokenizer;
}

void tokenizer_free(Tokenizer *tokenizer) {
  if (!tokenizer) return;
  while (tokenizer->pool) {
    Workspace *next = tokenizer->pool->next;
    workspace_free(tokenizer->pool);
    tokenizer->pool = next;
  }
  pthread_mutex_destroy(&tokenizer->pool_lock);
  for (int i = 0; i < tokenizer->stage_count; i++) pcre2_code_free(tokenizer->stages[i].code);
  model_release(&tokenizer->model);
  matcher_release(&tokenizer->raw_matcher);
  matcher_release(&tokenizer->normal_matcher);
  map_release(&tokenizer->ids);
  token_list_release(&tokenizer->prefix);
  token_list_release(&tokenizer->suffix);
  token_list_release(&tokenizer->ends);
  for (int i = 0; i < tokenizer->step_count; i++) pcre2_code_free(tokenizer->steps[i].code);
  free(tokenizer->tokens);
  free(tokenizer->steps);
  arena_release(&tokenizer->arena);
  free(tokenizer);
}

// Texts lie side by side in chunks of the arena, which would align each one.
static const char *keep_text(Tokenizer *tokenizer, const char *text, size_t length) {
  enum { CHUNK = 1 << 16 };
  if (length >= CHUNK / 4) return arena_copy_bytes(&tokenizer->arena, text, length);
  if (tokenizer->text_room < length + 1) {
    tokenizer->text_next = arena_new(&tokenizer->arena, CHUNK, 1);
    tokenizer->text_room = CHUNK;
  }
  char *copy = tokenizer->text_next;
  if (length) memcpy(copy, text, length);
  tokenizer->text_next += length + 1;
  tokenizer->text_room -= length + 1;
  return copy;
}

Status tokenizer_set_token(Tokenizer *tokenizer, int32_t id, const char *text, size_t length, TokenType type) {
  int64_t other;
  if (map_get(&tokenizer->ids, text, length, &other) && other != id) {
    return status_fail(STATUS_BAD_INPUT, "%s: the tokens %lld and %d have the same text `%.*s`", tokenizer->source, (long long)other, id,
                       (int)(length < 64 ? length : 64), text);
  }
  if (length > UINT32_MAX) return status_fail(STATUS_BAD_INPUT, "%s: the token %d is %zu bytes long", tokenizer->source, id, length);
  map_set(&tokenizer->ids, text, length, id);
  Token *token = &tokenizer->tokens[id];
  if (!token->text || token->length != length) token->text = keep_text(tokenizer, text, length);
  token->length = (uint32_t)length;
  token->type = (uint8_t)type;
  if (length > tokenizer->model.longest) tokenizer->model.longest = (uint32_t)length;
  return STATUS_OK;
}

Status tokenizer_add_merge(Tokenizer *tokenizer, const char *left, size_t left_length, const char *right, size_t right_length,
                           int64_t number) {
  Model *model = &tokenizer->model;
  int64_t first, second, whole;
  Buffer text = {0};
  size_t prefix = model->prefix ? strlen(model->prefix) : 0;  // of a symbol that continues a word, which the whole has in front alone
  if (right_length < prefix || (prefix && memcmp(right, model->prefix, prefix) != 0)) prefix = 0;
  buffer_append(&text, left, left_length);
  buffer_append(&text, right + prefix, right_length - prefix);
  bool known = map_get(&tokenizer->ids, left, left_length, &first) && map_get(&tokenizer->ids, right, right_length, &second) &&
               map_get(&tokenizer->ids, text.data, text.length, &whole);
  buffer_release(&text);
  if (!known) {
    return status_fail(STATUS_BAD_INPUT, "%s: merge %lld, `%.*s` with `%.*s`, is of tokens outside the vocabulary", tokenizer->source,
                       (long long)number, (int)(left_length < 64 ? left_length : 64), left, (int)(right_length < 64 ? right_length : 64),
                       right);
  }
  pair_table_set(&model->merges, (uint64_t)first << 32 | (uint64_t)second, (int32_t)number);
  model->merged[number] = (int32_t)whole;
  model->pairs[number] = (MergePair){(int32_t)first, (int32_t)second};
  const int64_t parts[] = {first, second};
  for (int i = 0; i < 2; i++) {
    if (tokenizer->tokens[parts[i]].type == TOKEN_BYTE || parts[i] == model->unknown) model->merges_stand_ins = true;
  }
  return STATUS_OK;
}

void tokenizer_add_step(Tokenizer *tokenizer, NormalizeStep step) {
  tokenizer->steps = memory_grow(tokenizer->steps, (size_t)tokenizer->step_count + 1, sizeof *tokenizer->steps);
  tokenizer->steps[tokenizer->step_count++] = step;
}

void tokenizer_add_end(Tokenizer *tokenizer, int32_t id) {
  if (id >= 0 && !tokenizer_is_end(tokenizer, id)) token_list_push(&tokenizer->ends, id);
}

void tokenizer_fill_tables(Tokenizer *tokenizer) {
  Model *model = &tokenizer->model;
  for (int byte = 0; byte < 256; byte++) {
    char text[8] = "";
    int64_t id = -1;
    int length = model->kind == MODEL_BPE_BYTES ? byte_to_alphabet(text, (uint8_t)byte) : snprintf(text, sizeof text, "<0x%02X>", byte);
    if (model->kind == MODEL_BPE_BYTES || model->byte_fallback) map_get(&tokenizer->ids, text, (size_t)length, &id);
    model->byte_ids[byte] = (int32_t)id;
  }
  for (int character = 0; character < 128; character++) {
    int64_t id = -1;
    map_get(&tokenizer->ids, &(char){(char)character}, 1, &id);
    model->ascii_ids[character] = (int32_t)id;
  }
}

static Status add_to_matcher(Tokenizer *tokenizer, int32_t id) {
  Token *token = &tokenizer->tokens[id];
  if (!token->normalized) {
    matcher_add(&tokenizer->raw_matcher, token->text, token->length, id);
    return STATUS_OK;
  }
  if (tokenizer->texts_are_normal) {
    matcher_add(&tokenizer->normal_matcher, token->text, token->length, id);
    return STATUS_OK;
  }
  Workspace *workspace = workspace_take(tokenizer);
  Status status = tokenizer_normalize(workspace, tokenizer->steps, tokenizer->step_count, token->text, token->length, true);
  if (status == STATUS_OK) matcher_add(&tokenizer->normal_matcher, workspace->normal.data, workspace->normal.length, id);
  workspace_put(tokenizer, workspace);
  return status;
}

static Status fill_matchers(Tokenizer *tokenizer) {
  for (int64_t id = 0; id < tokenizer->size; id++) {
    const Token *token = &tokenizer->tokens[id];
    if (token->text && token->added) TRY(add_to_matcher(tokenizer, (int32_t)id));
  }
  return STATUS_OK;
}

Status tokenizer_index(Tokenizer *tokenizer) {
  map_release(&tokenizer->ids);
  matcher_release(&tokenizer->raw_matcher);
  matcher_release(&tokenizer->normal_matcher);
  for (int64_t id = 0; id < tokenizer->size; id++) {
    const Token *token = &tokenizer->tokens[id];
    if (token->text) map_set(&tokenizer->ids, token->text, token->length, id);
  }
  return fill_matchers(tokenizer);
}

Status tokenizer_finish(Tokenizer *tokenizer) {
  tokenizer_fill_tables(tokenizer);
  words_find_cuts(tokenizer);
  TRY(fill_matchers(tokenizer));
  tokenizer_fill_ends(tokenizer);
  return STATUS_OK;
}

// ---- Opening ----

Status tokenizer_open(Tokenizer **out, const char *model) {
  *out = NULL;
  if (directory_exists(model)) return tokenizer_from_folder(out, model);
  if (!file_exists(model)) {
    return status_fail(STATUS_BAD_INPUT, "%s: no such file or folder: a model is a GGUF file or a Hugging Face folder", model);
  }
  Gguf gguf;
  TRY(gguf_open(&gguf, model));
  Status status = tokenizer_from_gguf(out, &gguf);
  gguf_close(&gguf);
  return status;
}

// ---- Encoding ----

typedef struct Encoding {
  TokenList *out;
  const Tokenizer *tokenizer;
  Workspace *workspace;
  int flags;
} Encoding;

static Status encode_word(void *argument, const char *word, size_t length) {
  Encoding *encoding = argument;
  return words_encode(encoding->out, encoding->tokenizer, encoding->workspace, word, length);
}

static Status encode_normal(Encoding *encoding, const char *text, size_t length, bool first) {
  const Tokenizer *tokenizer = encoding->tokenizer;
  size_t done = 0;
  Match match;
  while (matcher_find(&match, &tokenizer->normal_matcher, tokenizer, text, length, done, encoding->flags)) {
    TRY(tokenizer_split(tokenizer, encoding->workspace, text + done, match.begin - done, first && done == 0, encode_word, encoding));
    token_list_push(encoding->out, match.id);
    done = match.end;
  }
  return tokenizer_split(tokenizer, encoding->workspace, text + done, length - done, first && done == 0, encode_word, encoding);
}

// What lies between two added tokens: runs of valid UTF-8, and bytes that are not.
static Status encode_gap(Encoding *encoding, const char *text, size_t length, bool first) {
  const Tokenizer *tokenizer = encoding->tokenizer;
  for (size_t i = 0; i < length;) {
    size_t run = length - i;
    utf8_is_valid(text + i, length - i, &run);
    if (run == 0) {
      model_encode_byte(encoding->out, tokenizer, (uint8_t)text[i++]);
      continue;
    }
    if (tokenizer->step_count == 0) {
      TRY(encode_normal(encoding, text + i, run, first && i == 0));
    } else {
      TRY(tokenizer_normalize(encoding->workspace, tokenizer->steps, tokenizer->step_count, text + i, run, i == 0));
      TRY(encode_normal(encoding, encoding->workspace->normal.data, encoding->workspace->normal.length, first && i == 0));
    }
    i += run;
  }
  return STATUS_OK;
}

static Status encode_text(Encoding *encoding, const char *text, size_t length) {
  const Tokenizer *tokenizer = encoding->tokenizer;
  size_t done = 0;
  Match match;
  while (matcher_find(&match, &tokenizer->raw_matcher, tokenizer, text, length, done, encoding->flags)) {
    TRY(encode_gap(encoding, text + done, match.begin - done, done == 0));
    token_list_push(encoding->out, match.id);
    done = match.end;
  }
  return encode_gap(encoding, text + done, length - done, done == 0);
}

Status tokenizer_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length, int flags) {
  int64_t before = out->count;
  if (flags & TOKENIZE_ADD_SPECIAL) {
    for (int64_t i = 0; i < tokenizer->prefix.count; i++) token_list_push(out, tokenizer->prefix.ids[i]);
  }
  Encoding encoding = {.out = out, .tokenizer = tokenizer, .workspace = workspace_take(tokenizer), .flags = flags};
  Status status = encode_text(&encoding, text, length);
  workspace_put(tokenizer, encoding.workspace);
  if (status != STATUS_OK) {
    out->count = before;
    return status;
  }
  if (flags & TOKENIZE_ADD_SPECIAL) {
    for (int64_t i = 0; i < tokenizer->suffix.count; i++) token_list_push(out, tokenizer->suffix.ids[i]);
  }
  return STATUS_OK;
}

void token_list_push(TokenList *list, int32_t id) { ARRAY_PUSH(list->ids, list->count, list->capacity) = id; }

void token_list_release(TokenList *list) {
  free(list->ids);
  *list = (TokenList){0};
}

// ---- Questions ----

int64_t tokenizer_size(const Tokenizer *tokenizer) { return tokenizer->size; }

int32_t tokenizer_find(const Tokenizer *tokenizer, const char *token) {
  int64_t id;
  return map_get_string(&tokenizer->ids, token, &id) ? (int32_t)id : -1;
}

const char *tokenizer_text(const Tokenizer *tokenizer, int32_t id) {
  return id >= 0 && id < tokenizer->size ? tokenizer->tokens[id].text : NULL;
}

bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id) {
  if (!tokenizer_text(tokenizer, id)) return false;
  uint8_t type = tokenizer->tokens[id].type;
  return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
}

int32_t tokenizer_bos(const Tokenizer *tokenizer) { return tokenizer->bos; }
int32_t tokenizer_eos(const Tokenizer *tokenizer) { return tokenizer->eos; }
int32_t tokenizer_pad(const Tokenizer *tokenizer) { return tokenizer->pad; }
int32_t tokenizer_unknown(const Tokenizer *tokenizer) { return tokenizer->unknown; }
int32_t tokenizer_eot(const Tokenizer *tokenizer) { return tokenizer->eot; }

bool tokenizer_is_end(const Tokenizer *tokenizer, int32_t id) {
  for (int64_t i = 0; i < tokenizer->ends.count; i++) {
    if (tokenizer->ends.ids[i] == id) return true;
  }
  return false;
}

bool tokenizer_adds_bos(const Tokenizer *tokenizer) {
  return tokenizer->bos >= 0 && tokenizer->prefix.count > 0 && tokenizer->prefix.ids[0] == tokenizer->bos;
}

const char *tokenizer_chat_template(const Tokenizer *tokenizer) { return tokenizer->chat_template; }

void tokenizer_set_chat_template(Tokenizer *tokenizer, const char *source) {
  tokenizer->chat_template = arena_copy_string(&tokenizer->arena, source);
}

static void replace_id(TokenList *list, int32_t old, int32_t id) {
  for (int64_t i = 0; i < list->count; i++) {
    if (list->ids[i] == old) list->ids[i] = id;
  }
}

Status tokenizer_set_special(Tokenizer *tokenizer, const char *role, const char *text) {
  static const char *const roles[] = {"bos", "eos", "pad", "unk", "stop"};
  int32_t *const places[] = {&tokenizer->bos, &tokenizer->eos, &tokenizer->pad, &tokenizer->unknown, NULL};
  size_t count = sizeof roles / sizeof *roles, which = 0;
  size_t length = text_ends_with(role, "_token") ? strlen(role) - strlen("_token") : strlen(role);
  while (which < count && (strlen(roles[which]) != length || strncmp(roles[which], role, length) != 0)) which++;
  if (which == count) {
    return status_fail(STATUS_USAGE, "there is no special token `%s`: bos_token, eos_token, pad_token, unk_token or stop", role);
  }
  int32_t id = tokenizer_find(tokenizer, text);
  if (id < 0) {
    return status_fail(STATUS_USAGE, "%s: `%s` is not in the vocabulary of %s, and tokens cannot be added to it: name one that it has",
                       role, text, tokenizer->source);
  }
  Token *token = &tokenizer->tokens[id];
  if (token->type != TOKEN_UNKNOWN) token->type = TOKEN_CONTROL;
  if (!token->added) {
    token->added = true;
    TRY(add_to_matcher(tokenizer, id));
  }
  int32_t *place = places[which];
  int32_t old = place ? *place : -1;
  if (place) *place = id;
  if (place == &tokenizer->bos && old >= 0) replace_id(&tokenizer->prefix, old, id);
  if (place == &tokenizer->eos && old >= 0) replace_id(&tokenizer->suffix, old, id);
  if (!place || place == &tokenizer->eos) tokenizer_add_end(tokenizer, id);
  return STATUS_OK;
}
