// The tokenizer against Hugging Face's library on hard strings (tests/tools/make_tokenizer_cases.py), and its own promises: round trips,
// time, threads.
#include <jansson.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "core/thread.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/test.h"

static json_t *load_json(const char *name) {
  char *path = memory_format(TESTS_DIR "/data/%s", name);
  json_error_t error;
  json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
  if (!root) fail_msg("%s:%d: %s", path, error.line, error.text);
  free(path);
  return root;
}

// The tiny tokenizer.json with the keys of a case's patch; its model's keys one by one.
static json_t *apply_patch(const json_t *base, const json_t *cases, const json_t *patch) {
  json_t *root = json_deep_copy(base);
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)patch, key, value) {
    if (strcmp(key, "model") != 0) {
      json_object_set(root, key, value);
      continue;
    }
    const char *same = json_string_value(json_object_get(value, "same_as"));
    for (size_t i = 0; same && i < json_array_size(cases); i++) {
      const json_t *other = json_array_get(cases, i);
      if (strcmp(json_string_value(json_object_get(other, "name")), same) != 0) continue;
      json_object_update(json_object_get(root, "model"), json_object_get(json_object_get(other, "patch"), "model"));
    }
    json_object_update(json_object_get(root, "model"), value);
  }
  return root;
}

static void compare_ids(const char *name, size_t string, const TokenList *ids, const json_t *expected) {
  bool same = (size_t)ids->count == json_array_size(expected);
  for (int64_t i = 0; same && i < ids->count; i++) same = ids->ids[i] == json_integer_value(json_array_get(expected, (size_t)i));
  if (same) return;
  Buffer message = {0};
  for (int64_t i = 0; i < ids->count; i++) buffer_format(&message, " %d", ids->ids[i]);
  char *wanted = json_dumps(expected, 0);
  fail_msg("case %s, string %zu:%s, expected %s", name, string, message.data, wanted);
}

static void compare_case(const Tokenizer *tokenizer, const json_t *strings, const json_t *entry) {
  const char *name = json_string_value(json_object_get(entry, "name"));
  for (size_t i = 0; i < json_array_size(strings); i++) {
    const json_t *string = json_array_get(strings, i);
    const char *text = json_string_value(string);
    size_t length = json_string_length(string);
    TokenList ids = {0};
    assert_ok(tokenizer_encode(&ids, tokenizer, text, length, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL));
    compare_ids(name, i, &ids, json_array_get(json_object_get(entry, "ids"), i));
    ids.count = 0;
    assert_ok(tokenizer_encode(&ids, tokenizer, text, length, TOKENIZE_PARSE_SPECIAL));
    const json_t *expected = json_array_get(json_object_get(entry, "texts"), i);
    Buffer decoded = {0};
    tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, true);
    const char *wanted = json_string_value(expected);
    bool same = !wanted || (decoded.length == json_string_length(expected) && memcmp(decoded.data, wanted, decoded.length) == 0);
    if (!same) { fail_msg("case %s, string %zu decodes to `%s`, expected `%s`", name, i, decoded.data, wanted); }
    buffer_release(&decoded);
    token_list_release(&ids);
  }
}

static Tokenizer *open_patched(const json_t *base, const json_t *cases, const json_t *entry) {
  json_t *root = apply_patch(base, cases, json_object_get(entry, "patch"));
  char *text = json_dumps(root, 0);
  Tokenizer *tokenizer;
  assert_ok(tokenizer_from_json(&tokenizer, json_string_value(json_object_get(entry, "name")), text, strlen(text)));
  free(text);
  json_decref(root);
  return tokenizer;
}

static void tokenizer_json_gives_the_ids_of_hugging_face(void **state) {
  (void)state;
  json_t *base = load_json("tiny-hf/tokenizer.json"), *file = load_json("tokenizer_cases.json");
  const json_t *cases = json_object_get(file, "cases");
  assert_true(json_array_size(cases) >= 45);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *entry = json_array_get(cases, i);
    Tokenizer *tokenizer = open_patched(base, cases, entry);
    compare_case(tokenizer, json_object_get(file, "strings"), entry);
    tokenizer_free(tokenizer);
  }
  json_decref(base);
  json_decref(file);
}

