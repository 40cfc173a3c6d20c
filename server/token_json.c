#include "server/token_json.h"

#include <math.h>

#include "core/text.h"

static Buffer token_bytes(const Tokenizer *tokenizer, int32_t id) {
  Buffer piece = {0};
  buffer_reserve(&piece, 1);
  tokenizer_decode_piece(&piece, tokenizer, id, true);
  return piece;
}

json_t *token_string(const Tokenizer *tokenizer, int32_t id) {
  Buffer piece = token_bytes(tokenizer, id), shown = {0};
  json_t *string = json_stringn(piece.data, piece.length);  // NULL for what is no UTF-8
  if (!string) {
    buffer_append_string(&shown, "bytes:");
    for (size_t i = 0; i < piece.length; i++) buffer_format(&shown, "\\x%02x", (unsigned char)piece.data[i]);
    string = json_string(shown.data);
  }
  buffer_release(&shown);
  buffer_release(&piece);
  return string;
}

json_t *chance_number(float log_probability) {
  if (isnan(log_probability)) return json_null();
  return json_real(fmax((double)log_probability, -9999));
}

// ---- Side by side

void chance_lists_new(ChanceLists *lists, const Tokenizer *tokenizer, int64_t characters) {
  *lists = (ChanceLists){.tokenizer = tokenizer, .characters = characters};
  lists->tokens = json_array();
  lists->numbers = json_array();
  lists->tops = json_array();
  lists->offsets = json_array();
}

// Two tokens may have one text: the likelier keeps the name, so that the largest number is the likeliest token's.
static void add_top(json_t *top, const Tokenizer *tokenizer, int32_t id, float log_probability) {
  json_t *name = token_string(tokenizer, id);
  if (!json_object_get(top, json_string_value(name))) json_object_set_new(top, json_string_value(name), chance_number(log_probability));
  json_decref(name);
}

void chance_lists_add(ChanceLists *lists, int32_t id, const AnswerToken *token, const Answer *answer) {
  json_array_append_new(lists->tokens, token_string(lists->tokenizer, id));
  json_array_append_new(lists->offsets, json_integer(lists->characters));
  Buffer piece = token_bytes(lists->tokenizer, id);
  lists->characters += utf8_count(piece.data, piece.length);
  buffer_release(&piece);
  if (!token) {
    json_array_append_new(lists->numbers, json_null());
    json_array_append_new(lists->tops, json_null());
    return;
  }
  json_t *top = json_object();
  for (int i = 0; i < token->top_count; i++) {
    const TokenChance *chance = &answer->chances[token->top_begin + i];
    add_top(top, lists->tokenizer, chance->id, chance->log_probability);
  }
  add_top(top, lists->tokenizer, id, token->log_probability);
  json_array_append_new(lists->numbers, chance_number(token->log_probability));
  json_array_append_new(lists->tops, top);
}

json_t *chance_lists_object(ChanceLists *lists) {
  return json_pack("{s:o, s:o, s:o, s:o}", "tokens", lists->tokens, "token_logprobs", lists->numbers, "top_logprobs", lists->tops,
                   "text_offset", lists->offsets);
}

// ---- One object a token

static json_t *chance_object(const Tokenizer *tokenizer, int32_t id, float log_probability) {
  Buffer piece = token_bytes(tokenizer, id);
  json_t *bytes = json_array();
  for (size_t i = 0; i < piece.length; i++) json_array_append_new(bytes, json_integer((unsigned char)piece.data[i]));
  buffer_release(&piece);
  return json_pack("{s:o, s:o, s:o}", "token", token_string(tokenizer, id), "logprob", chance_number(log_probability), "bytes", bytes);
}

json_t *chance_content(const Tokenizer *tokenizer, const Answer *answer, int64_t from, int64_t to) {
  json_t *content = json_array();
  for (int64_t t = from; t < to; t++) {
    const AnswerToken *token = &answer->tokens[t];
    json_t *one = chance_object(tokenizer, token->id, token->log_probability), *tops = json_array();
    for (int i = 0; i < token->top_count; i++) {
      const TokenChance *chance = &answer->chances[token->top_begin + i];
      json_array_append_new(tops, chance_object(tokenizer, chance->id, chance->log_probability));
    }
    json_object_set_new(one, "top_logprobs", tops);
    json_array_append_new(content, one);
  }
  return json_pack("{s:o, s:n}", "content", content, "refusal");
}
