// Tokens that are new to a vocabulary: their ids and matches, and the files that carry them.
#include "core/file.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/test.h"

static const char base[] = TESTS_DIR "/data/tiny-hf", text[] = "Once upon a time<|tool|>there was 3 <extra> cat.";
static const char *const added[] = {"<|tool|>", "<|im_start|>", "<extra>", "<|tool|>"};

static const TokenChanges changes = {.added = added, .added_count = 4};

// By transformers 5.24.0 from what tokenizer_copy_folder writes.
static const int32_t expected[] = {472, 679, 81, 80, 260, 518, 768, 86, 563, 321, 223, 21, 223, 769, 401, 16};

static void assert_ids(const Tokenizer *tokenizer) {
  TokenList ids = {0};
  assert_ok(tokenizer_encode(&ids, tokenizer, text, strlen(text), 0));
  assert_int_equal(ids.count, sizeof expected / sizeof *expected);
  assert_memory_equal(ids.ids, expected, sizeof expected);
  Buffer decoded = {0};
  tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, false);
  assert_string_equal(decoded.data, text);
  buffer_release(&decoded);
  token_list_release(&ids);
}

static void new_tokens_stand_behind_the_last_one_and_known_ones_stay(void **state) {
  (void)state;
  Tokenizer *tokenizer;
  assert_ok(tokenizer_open(&tokenizer, base));
  assert_int_equal(tokenizer_size(tokenizer), 768);
  int32_t known = tokenizer_find(tokenizer, "<|im_start|>");
  assert_ok(tokenizer_change(tokenizer, &changes));
  assert_int_equal(tokenizer_size(tokenizer), 770);
  assert_int_equal(tokenizer_find(tokenizer, "<|im_start|>"), known);
  assert_int_equal(tokenizer_find(tokenizer, "<extra>"), 769);
  assert_false(tokenizer_is_special(tokenizer, 768));
  assert_ids(tokenizer);
  assert_fails(STATUS_USAGE, tokenizer_change(tokenizer, &(TokenChanges){.added = (const char *const[]){""}, .added_count = 1}), "empty");
  tokenizer_free(tokenizer);
}

static void a_copied_folder_has_them(void **state) {
  (void)state;
  Tokenizer *tokenizer;
  assert_ok(tokenizer_copy_folder(test_folder, base, &changes));
  assert_ok(tokenizer_open(&tokenizer, test_folder));
  assert_int_equal(tokenizer_size(tokenizer), 770);
  assert_ids(tokenizer);
  tokenizer_free(tokenizer);
  // From there it goes on as it is.
  char *further = path_join(test_folder, "further");
  assert_ok(directory_create(further));
  assert_ok(tokenizer_copy_folder(further, test_folder, &(TokenChanges){0}));
  assert_ok(tokenizer_open(&tokenizer, further));
  assert_ids(tokenizer);
  tokenizer_free(tokenizer);
  free(further);
  assert_fails(STATUS_USAGE, tokenizer_copy_folder(test_folder, TESTS_DIR "/data/tiny-spm-plain", &changes), "tokenizer.json");
}

// A reserved token's new text takes the old one's place everywhere.
static void texts_of_added_tokens_are_replaced(void **state) {
  (void)state;
  static const int32_t ids[] = {1};
  static const char *const texts[] = {"<|call|>"};
  const TokenChanges renamed = {.ids = ids, .texts = texts, .override_count = 1, .added = added, .added_count = 1};
  Tokenizer *tokenizers[2];
  assert_ok(tokenizer_open(&tokenizers[0], base));
  assert_ok(tokenizer_change(tokenizers[0], &renamed));
  assert_ok(tokenizer_copy_folder(test_folder, base, &renamed));
  assert_ok(tokenizer_open(&tokenizers[1], test_folder));
  for (int i = 0; i < 2; i++) {
    TokenList ids_of_text = {0};
    assert_ok(tokenizer_encode(&ids_of_text, tokenizers[i], "<|call|><|tool|>", 16, TOKENIZE_PARSE_SPECIAL));
    assert_int_equal(ids_of_text.count, 2);
    assert_int_equal(ids_of_text.ids[0], 1);
    assert_int_equal(ids_of_text.ids[1], 768);
    ids_of_text.count = 0;
    assert_ok(tokenizer_encode(&ids_of_text, tokenizers[i], "<|im_start|>", 12, TOKENIZE_PARSE_SPECIAL));
    assert_true(ids_of_text.count > 1);  // an ordinary text now
    assert_int_equal(tokenizer_find(tokenizers[i], "<|im_start|>"), -1);
    assert_string_equal(tokenizer_text(tokenizers[i], 1), "<|call|>");
    assert_int_equal(tokenizer_bos(tokenizers[i]), 1);
    token_list_release(&ids_of_text);
  }
  const TokenChanges plain = {.ids = (const int32_t[]){300}, .texts = texts, .override_count = 1};
  assert_fails(STATUS_USAGE, tokenizer_change(tokenizers[0], &plain), "300", "no added token");
  const TokenChanges twice = {.ids = (const int32_t[]){2}, .texts = texts, .override_count = 1};
  assert_fails(STATUS_USAGE, tokenizer_change(tokenizers[0], &twice), "<|call|>", "already");
  for (int i = 0; i < 2; i++) tokenizer_free(tokenizers[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(new_tokens_stand_behind_the_last_one_and_known_ones_stay),
      unit_test_in_folder(a_copied_folder_has_them),
      unit_test_in_folder(texts_of_added_tokens_are_replaced),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