static Tokenizer *open_tiny(const char *name) {
  char *path = memory_format(TESTS_DIR "/data/%s", name);
  Tokenizer *tokenizer;
  assert_ok(tokenizer_open(&tokenizer, path));
  free(path);
  return tokenizer;
}

static void gguf_gives_the_ids_of_hugging_face(void **state) {
  (void)state;
  json_t *file = load_json("tokenizer_cases.json");
  const json_t *entry = json_array_get(json_object_get(file, "cases"), 0);  // without a patch: the vocabulary of tiny.gguf too
  assert_string_equal(json_string_value(json_object_get(entry, "name")), "smollm");
  Tokenizer *tokenizer = open_tiny("tiny.gguf");
  compare_case(tokenizer, json_object_get(file, "strings"), entry);
  tokenizer_free(tokenizer);
  json_decref(file);
}

static void folder_and_gguf_name_the_same_special_tokens(void **state) {
  (void)state;
  Tokenizer *both[] = {open_tiny("tiny.gguf"), open_tiny("tiny-hf")};
  for (int i = 0; i < 2; i++) {
    const Tokenizer *t = both[i];
    assert_int_equal(tokenizer_size(t), 768);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_pad(t), 2);
    assert_int_equal(tokenizer_eot(t), 2);
    assert_false(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_end(t, 2));
    assert_true(tokenizer_is_end(t, 0));  // <|endoftext|>
    assert_false(tokenizer_is_end(t, 1));
    assert_true(tokenizer_is_special(t, 1));
    assert_false(tokenizer_is_special(t, 3));
    assert_false(tokenizer_is_special(t, 768));
    assert_int_equal(tokenizer_find(t, "<|im_end|>"), 2);
    assert_int_equal(tokenizer_find(t, "no such token"), -1);
    assert_null(tokenizer_text(t, -1));
    assert_null(tokenizer_text(t, 768));
    assert_non_null(strstr(tokenizer_chat_template(t), "<|im_start|>"));
  }
  tokenizer_free(both[0]);
  tokenizer_free(both[1]);
}

static void control_tokens_match_only_when_asked(void **state) {
  (void)state;
  static const char text[] = "<|im_start|>hi<|im_end|>";
  Tokenizer *tokenizer = open_tiny("tiny.gguf");
  TokenList parsed = {0}, plain = {0};
  Buffer decoded = {0};
  assert_ok(tokenizer_encode(&parsed, tokenizer, text, strlen(text), TOKENIZE_PARSE_SPECIAL));
  assert_ok(tokenizer_encode(&plain, tokenizer, text, strlen(text), 0));
  assert_int_equal(parsed.ids[0], 1);
  assert_int_equal(parsed.ids[parsed.count - 1], 2);
  for (int64_t i = 0; i < plain.count; i++) assert_false(tokenizer_is_special(tokenizer, plain.ids[i]));
  tokenizer_decode(&decoded, tokenizer, parsed.ids, parsed.count, false);
  assert_string_equal(decoded.data, "hi");
  decoded.length = 0;
  tokenizer_decode(&decoded, tokenizer, plain.ids, plain.count, false);
  assert_string_equal(decoded.data, text);
  buffer_release(&decoded);
  token_list_release(&parsed);
  token_list_release(&plain);
  tokenizer_free(tokenizer);
}

static void any_bytes_survive_encoding_and_decoding(void **state) {
  (void)state;
  Tokenizer *tokenizer = open_tiny("tiny-hf");
  Rng rng = rng_new(1, RNG_STREAM_TEST);
  for (int round = 0; round < 2000; round++) {
    char text[64];
    size_t length = rng_below(&rng, sizeof text);
    // Half of the rounds: all bytes alike; the others: mostly what text has, with broken sequences between.
    for (size_t i = 0; i < length; i++)
      text[i] = (char)(round & 1 ? rng_below(&rng, 256) : (uint64_t)(" \nae'1\xC3\xA9\xE2\x82\xAC\xF0\x9F")[rng_below(&rng, 13)]);
    TokenList ids = {0};
    Buffer decoded = {0};
    assert_ok(tokenizer_encode(&ids, tokenizer, text, length, TOKENIZE_PARSE_SPECIAL));
    tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, true);
    assert_int_equal(decoded.length, length);
    assert_memory_equal(decoded.data, text, length);
    buffer_release(&decoded);
    token_list_release(&ids);
  }
  tokenizer_free(tokenizer);
}

