// Vocabularies of SentencePiece's kind against the sentencepiece library and, as tokenizer.json, against tokenizers
// (tests/tools/make_sentencepiece_cases.py); where long texts are cut; and what a tokenizer.model is refused for.
#include <jansson.h>

#include "core/file.h"
#include "core/log.h"
#include "data/tokenizer/parts.h"
#include "data/tokenizer/sentencepiece.h"
#include "tests/support/test.h"

static Tokenizer *open_tiny(const char *name) {
  char *path = memory_format(TESTS_DIR "/data/%s", name);
  Tokenizer *tokenizer;
  assert_ok(tokenizer_open(&tokenizer, path));
  free(path);
  return tokenizer;
}

static json_t *load_cases(void) {
  json_error_t error;
  json_t *root = json_load_file(TESTS_DIR "/data/sentencepiece_cases.json", 0, &error);
  if (!root) fail_msg("sentencepiece_cases.json:%d: %s", error.line, error.text);
  return root;
}

static void compare_string(const Tokenizer *tokenizer, const char *kind, const char *text, const json_t *expected) {
  TokenList ids = {0};
  int flags = strcmp(kind, "json") == 0 ? TOKENIZE_PARSE_SPECIAL : 0;  // which tokenizers always does
  assert_ok(tokenizer_encode(&ids, tokenizer, text, strlen(text), flags));
  bool same = (size_t)ids.count == json_array_size(expected);
  for (int64_t i = 0; same && i < ids.count; i++) same = ids.ids[i] == json_integer_value(json_array_get(expected, (size_t)i));
  if (!same) {
    Buffer mine = {0};
    for (int64_t i = 0; i < ids.count; i++) buffer_format(&mine, " %d", ids.ids[i]);
    fail_msg("%s of `%s`:%s, expected %s", kind, text, mine.data, json_dumps(expected, 0));
  }
  token_list_release(&ids);
}

// `marks_too`: strings with the user-defined <sep>. In a GGUF file a text goes on behind it as at its beginning, with a space before.
static void compare_kind(const char *name, const char *kind, bool marks_too) {
  json_t *cases = load_cases();
  const json_t *strings = json_object_get(cases, "strings"), *ids = json_object_get(cases, kind);
  Tokenizer *tokenizer = open_tiny(name);
  assert_true(json_array_size(ids) >= 28);
  for (size_t i = 0; i < json_array_size(ids); i++) {
    const char *text = json_string_value(json_array_get(strings, i));
    if (!strstr(text, "<sep>") || marks_too) compare_string(tokenizer, kind, text, json_array_get(ids, i));
  }
  tokenizer_free(tokenizer);
  json_decref(cases);
}

static void tokenizer_model_gives_the_ids_of_sentencepiece(void **state) {
  (void)state;
  compare_kind("tiny-spm", "model", true);
}

static void a_model_without_bytes_gives_unknown_and_drops_spaces(void **state) {
  (void)state;
  compare_kind("tiny-spm-plain", "plain", true);
}

static void scores_in_gguf_give_the_ids_of_sentencepiece(void **state) {
  (void)state;
  compare_kind("tiny-spm.gguf", "model", false);
}

static void the_same_vocabulary_as_json_gives_the_ids_of_tokenizers(void **state) {
  (void)state;
  compare_kind("tiny-spm-json", "json", true);
}

static void special_tokens_and_bos_are_those_of_the_files(void **state) {
  (void)state;
  static const char *const names[] = {"tiny-spm", "tiny-spm.gguf", "tiny-spm-json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    Tokenizer *tokenizer = open_tiny(names[i]);
    TokenList ids = {0};
    assert_true(tokenizer_adds_bos(tokenizer));
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_true(tokenizer_is_end(tokenizer, 2));
    assert_ok(tokenizer_encode(&ids, tokenizer, "</s>", 4, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL));
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.ids[1], 2);
    token_list_release(&ids);
    tokenizer_free(tokenizer);
  }
}

