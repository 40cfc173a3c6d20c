// A vocabulary from a folder to GGUF and from GGUF to a folder: what is read back gives the same ids.
#include "core/file.h"
#include "data/tokenizer/export.h"
#include "data/tokenizer/parts.h"
#include "tests/support/test.h"

static const char *const texts[] = {
    "",
    "the story of the little model that wanted to learn",
    "  Hello   world  ",
    " a\n\n b\r\n\tc 1234567 it's WE'LL don't",
    "e\xCC\x81 \xC3\xA9 \xE6\xBC\xA2\xE5\xAD\x97 \xED\x95\x9C\xEA\xB5\xAD \xF0\x9F\xA6\x99 \xC2\xBD \xE2\x85\xA7",
    "def f(x):\n    return {'a': [1, 2]}  # -- ~~~ ...",
    "\xE2\x96\x81the\xE2\x96\x81 \xC2\xA0\xE3\x80\x80 AbCDe fGHi'S",
};

static void assert_same_ids(const Tokenizer *a, const Tokenizer *b) {
  assert_int_equal(tokenizer_bos(a), tokenizer_bos(b));
  assert_int_equal(tokenizer_eos(a), tokenizer_eos(b));
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    TokenList x = {0}, y = {0};
    Buffer first = {0}, second = {0};
    assert_ok(tokenizer_encode(&x, a, texts[i], strlen(texts[i]), TOKENIZE_ADD_SPECIAL));
    assert_ok(tokenizer_encode(&y, b, texts[i], strlen(texts[i]), TOKENIZE_ADD_SPECIAL));
    if (x.count != y.count) fail_msg("text %zu: %lld tokens and %lld", i, (long long)x.count, (long long)y.count);
    if (x.count) assert_memory_equal(x.ids, y.ids, (size_t)x.count * sizeof *x.ids);
    tokenizer_decode(&first, a, x.ids, x.count, false);
    tokenizer_decode(&second, b, y.ids, y.count, false);
    assert_string_equal(first.data ? first.data : "", second.data ? second.data : "");
    buffer_release(&first);
    buffer_release(&second);
    token_list_release(&x);
    token_list_release(&y);
  }
}

// Writes the folder's vocabulary into PATH.
static Status put_gguf(const char *path, const char *folder, int64_t rows) {
  GgufWriter writer;
  gguf_writer_new(&writer);
  gguf_put_string(&writer, "general.architecture", "llama", 5);
  Status status = tokenizer_put_gguf(&writer, folder, rows, NULL);
  if (status == STATUS_OK) status = gguf_writer_open(&writer, path);
  if (status == STATUS_OK) status = gguf_writer_commit(&writer);
  gguf_writer_abandon(&writer);
  return status;
}

static void write_folder(const char *folder, const char *path) {
  Gguf gguf;
  assert_ok(gguf_open(&gguf, path));
  assert_ok(directory_create(folder));
  assert_ok(tokenizer_write_folder(folder, &gguf, 2048));
  gguf_close(&gguf);
}

// A GGUF file as a folder, and that again as GGUF: all three give the same ids. The kind of the last is `model`, `pre`.
static void go_around(const char *path, const char *model, const char *pre) {
  char *work = temporary_folder(), *folder = path_join(work, "hf"), *again = path_join(work, "again.gguf");
  Tokenizer *first, *second, *third;
  Gguf gguf;
  GgufString value;
  assert_ok(tokenizer_open(&first, path));
  write_folder(folder, path);
  assert_ok(tokenizer_open(&second, folder));
  assert_same_ids(first, second);
  assert_ok(put_gguf(again, folder, tokenizer_size(second) + 3));
  assert_ok(tokenizer_open(&third, again));
  assert_same_ids(first, third);
  assert_int_equal(tokenizer_size(third), tokenizer_size(second) + 3);
  assert_ok(gguf_open(&gguf, again));
  assert_true(gguf_get_string(&gguf, "tokenizer.ggml.model", &value));
  assert_memory_equal(value.data, model, strlen(model));
  assert_true(gguf_get_string(&gguf, "tokenizer.ggml.pre", &value));
  assert_int_equal(value.length, strlen(pre));
  assert_memory_equal(value.data, pre, value.length);
  gguf_close(&gguf);
  tokenizer_free(first);
  tokenizer_free(second);
  tokenizer_free(third);
  assert_ok(directory_remove(work));
  free(work);
  free(folder);
  free(again);
}

static void small_vocabularies_go_around(void **state) {
  (void)state;
  go_around(TESTS_DIR "/data/tiny.gguf", "gpt2", "smollm");
  go_around(TESTS_DIR "/data/tiny-spm.gguf", "llama", "default");
}

static void folders_of_sentencepiece_become_gguf(void **state) {
  (void)state;
  static const char *const names[] = {"tiny-spm", "tiny-spm-json"};
  char *work = temporary_folder(), *path = path_join(work, "v.gguf");
  for (size_t i = 0; i < 2; i++) {
    char *folder = memory_format(TESTS_DIR "/data/%s", names[i]);
    Tokenizer *first, *second;
    assert_ok(put_gguf(path, folder, 704));
    assert_ok(tokenizer_open(&first, folder));
    assert_ok(tokenizer_open(&second, path));
    assert_same_ids(first, second);
    tokenizer_free(first);
    tokenizer_free(second);
    free(folder);
  }
  assert_ok(directory_remove(work));
  free(work);
  free(path);
}