// A plain loop over the whole word: the definition of byte-pair encoding.
static void merge_plainly(TokenList *ids, const json_t *merges, const Tokenizer *tokenizer) {
  for (size_t rank = 0; rank < json_array_size(merges);) {
    const json_t *merge = json_array_get(merges, rank);
    int64_t found = -1;
    char *whole = NULL;
    for (int64_t i = 0; i + 1 < ids->count && found < 0; i++) {
      bool left = strcmp(tokenizer_text(tokenizer, ids->ids[i]), json_string_value(json_array_get(merge, 0))) == 0;
      if (left && strcmp(tokenizer_text(tokenizer, ids->ids[i + 1]), json_string_value(json_array_get(merge, 1))) == 0) found = i;
    }
    if (found < 0) {
      rank++;
      continue;
    }
    whole = memory_format("%s%s", json_string_value(json_array_get(merge, 0)), json_string_value(json_array_get(merge, 1)));
    ids->ids[found] = tokenizer_find(tokenizer, whole);
    memmove(ids->ids + found + 1, ids->ids + found + 2, (size_t)(ids->count - found - 2) * sizeof *ids->ids);
    ids->count--;
    free(whole);
    rank = 0;
  }
}

static void short_and_long_words_follow_the_definition(void **state) {
  (void)state;
  json_t *base = load_json("tiny-hf/tokenizer.json");
  const json_t *merges = json_object_get(json_object_get(base, "model"), "merges");
  Tokenizer *tokenizer = open_tiny("tiny-hf");
  Rng rng = rng_new(2, RNG_STREAM_TEST);
  for (size_t length = 1; length < 80; length++) {
    char word[80];
    TokenList ids = {0}, expected = {0};
    for (size_t i = 0; i < length; i++) {
      word[i] = "etaoinshrdlu"[rng_below(&rng, 12)];
      token_list_push(&expected, tokenizer_find(tokenizer, (char[]){word[i], 0}));
    }
    assert_ok(tokenizer_encode(&ids, tokenizer, word, length, 0));
    merge_plainly(&expected, merges, tokenizer);
    assert_int_equal(ids.count, expected.count);
    assert_memory_equal(ids.ids, expected.ids, (size_t)ids.count * sizeof *ids.ids);
    token_list_release(&ids);
    token_list_release(&expected);
  }
  tokenizer_free(tokenizer);
  json_decref(base);
}

static void a_megabyte_of_one_letter_takes_no_quadratic_time(void **state) {
  (void)state;
  static const char *const repeated[] = {"a", " ", "\n", "<", "e\xCC\x81", "\xF0\x9F\xA6\x99", "\xFF", "1"};
  Tokenizer *tokenizer = open_tiny("tiny-hf");
  for (size_t k = 0; k < sizeof repeated / sizeof *repeated; k++) {
    Buffer text = {0}, decoded = {0};
    while (text.length < 1 << 20) buffer_append_string(&text, repeated[k]);
    TokenList ids = {0};
    double start = time_seconds();
    assert_ok(tokenizer_encode(&ids, tokenizer, text.data, text.length, TOKENIZE_PARSE_SPECIAL));
    assert_true(time_seconds() - start < 10);  // quadratic would be hours; a sanitizer on a busy machine is not
    tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, true);
    assert_int_equal(decoded.length, text.length);
    assert_memory_equal(decoded.data, text.data, text.length);
    buffer_release(&text);
    buffer_release(&decoded);
    token_list_release(&ids);
  }
  tokenizer_free(tokenizer);
}

typedef struct Parallel {
  const Tokenizer *tokenizer;
  const json_t *strings, *ids;
  int wrong[64];
} Parallel;

static void encode_all(void *argument, int64_t task, int thread) {
  Parallel *parallel = argument;
  (void)thread;
  for (size_t i = 0; i < json_array_size(parallel->strings); i++) {
    const json_t *string = json_array_get(parallel->strings, i), *expected = json_array_get(parallel->ids, i);
    TokenList ids = {0};
    Status status =
        tokenizer_encode(&ids, parallel->tokenizer, json_string_value(string), json_string_length(string), TOKENIZE_PARSE_SPECIAL);
    bool same = status == STATUS_OK && (size_t)ids.count == json_array_size(expected);
    for (int64_t k = 0; same && k < ids.count; k++) same = ids.ids[k] == json_integer_value(json_array_get(expected, (size_t)k));
    parallel->wrong[task] += !same;
    token_list_release(&ids);
  }
}

