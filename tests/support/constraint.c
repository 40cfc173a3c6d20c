// Walks through masks, and a vocabulary for them.
#include "tests/support/constraint.h"

#include <jansson.h>

#include "runtime/constraint/expression.h"
#include "tests/support/test.h"

// The printable character that byte-level vocabularies write a byte as.
static void append_byte_character(Buffer *out, int byte) {
  int character = byte, others = 0;
  bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  for (int b = 0; b < byte; b++) others += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
  if (!is_printable) character = 256 + others;
  unsigned char utf8[4];
  buffer_append(out, utf8, (size_t)utf8_encode(utf8, (uint32_t)character));
}

Tokenizer *constraint_test_tokenizer(void) {
  static const char *const tokens[] = {"{\"",
                                       "\":",
                                       "\": ",
                                       "\":\"",
                                       "\",\"",
                                       "\", \"",
                                       "\"}",
                                       "\"},{\"",
                                       "\"]",
                                       "[[",
                                       "]]",
                                       "}}",
                                       "\n  ",
                                       "\n\n",
                                       "  ",
                                       "            ",
                                       "\\u",
                                       "\\ud83d",
                                       "\\ude00",
                                       "\\\"",
                                       "\\\\",
                                       "\xc3\xa9",
                                       "\xa9\"",
                                       "\xf0\x9f",
                                       "\xf0\x9f\x98\x80",
                                       "\x98\x80",
                                       "true",
                                       "false",
                                       "null",
                                       "tru",
                                       "12",
                                       "1.5",
                                       "-1",
                                       "0.",
                                       "e1",
                                       "00",
                                       "name",
                                       "na",
                                       "me\"",
                                       "\"a\"",
                                       "\"a\":",
                                       ",\"a\":",
                                       "aa",
                                       "ab",
                                       "abc",
                                       "a\":1,\"a",
                                       "a\":1,\"b\":2",
                                       "value",
                                       "2024-",
                                       "-01",
                                       ":00",
                                       "Z\"",
                                       ".com",
                                       "@",
                                       "://",
                                       " \"",
                                       " {",
                                       " [",
                                       ", ",
                                       ",\n"};
  json_t *vocabulary = json_object(), *root;
  int id = 0;
  for (int byte = 0; byte < 256; byte++) {
    Buffer text = {0};
    append_byte_character(&text, byte);
    json_object_set_new(vocabulary, text.data, json_integer(id++));
    buffer_release(&text);
  }
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
    Buffer text = {0};
    for (const char *p = tokens[i]; *p; p++) append_byte_character(&text, (unsigned char)*p);
    json_object_set_new(vocabulary, text.data, json_integer(id++));
    buffer_release(&text);
  }
  root = json_pack("{s:{s:s, s:o, s:[]}, s:{s:s}, s:{s:s}, s:[{s:i, s:s, s:b}]}", "model", "type", "BPE", "vocab", vocabulary, "merges",
                   "pre_tokenizer", "type", "ByteLevel", "decoder", "type", "ByteLevel", "added_tokens", "id", id, "content", "<end>",
                   "special", 1);
  char *text = json_dumps(root, 0);
  Tokenizer *tokenizer;
  assert_ok(tokenizer_from_json(&tokenizer, "own", text, strlen(text)));
  assert_ok(tokenizer_set_special(tokenizer, "eos", "<end>"));
  free(text);
  json_decref(root);
  return tokenizer;
}

static bool has_bit(const uint64_t *mask, int64_t id) { return mask[id / 64] >> (id % 64) & 1; }

static bool only_has(const Buffer *piece, const char *bytes) {
  for (size_t i = 0; i < piece->length; i++)
    if (!piece->data[i] || !strchr(bytes, piece->data[i])) return false;
  return piece->length > 0;
}