static void every_pre_tokenizer_finds_its_own_name(void **state) {
  (void)state;
  const PreRule *rule;
  for (size_t i = 0; (rule = pre_rule_at(i)); i++) {
    char *work = temporary_folder(), *base = path_join(work, "v.gguf"), *name = memory_copy_string(rule->names);
    name[strcspn(name, " ")] = 0;
    // The tiny vocabulary under this rule's name.
    Gguf gguf;
    GgufWriter writer;
    assert_ok(gguf_open(&gguf, TESTS_DIR "/data/tiny.gguf"));
    gguf_writer_new(&writer);
    for (int64_t k = 0; k < gguf.value_count; k++) {
      const GgufValue *value = &gguf.values[k];
      if (strcmp(value->key, "tokenizer.ggml.pre") == 0) {
        gguf_put_string(&writer, value->key, name, strlen(name));
      } else if (strncmp(value->key, "general.", 8) == 0 || strncmp(value->key, "tokenizer.", 10) == 0) {
        gguf_put_value(&writer, value);
      }
    }
    assert_ok(gguf_writer_open(&writer, base));
    assert_ok(gguf_writer_commit(&writer));
    gguf_writer_abandon(&writer);
    gguf_close(&gguf);
    // Qwen 3.5's texts are not normalised in GGUF, so that what comes back has no NFC either and is none of the rules: read it only.
    if (rule->nfc_left_out) {
      Tokenizer *tokenizer;
      assert_ok(tokenizer_open(&tokenizer, base));
      tokenizer_free(tokenizer);
    } else {
      go_around(base, "gpt2", name);
    }
    assert_ok(directory_remove(work));
    free(work);
    free(base);
    free(name);
  }
}

static void what_gguf_cannot_say_is_refused(void **state) {
  (void)state;
  char *work = temporary_folder(), *path = path_join(work, "v.gguf"), *json = path_join(work, "tokenizer.json");
  static const char bytes[] =
      "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Sequence\", "
      "\"pretokenizers\": [{\"type\": \"WhitespaceSplit\"}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}}";
  // Of the two ways to make abc the list has one.
  static const char spaces[] =
      "{\"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"bc\": 4, \"abc\": "
      "5}, "
      "\"merges\": [\"b c\", \"a b\", \"ab c\"]}, \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
      "\"\xE2\x96\x81\"}, \"decoder\": {\"type\": \"Fuse\"}}";
  assert_ok(file_write_whole(json, bytes, strlen(bytes)));
  assert_fails(STATUS_BAD_INPUT, put_gguf(path, work, 2), "tokenizer.json", "pre-tokenizers", "folder");
  assert_ok(file_write_whole(json, spaces, strlen(spaces)));
  assert_fails(STATUS_BAD_INPUT, put_gguf(path, work, 6), "tokenizer.json", "merges", "folder");
  assert_fails(STATUS_BAD_INPUT, put_gguf(path, work, 5), "6 tokens", "5 rows");
  assert_ok(directory_remove(work));
  free(work);
  free(path);
  free(json);
}

static void shared_vocabularies_go_around(void **state) {
  (void)state;
  static const char *const kinds[][3] = {
      {"gpt-2", "gpt2", "gpt-2"},      {"llama-bpe", "gpt2", "llama-bpe"},
      {"qwen2", "gpt2", "qwen2"},      {"deepseek-coder", "gpt2", "deepseek-coder"},
      {"falcon", "gpt2", "falcon"},    {"llama-spm", "llama", "default"},
      {"gemma-4", "gemma4", "gemma4"},
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    char *relative = memory_format("data/vocab/ggml-vocab-%s.gguf", kinds[i][0]), *path = shared_path(relative);
    free(relative);
    if (!path) skip_test("no shared vocabulary %s", kinds[i][0]);
    go_around(path, kinds[i][1], kinds[i][2]);
    free(path);
  }
}

static void story_folder_becomes_gguf(void **state) {
  (void)state;
  char *folder = shared_path("data/story"), *work = temporary_folder(), *path = path_join(work, "v.gguf");
  if (!folder) skip_test("no shared story folder");
  Tokenizer *first, *second;
  assert_ok(tokenizer_open(&first, folder));
  assert_ok(put_gguf(path, folder, tokenizer_size(first)));
  assert_ok(tokenizer_open(&second, path));
  assert_same_ids(first, second);
  tokenizer_free(first);
  tokenizer_free(second);
  assert_ok(directory_remove(work));
  free(work);
  free(path);
  free(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_vocabularies_go_around),           cmocka_unit_test(folders_of_sentencepiece_become_gguf),
      cmocka_unit_test(every_pre_tokenizer_finds_its_own_name), cmocka_unit_test(what_gguf_cannot_say_is_refused),
      cmocka_unit_test(shared_vocabularies_go_around),          cmocka_unit_test(story_folder_becomes_gguf),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