static void several_threads_share_a_tokenizer(void **state) {
  (void)state;
  json_t *file = load_json("tokenizer_cases.json");
  Tokenizer *tokenizer = open_tiny("tiny-hf");
  Parallel parallel = {.tokenizer = tokenizer,
                       .strings = json_object_get(file, "strings"),
                       .ids = json_object_get(json_array_get(json_object_get(file, "cases"), 0), "ids")};
  ThreadPool *pool = pool_new(4);
  pool_run(pool, 64, encode_all, &parallel);
  pool_free(pool);
  for (int i = 0; i < 64; i++) assert_int_equal(parallel.wrong[i], 0);
  tokenizer_free(tokenizer);
  json_decref(file);
}

static void recipes_can_name_special_tokens(void **state) {
  (void)state;
  Tokenizer *tokenizer = open_tiny("tiny.gguf");
  assert_ok(tokenizer_set_special(tokenizer, "eos_token", "<|endoftext|>"));
  assert_int_equal(tokenizer_eos(tokenizer), 0);
  assert_ok(tokenizer_set_special(tokenizer, "pad", "!"));
  assert_int_equal(tokenizer_pad(tokenizer), tokenizer_find(tokenizer, "!"));
  assert_ok(tokenizer_set_special(tokenizer, "stop", "he"));
  int32_t stop = tokenizer_find(tokenizer, "he");
  assert_true(tokenizer_is_end(tokenizer, stop));
  assert_true(tokenizer_is_special(tokenizer, stop));
  TokenList ids = {0};
  assert_ok(tokenizer_encode(&ids, tokenizer, "xhex", 4, TOKENIZE_PARSE_SPECIAL));
  assert_int_equal(ids.count, 3);
  assert_int_equal(ids.ids[1], stop);
  token_list_release(&ids);
  assert_fails(STATUS_USAGE, tokenizer_set_special(tokenizer, "eos_token", "<nowhere>"), "<nowhere>", "not in the vocabulary");
  assert_fails(STATUS_USAGE, tokenizer_set_special(tokenizer, "sep_token", "!"), "sep_token");
  tokenizer_free(tokenizer);
}