// One of the allowed tokens for which `bytes` is all they have; -1: there is none. NULL: any.
static int32_t draw_token(const uint64_t *mask, const Tokenizer *tokenizer, int64_t vocabulary, Rng *rng, const char *bytes) {
  int32_t drawn = -1;
  uint64_t seen = 0;
  Buffer piece = {0};
  for (int64_t word = 0; word < (vocabulary + 63) / 64; word++) {
    for (int64_t id = word * 64; mask[word] && id < word * 64 + 64 && id < vocabulary; id++) {
      if (!has_bit(mask, id) || tokenizer_is_end(tokenizer, (int32_t)id)) continue;
      piece.length = 0;
      if (bytes) tokenizer_decode_piece(&piece, tokenizer, (int32_t)id, false);
      if ((!bytes || only_has(&piece, bytes)) && rng_below(rng, ++seen) == 0) drawn = (int32_t)id;
    }
  }
  buffer_release(&piece);
  return drawn;
}

static int32_t choose_token(const uint64_t *mask, const Tokenizer *tokenizer, int64_t vocabulary, Rng *rng, const WalkOptions *options,
                            int64_t step) {
  int32_t drawn = -1;
  if (options->favoured && rng_below(rng, 4)) drawn = draw_token(mask, tokenizer, vocabulary, rng, options->favoured);
  if (drawn < 0 && rng_below(rng, 200) < 40 + (uint64_t)step) drawn = draw_token(mask, tokenizer, vocabulary, rng, "\"]},:");
  return drawn < 0 ? draw_token(mask, tokenizer, vocabulary, rng, NULL) : drawn;
}

static int32_t end_token(const uint64_t *mask, const Tokenizer *tokenizer, int64_t vocabulary) {
  for (int64_t id = 0; id < vocabulary; id++)
    if (has_bit(mask, id) && tokenizer_is_end(tokenizer, (int32_t)id)) return (int32_t)id;
  return -1;
}

bool constraint_walk(Buffer *out, TokenList *ids, Constraint *constraint, const Tokenizer *tokenizer, int64_t vocabulary, Rng *rng,
                     WalkOptions options) {
  buffer_append(out, "", 0);
  for (int64_t step = 0; step < options.steps; step++) {
    const uint64_t *mask = constraint_mask(constraint);
    int32_t end = end_token(mask, tokenizer, vocabulary);
    assert_int_equal(end >= 0, constraint_is_complete(constraint));
    int32_t id = end >= 0 && rng_below(rng, 4) == 0 ? -1 : choose_token(mask, tokenizer, vocabulary, rng, &options, step);
    if (id < 0) {
      assert_true(end >= 0);
      assert_ok(constraint_accept(constraint, end));
      return true;
    }
    assert_ok(constraint_accept(constraint, id));
    if (ids) token_list_push(ids, id);
    tokenizer_decode_piece(out, tokenizer, id, false);
  }
  return false;
}

static bool takes(bool *is_complete, const Grammar *grammar, const Tokenizer *tokenizer, const char *text) {
  ConstraintVocabulary *vocabulary;
  Constraint *constraint;
  bool goes_on = true;
  int32_t of_byte[256];
  Buffer piece = {0};
  for (int32_t id = 0; id < (int32_t)tokenizer_size(tokenizer); id++) {
    piece.length = 0;
    tokenizer_decode_piece(&piece, tokenizer, id, false);
    if (piece.length == 1) of_byte[(unsigned char)piece.data[0]] = id;
  }
  assert_ok(constraint_vocabulary_new(&vocabulary, tokenizer, tokenizer_size(tokenizer)));
  assert_ok(constraint_new(&constraint, grammar, vocabulary));
  for (const char *p = text; *p && goes_on; p++) {
    int32_t id = of_byte[(unsigned char)*p];
    bool is_allowed = has_bit(constraint_mask(constraint), id);
    goes_on = constraint_accept(constraint, id) == STATUS_OK;
    assert_int_equal(is_allowed, goes_on);
  }
  *is_complete = goes_on && constraint_is_complete(constraint);
  constraint_free(constraint);
  constraint_vocabulary_free(vocabulary);
  buffer_release(&piece);
  return goes_on;
}

bool constraint_takes(const Grammar *grammar, const Tokenizer *tokenizer, const char *text) {
  bool is_complete;
  takes(&is_complete, grammar, tokenizer, text);
  return is_complete;
}

bool constraint_takes_beginning(const Grammar *grammar, const Tokenizer *tokenizer, const char *text) {
  bool is_complete;
  return takes(&is_complete, grammar, tokenizer, text);
}
