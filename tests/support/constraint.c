// Walks through masks, and a vocabulary for them.
#include "tests/support/constraint.h"

#include <jansson.h>
#include <time.h>

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

static const char *const longer_tokens[] = {"{\"",
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

Tokenizer *constraint_test_tokenizer(void) {
  json_t *vocabulary = json_object(), *root;
  int id = 0;
  for (int byte = 0; byte < 256; byte++) {
    Buffer text = {0};
    append_byte_character(&text, byte);
    json_object_set_new(vocabulary, text.data, json_integer(id++));
    buffer_release(&text);
  }
  for (size_t i = 0; i < sizeof longer_tokens / sizeof *longer_tokens; i++) {
    Buffer text = {0};
    for (const char *p = longer_tokens[i]; *p; p++) append_byte_character(&text, (unsigned char)*p);
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

void words_new(Words *words, const Tokenizer *tokenizer) {
  *words = (Words){.tokenizer = tokenizer, .count = tokenizer_size(tokenizer)};
  words->begins = memory_new((size_t)words->count + 1, sizeof *words->begins);
  for (int64_t id = 0; id < words->count; id++) {
    words->begins[id] = (int64_t)words->bytes.length;
    tokenizer_decode_piece(&words->bytes, tokenizer, (int32_t)id, false);
  }
  words->begins[words->count] = (int64_t)words->bytes.length;
}

void words_release(Words *words) {
  buffer_release(&words->bytes);
  free(words->begins);
}

static bool only_has(const Words *words, int64_t id, const char *bytes) {
  for (int64_t i = words->begins[id]; i < words->begins[id + 1]; i++)
    if (!words->bytes.data[i] || !strchr(bytes, words->bytes.data[i])) return false;
  return words->begins[id + 1] > words->begins[id];
}

// One of the allowed tokens that consist of such bytes (NULL: of any); -1: there is none.
static int32_t draw_token(const uint64_t *mask, const Words *words, Rng *rng, const char *bytes) {
  int64_t first = (int64_t)rng_below(rng, (uint64_t)words->count);
  for (int64_t i = 0; i < words->count; i++) {
    int64_t id = (first + i) % words->count;
    if (has_bit(mask, id) && !tokenizer_is_end(words->tokenizer, (int32_t)id) && (!bytes || only_has(words, id, bytes))) return (int32_t)id;
  }
  return -1;
}

static int32_t choose_token(const uint64_t *mask, const Words *words, Rng *rng, const WalkOptions *options, int64_t step) {
  static const char *const preferred[] = {"\"]}\\", "\"]}\\", "\"]}", "\"", "0123456789", "@./:-x "};
  int32_t drawn = -1;
  uint64_t choice = rng_below(rng, step < 20 ? 24 : 8);
  if (options->favoured && rng_below(rng, 4)) drawn = draw_token(mask, words, rng, options->favoured);
  if (drawn < 0 && choice < sizeof preferred / sizeof *preferred) drawn = draw_token(mask, words, rng, preferred[choice]);
  return drawn < 0 ? draw_token(mask, words, rng, NULL) : drawn;
}

static int32_t end_token(const uint64_t *mask, const Words *words) {
  for (int64_t id = 0; id < words->count; id++)
    if (has_bit(mask, id) && tokenizer_is_end(words->tokenizer, (int32_t)id)) return (int32_t)id;
  return -1;
}

// Of this thread's processor, whatever else the machine does.
static double processor_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static const uint64_t *timed_mask(Constraint *constraint, MaskTimes *times) {
  double begin = processor_seconds();
  const uint64_t *mask = constraint_mask(constraint);
  double seconds = processor_seconds() - begin;
  if (!times) return mask;
  times->total += seconds;
  times->count++;
  if (seconds > times->longest) times->longest = seconds;
  return mask;
}

bool constraint_walk(Buffer *out, TokenList *ids, Constraint *constraint, const Words *words, Rng *rng, WalkOptions options) {
  buffer_append(out, "", 0);
  for (int64_t step = 0; step < options.steps; step++) {
    const uint64_t *mask = timed_mask(constraint, options.times);
    int32_t end = end_token(mask, words);
    assert_int_equal(end >= 0, constraint_is_complete(constraint));
    int32_t id = end >= 0 && rng_below(rng, 4) == 0 ? -1 : choose_token(mask, words, rng, &options, step);
    if (id < 0) {
      assert_true(end >= 0);
      assert_ok(constraint_accept(constraint, end));
      return true;
    }
    assert_ok(constraint_accept(constraint, id));
    if (ids) token_list_push(ids, id);
    buffer_append(out, words->bytes.data + words->begins[id], (size_t)(words->begins[id + 1] - words->begins[id]));
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