static void tokens_added_to_a_model_have_the_ids_behind_it(void **state) {
  (void)state;
  Tokenizer *tokenizer = open_tiny("tiny-spm");
  assert_int_equal(tokenizer_size(tokenizer), 702);
  assert_int_equal(tokenizer_find(tokenizer, "<|im_end|>"), 700);
  assert_true(tokenizer_is_special(tokenizer, 700));
  assert_true(tokenizer_is_end(tokenizer, 700));
  assert_false(tokenizer_is_special(tokenizer, 701));
  TokenList ids = {0};
  assert_ok(tokenizer_encode(&ids, tokenizer, "<tool>", 6, 0));
  assert_int_equal(ids.count, 1);
  assert_int_equal(ids.ids[0], 701);
  token_list_release(&ids);
  tokenizer_free(tokenizer);
}

// ---- Long texts ----

static void a_text_is_decoded_as_it_was(void **state) {
  (void)state;
  static const char *const names[] = {"tiny-spm", "tiny-spm.gguf", "tiny-spm-json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    Tokenizer *tokenizer = open_tiny(names[i]);
    Rng rng = rng_new(4, RNG_STREAM_TEST);
    for (int round = 0; round < 1000; round++) {
      static const char *const parts[] = {" ", "the", "  ", "\n", "story", "é", "漢", "\xF0\x9F\xA6\x99", "a", "x", "0", "."};
      Buffer text = {0}, decoded = {0};
      TokenList ids = {0};
      for (uint64_t k = rng_below(&rng, 20) + 1; k > 0; k--) buffer_append_string(&text, parts[rng_below(&rng, 12)]);
      assert_ok(tokenizer_encode(&ids, tokenizer, text.data, text.length, 0));
      tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, true);
      assert_int_equal(decoded.length, text.length);
      assert_memory_equal(decoded.data, text.data, text.length);
      buffer_release(&text);
      buffer_release(&decoded);
      token_list_release(&ids);
    }
    tokenizer_free(tokenizer);
  }
}

static void cutting_before_spaces_changes_no_id(void **state) {
  (void)state;
  Tokenizer *tokenizer = open_tiny("tiny-spm.gguf");
  const char *space = tokenizer->model.space;
  assert_non_null(space);
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  for (int round = 0; round < 300; round++) {
    Buffer text = {0};
    TokenList cut = {0}, whole = {0};
    for (uint64_t k = rng_below(&rng, 200) + 1; k > 0; k--) buffer_append(&text, &"etaoin shr d.l\n  "[rng_below(&rng, 16)], 1);
    assert_ok(tokenizer_encode(&cut, tokenizer, text.data, text.length, 0));
    tokenizer->model.space = NULL;
    assert_ok(tokenizer_encode(&whole, tokenizer, text.data, text.length, 0));
    tokenizer->model.space = space;
    assert_int_equal(cut.count, whole.count);
    assert_memory_equal(cut.ids, whole.ids, (size_t)cut.count * sizeof *cut.ids);
    buffer_release(&text);
    token_list_release(&cut);
    token_list_release(&whole);
  }
  tokenizer_free(tokenizer);
}

static void a_megabyte_takes_no_quadratic_time(void **state) {
  (void)state;
  static const char *const repeated[] = {"a", " ", "\n", "the ", "\xF0\x9F\xA6\x99"};
  Tokenizer *tokenizer = open_tiny("tiny-spm.gguf");
  for (size_t k = 0; k < sizeof repeated / sizeof *repeated; k++) {
    Buffer text = {0};
    TokenList ids = {0};
    while (text.length < 1 << 20) buffer_append_string(&text, repeated[k]);
    double start = time_seconds();
    assert_ok(tokenizer_encode(&ids, tokenizer, text.data, text.length, 0));
    assert_true(time_seconds() - start < 10);  // quadratic would be hours; a sanitizer on a busy machine is not
    buffer_release(&text);
    token_list_release(&ids);
  }
  tokenizer_free(tokenizer);
}

// ---- Refusals ----

static void put_varint(Buffer *out, uint64_t value) {
  for (; value > 127; value >>= 7) buffer_append(out, &(char){(char)(value | 128)}, 1);
  buffer_append(out, &(char){(char)value}, 1);
}

static void put_bytes(Buffer *out, int number, const void *data, size_t length) {
  put_varint(out, (uint64_t)number << 3 | 2);
  put_varint(out, length);
  buffer_append(out, data, length);
}