static void ends_of_generation_are_known_by_their_texts(void **state) {
  (void)state;
  static const struct {
    const char *tokens[3];
    bool ends[3];
  } cases[] = {
      {{"<|eot_id|>", "<|eom_id|>", "<|x|>"}, {true, true, false}},
      {{"<end_of_turn>", "<eos>", "</s>"}, {true, true, true}},
      {{"<|end|>", "<|return|>", "<|call|>"}, {false, true, true}},  // gpt-oss: the turn goes on behind <|end|>
      {{"<|end|>", "<|user|>", "<|endoftext|>"}, {true, false, true}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Buffer json = {0};
    buffer_append_string(&json,
                         "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": {\"type\": "
                         "\"ByteLevel\"}, \"added_tokens\": [");
    for (int k = 0; k < 3; k++)
      buffer_format(&json, "%s{\"id\": %d, \"content\": \"%s\", \"special\": true}", k ? ", " : "", k + 1, cases[i].tokens[k]);
    buffer_append_string(&json, "]}");
    Tokenizer *tokenizer;
    assert_ok(tokenizer_from_json(&tokenizer, "ends", json.data, json.length));
    for (int k = 0; k < 3; k++) assert_int_equal(tokenizer_is_end(tokenizer, k + 1), cases[i].ends[k]);
    tokenizer_free(tokenizer);
    buffer_release(&json);
  }
}

static void pieces_keep_the_space_that_a_whole_text_drops(void **state) {
  (void)state;
  json_t *base = load_json("tiny-hf/tokenizer.json"), *file = load_json("tokenizer_cases.json");
  const json_t *cases = json_object_get(file, "cases");
  Tokenizer *tokenizer = NULL;
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *entry = json_array_get(cases, i);
    if (strcmp(json_string_value(json_object_get(entry, "name")), "prepend") == 0) tokenizer = open_patched(base, cases, entry);
  }
  TokenList ids = {0};
  Buffer whole = {0}, pieces = {0};
  assert_ok(tokenizer_encode(&ids, tokenizer, "the little model", 16, 0));
  tokenizer_decode(&whole, tokenizer, ids.ids, ids.count, false);
  for (int64_t i = 0; i < ids.count; i++) tokenizer_decode_piece(&pieces, tokenizer, ids.ids[i], false);
  assert_string_equal(whole.data, "the little model");
  assert_string_equal(pieces.data, " the little model");
  buffer_release(&whole);
  buffer_release(&pieces);
  token_list_release(&ids);
  tokenizer_free(tokenizer);
  json_decref(base);
  json_decref(file);
}

static void command_prints_ids_on_one_line(void **state) {
  (void)state;
  json_t *file = load_json("tokenizer_cases.json");
  const json_t *ids = json_array_get(json_object_get(json_array_get(json_object_get(file, "cases"), 0), "ids"), 5);
  Buffer expected = {0}, output = {0};
  char *folder = temporary_folder(), *empty = path_join(folder, "empty");
  assert_ok(file_write_whole(empty, "", 0));
  for (size_t i = 0; i < json_array_size(ids); i++)
    buffer_format(&expected, "%s%d", i ? " " : "", (int)json_integer_value(json_array_get(ids, i)));
  buffer_append_string(&expected, "\n");
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/tiny.gguf --text 'Hello, world!'"), 0);
  assert_string_equal(output.data, expected.data);
  output.length = 0;
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/tiny-hf --file '%s'", empty), 0);
  assert_string_equal(output.data, "\n");
  output.length = 0;
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/tiny-hf --text '<|im_end|>'"), 0);
  assert_string_equal(output.data, "2\n");
  output.length = 0;
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/tiny-hf --no-special --text '<|im_end|>'"), 0);
  assert_string_not_equal(output.data, "2\n");
  output.length = 0;
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/tiny-hf --time --text 'Hello, world!'"), 0);
  assert_non_null(strstr(output.data, "\"bytes\": 13, \"tokens\": "));
  assert_non_null(strstr(output.data, "\"seconds_lines\": "));
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/nowhere --text x"), STATUS_BAD_INPUT);
  assert_int_equal(run_program(&output, "tokenize --model " TESTS_DIR "/data/tiny-hf"), STATUS_USAGE);
  assert_ok(directory_remove(folder));
  free(folder);
  free(empty);
  buffer_release(&output);
  buffer_release(&expected);
  json_decref(file);
}

// ---- Shared data ----

static void story_folder_tokenizes_with_its_start_token(void **state) {
  (void)state;
  char *path = shared_path("data/story");
  if (!path) skip_test("no shared story folder");
  static const char text[] = "Once upon a time there was a little girl.";
  Tokenizer *tokenizer;
  TokenList ids = {0};
  Buffer decoded = {0};
  assert_ok(tokenizer_open(&tokenizer, path));
  assert_ok(tokenizer_encode(&ids, tokenizer, text, strlen(text), TOKENIZE_ADD_SPECIAL));
  assert_true(tokenizer_adds_bos(tokenizer));
  assert_int_equal(ids.ids[0], tokenizer_bos(tokenizer));
  assert_int_equal(tokenizer_eos(tokenizer), 2);
  assert_true(tokenizer_is_end(tokenizer, 2));
  tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, false);
  assert_string_equal(decoded.data, text);
  buffer_release(&decoded);
  token_list_release(&ids);
  tokenizer_free(tokenizer);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokenizer_json_gives_the_ids_of_hugging_face),
      cmocka_unit_test(gguf_gives_the_ids_of_hugging_face),
      cmocka_unit_test(folder_and_gguf_name_the_same_special_tokens),
      cmocka_unit_test(control_tokens_match_only_when_asked),
      cmocka_unit_test(any_bytes_survive_encoding_and_decoding),
      cmocka_unit_test(short_and_long_words_follow_the_definition),
      cmocka_unit_test(a_megabyte_of_one_letter_takes_no_quadratic_time),
      cmocka_unit_test(several_threads_share_a_tokenizer),
      cmocka_unit_test(recipes_can_name_special_tokens),
      cmocka_unit_test(ends_of_generation_are_known_by_their_texts),
      cmocka_unit_test(pieces_keep_the_space_that_a_whole_text_drops),
      cmocka_unit_test(command_prints_ids_on_one_line),
      cmocka_unit_test(story_folder_tokenizes_with_its_start_token),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