static void put_number(Buffer *out, int number, uint64_t value) {
  put_varint(out, (uint64_t)number << 3);
  put_varint(out, value);
}

// A model of two pieces, the second of a type, with one setting of the trainer and one of the normaliser beside the kind.
static Status open_model(uint64_t kind, uint64_t type, int trainer_key, int normalizer_key, const char *charsmap, size_t cut) {
  Buffer file = {0}, piece = {0}, trainer = {0}, normalizer = {0};
  put_bytes(&piece, 1, "<unk>", 5);
  put_number(&piece, 3, TOKEN_UNKNOWN);
  put_bytes(&file, 1, piece.data, piece.length);
  piece.length = 0;
  put_bytes(&piece, 1, "ab", 2);
  put_number(&piece, 3, type);
  put_bytes(&file, 1, piece.data, piece.length);
  put_number(&trainer, 3, kind);
  if (trainer_key) put_number(&trainer, trainer_key, 1);
  put_bytes(&file, 2, trainer.data, trainer.length);
  put_bytes(&normalizer, 1, "nfkc_cf", 7);
  put_number(&normalizer, 5, normalizer_key != 5);
  put_bytes(&normalizer, 2, charsmap, strlen(charsmap));
  put_bytes(&file, 3, normalizer.data, normalizer.length);
  Tokenizer *tokenizer;
  Status status = tokenizer_from_sentencepiece(&tokenizer, "t.model", (const uint8_t *)file.data, file.length - cut);
  assert_true((status == STATUS_OK) == (tokenizer != NULL));
  tokenizer_free(tokenizer);
  Buffer *const all[] = {&file, &piece, &trainer, &normalizer};
  for (size_t i = 0; i < 4; i++) buffer_release(all[i]);
  return status;
}

static void models_that_would_give_other_ids_are_refused(void **state) {
  (void)state;
  assert_ok(open_model(2, TOKEN_NORMAL, 0, 0, "", 0));
  assert_fails(STATUS_BAD_INPUT, open_model(1, TOKEN_NORMAL, 0, 0, "", 0), "t.model", "Unigram");
  assert_fails(STATUS_BAD_INPUT, open_model(9, TOKEN_NORMAL, 0, 0, "", 0), "unknown kind");
  assert_fails(STATUS_BAD_INPUT, open_model(2, TOKEN_UNUSED, 0, 0, "", 0), "piece 1", "unused");
  assert_fails(STATUS_BAD_INPUT, open_model(2, 7, 0, 0, "", 0), "piece 1");
  assert_fails(STATUS_BAD_INPUT, open_model(2, TOKEN_BYTE, 0, 0, "", 0), "piece 1", "<0x00>");
  assert_fails(STATUS_BAD_INPUT, open_model(2, TOKEN_NORMAL, 24, 0, "", 0), "suffixes");
  assert_fails(STATUS_BAD_INPUT, open_model(2, TOKEN_NORMAL, 0, 5, "", 0), "U+2581");
  assert_fails(STATUS_BAD_INPUT, open_model(2, TOKEN_NORMAL, 0, 0, "x", 0), "nfkc_cf", "identity");
  for (size_t cut = 1; cut < 12; cut++) assert_fails(STATUS_BAD_INPUT, open_model(2, TOKEN_NORMAL, 0, 0, "", cut), "t.model", "byte");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokenizer_model_gives_the_ids_of_sentencepiece),
      cmocka_unit_test(a_model_without_bytes_gives_unknown_and_drops_spaces),
      cmocka_unit_test(scores_in_gguf_give_the_ids_of_sentencepiece),
      cmocka_unit_test(the_same_vocabulary_as_json_gives_the_ids_of_tokenizers),
      cmocka_unit_test(special_tokens_and_bos_are_those_of_the_files),
      cmocka_unit_test(tokens_added_to_a_model_have_the_ids_behind_it),
      cmocka_unit_test(a_text_is_decoded_as_it_was),
      cmocka_unit_test(cutting_before_spaces_changes_no_id),
      cmocka_unit_test(a_megabyte_takes_no_quadratic_time),
      cmocka_unit_test(models_that_would_give_other_ids_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
