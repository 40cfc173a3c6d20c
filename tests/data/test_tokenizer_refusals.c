// What a tokenizer refuses, by name and place: malformed files, unknown components, ids outside the vocabulary; and how regular
// expressions in Oniguruma's syntax become PCRE2's.
#include <math.h>
#include "core/file.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/parts.h"
#include "tests/support/test.h"

// ---- tokenizer.json ----

#define MODEL "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}"
#define BYTES "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}"

static Status open_json(const char *text) {
  Tokenizer *tokenizer;
  Status status = tokenizer_from_json(&tokenizer, "t.json", text, strlen(text));
  tokenizer_free(tokenizer);
  return status;
}

static void the_smallest_file_is_accepted(void **state) {
  (void)state;
  assert_ok(open_json("{" MODEL ", " BYTES "}"));
  assert_ok(open_json("{" MODEL ", \"decoder\": {\"type\": \"Fuse\"}}"));
}

static void malformed_json_is_refused_with_its_place(void **state) {
  (void)state;
  assert_fails(STATUS_BAD_INPUT, open_json(""), "t.json:1");
  assert_fails(STATUS_BAD_INPUT, open_json("{\n \"model\": }"), "t.json:2:", "JSON");
  assert_fails(STATUS_BAD_INPUT, open_json("{\"a\": 1, \"a\": 2}"), "duplicate");
  assert_fails(STATUS_BAD_INPUT, open_json("[]"), "t.json", "object");
  assert_fails(STATUS_BAD_INPUT, open_json("{}"), "model");
}

static void bad_vocabularies_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *model, *word;
  } cases[] = {
      {"{\"type\": \"WordPiece\", \"vocab\": {}}", "WordPiece"},
      {"{\"type\": \"Unigram\", \"vocab\": []}", "Unigram"},
      {"{\"type\": \"BPE\", \"vocab\": [], \"merges\": []}", "model.vocab"},
      {"{\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}", "empty"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}", "`a`"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0.5}, \"merges\": []}", "`a`"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 1e30}, \"merges\": []}", "`a`"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 2000000000}, \"merges\": []}", "2000000000"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}", "same id"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}}", "model.merges"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]}", "merges[0]"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}", "merges[0]"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [7]}", "merges[0]"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}", "outside the vocabulary"},
      {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"u\"}", "unk_token"},
      {"{\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}", "WordLevel"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = memory_format("{\"model\": %s, " BYTES "}", cases[i].model);
    assert_fails(STATUS_BAD_INPUT, open_json(text), "t.json", cases[i].word);
    free(text);
  }
}

static void unknown_components_are_refused_by_name(void **state) {
  (void)state;
  static const struct {
    const char *components, *word;
  } cases[] = {
      {"\"normalizer\": {\"type\": \"Precompiled\"}, " BYTES, "Precompiled"},
      {"\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Uppercase\"}]}, " BYTES, "Uppercase"},
      {"\"normalizer\": {\"type\": \"Replace\", \"pattern\": {}, \"content\": \"b\"}, " BYTES, "pattern"},
      {"\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(a\"}, \"content\": \"b\"}, " BYTES, "(a"},
      {"\"normalizer\": 7, " BYTES, "normalizer"},
      {"\"pre_tokenizer\": {\"type\": \"Whitespace\"}", "decoder"},
      {"\"pre_tokenizer\": {\"type\": \"CharDelimiterSplit\"}", "delimiter"},
      {"\"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}", "UnicodeScripts"},
      {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {}}", "pattern"},
      {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Sideways\"}", "Sideways"},
      {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}}", "(a"},
      {"\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"__\"}", "one character"},
      {"\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"last\"}", "prepend_scheme"},
      {"\"decoder\": {\"type\": \"WordPiece\"}", "WordPiece"},
      {"\"decoder\": {\"type\": \"CTC\"}", "CTC"},
      {"\"decoder\": {\"type\": \"Strip\", \"content\": \" \", \"start\": -2, \"stop\": 0}", "Strip"},
      {"\"decoder\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\"}, \"content\": \"b\"}", "String"},
      {"\"decoder\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"bbbbbbbbbbbbbbbbb\"}", "16 bytes"},
      {"\"decoder\": {\"type\": \"BPEDecoder\"}", "suffix"},
      {"\"decoder\": {\"type\": \"ByteLevel\"}", "ByteLevel"},
      {"\"decoder\": null", "decoder"},
      {BYTES ", \"post_processor\": {\"type\": \"Magic\"}", "Magic"},
      {BYTES ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}", "no place"},
      {BYTES ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}, {\"Sequence\": "
             "{\"id\": \"A\"}}], "
             "\"special_tokens\": {\"x\": {\"ids\": [3]}}}",
       "outside the vocabulary"},
      {BYTES ", \"added_tokens\": [{\"id\": 5, \"content\": \"z\"}], \"post_processor\": {\"type\": \"BertProcessing\", \"cls\": [\"a\", "
             "0], \"sep\": [\"?\", 4]}",
       "cls or sep"},
      {BYTES ", \"added_tokens\": [{\"id\": 0, \"content\": \"z\"}]", "added_tokens[0]"},
      {BYTES ", \"added_tokens\": [{\"id\": 3, \"content\": \"a\"}]", "same text"},
      {BYTES ", \"added_tokens\": [{\"content\": \"a\"}]", "added_tokens[0]"},
      {BYTES ", \"added_tokens\": 5", "added_tokens"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = memory_format("{" MODEL ", %s}", cases[i].components);
    assert_fails(STATUS_BAD_INPUT, open_json(text), cases[i].word);
    free(text);
  }
}

static void a_normalizer_cannot_ask_for_endless_memory(void **state) {
  (void)state;
  Buffer text = {0};
  buffer_append_string(&text, "{" MODEL ", " BYTES ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
  for (int i = 0; i < 16; i++) {
    buffer_format(&text, "%s{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aaaaaaaaaaaaaaaa\"}", i ? ", " : "");
  }
  buffer_append_string(&text, "]}}");
  Tokenizer *tokenizer;
  TokenList ids = {0};
  assert_ok(tokenizer_from_json(&tokenizer, "t.json", text.data, text.length));
  assert_fails(STATUS_BAD_INPUT, tokenizer_encode(&ids, tokenizer, "aaaa", 4, 0), "normalizer");
  assert_int_equal(ids.count, 0);
  token_list_release(&ids);
  tokenizer_free(tokenizer);
  buffer_release(&text);
}

// ---- The files beside it ----

static void folders_are_checked_file_by_file(void **state) {
  (void)state;
  static const struct {
    const char *file, *text, *word;
  } cases[] = {
      {"tokenizer_config.json", "{\"eos_token\": \"<end>\"}", "<end>"},
      {"special_tokens_map.json", "{\"bos_token\": {\"content\": \"<start>\"}}", "<start>"},
      {"generation_config.json", "{\"eos_token_id\": [1, 3]}", "eos_token_id: 3"},
      {"config.json", "{\"bos_token_id\": -1}", "bos_token_id: -1"},
      {"tokenizer_config.json", "{\"model_max_length\": 1000000000000000019884624838656, \"x\": }", "tokenizer_config.json:1"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *folder = temporary_folder(), *json = path_join(folder, "tokenizer.json"), *beside = path_join(folder, cases[i].file);
    Tokenizer *tokenizer;
    assert_fails(STATUS_BAD_INPUT, tokenizer_open(&tokenizer, folder), "no tokenizer.json", "save_pretrained");
    assert_ok(file_write_whole(json, "{" MODEL ", " BYTES "}", strlen("{" MODEL ", " BYTES "}")));
    assert_ok(tokenizer_open(&tokenizer, folder));
    tokenizer_free(tokenizer);
    assert_ok(file_write_whole(beside, cases[i].text, strlen(cases[i].text)));
    assert_fails(STATUS_BAD_INPUT, tokenizer_open(&tokenizer, folder), cases[i].file, cases[i].word);
    assert_null(tokenizer);
    assert_ok(directory_remove(folder));
    free(folder);
    free(json);
    free(beside);
  }
}

static void every_end_that_a_folder_lists_ends(void **state) {
  (void)state;
  char *folder = temporary_folder(), *json = path_join(folder, "tokenizer.json"), *beside = path_join(folder, "generation_config.json");
  static const char ends[] = "{\"eos_token_id\": [1, 2], \"pad_token_id\": null}";
  Tokenizer *tokenizer;
  assert_ok(file_write_whole(json, "{" MODEL ", " BYTES "}", strlen("{" MODEL ", " BYTES "}")));
  assert_ok(file_write_whole(beside, ends, strlen(ends)));
  assert_ok(tokenizer_open(&tokenizer, folder));
  assert_int_equal(tokenizer_eos(tokenizer), 1);
  assert_int_equal(tokenizer_bos(tokenizer), -1);
  assert_true(tokenizer_is_end(tokenizer, 1));
  assert_true(tokenizer_is_end(tokenizer, 2));
  assert_false(tokenizer_is_end(tokenizer, 0));
  tokenizer_free(tokenizer);
  assert_ok(directory_remove(folder));
  free(folder);
  free(json);
  free(beside);
}

// ---- GGUF ----

typedef struct Metadata {
  Buffer bytes;
  uint64_t keys;
} Metadata;

static void put(Metadata *data, uint64_t value, size_t width) { buffer_append(&data->bytes, &value, width); }

static void put_text(Metadata *data, const char *text) {
  put(data, strlen(text), 8);
  buffer_append_string(&data->bytes, text);
}

static void put_key(Metadata *data, const char *key, GgufType type) {
  data->keys++;
  put_text(data, key);
  put(data, type, 4);
}

static void put_string(Metadata *data, const char *key, const char *value) {
  put_key(data, key, GGUF_STRING);
  put_text(data, value);
}

static void put_texts(Metadata *data, const char *key, const char *const *texts, size_t count) {
  put_key(data, key, GGUF_ARRAY);
  put(data, GGUF_STRING, 4);
  put(data, count, 8);
  for (size_t i = 0; i < count; i++) put_text(data, texts[i]);
}

// Takes the metadata.
static Status open_metadata(Metadata *data) {
  Buffer file = {0};
  buffer_append_string(&file, "GGUF");
  buffer_append(&file, &(uint32_t){3}, 4);
  buffer_append(&file, &(uint64_t){0}, 8);
  buffer_append(&file, &data->keys, 8);
  buffer_append(&file, data->bytes.data, data->bytes.length);
  Gguf gguf;
  Tokenizer *tokenizer = NULL;
  Status status = gguf_parse(&gguf, "t.gguf", (const uint8_t *)file.data, file.length);
  if (status == STATUS_OK) status = tokenizer_from_gguf(&tokenizer, &gguf);
  assert_true((status == STATUS_OK) == (tokenizer != NULL));
  tokenizer_free(tokenizer);
  gguf_close(&gguf);
  buffer_release(&data->bytes);
  buffer_release(&file);
  return status;
}

// A vocabulary of four tokens; each argument replaces a part of it, NULL or -1 leaves it away.
static Status open_gguf(const char *model, const char *pre, const char *merge, int type, int64_t eos) {
  static const char *const tokens[] = {"a", "b", "ab", "<x>"};
  Metadata data = {0};
  if (model) put_string(&data, "tokenizer.ggml.model", model);
  if (pre) put_string(&data, "tokenizer.ggml.pre", pre);
  put_texts(&data, "tokenizer.ggml.tokens", tokens, 4);
  put_texts(&data, "tokenizer.ggml.merges", &merge, 1);
  put_key(&data, "tokenizer.ggml.token_type", GGUF_ARRAY);
  put(&data, GGUF_INT32, 4);
  put(&data, 4, 8);
  for (int i = 0; i < 4; i++) put(&data, (uint64_t)(i == 3 ? type : TOKEN_NORMAL), 4);
  if (eos >= 0) {
    put_key(&data, "tokenizer.ggml.eos_token_id", GGUF_UINT32);
    put(&data, (uint64_t)eos, 4);
  }
  return open_metadata(&data);
}

// A vocabulary of SentencePiece's kind: three tokens, and scores of which the second may be left away.
static Status open_scores(const char *model, double second, bool with_scores) {
  static const char *const tokens[] = {"<unk>", "a", "aa"};
  Metadata data = {0};
  put_string(&data, "tokenizer.ggml.model", model);
  put_texts(&data, "tokenizer.ggml.tokens", tokens, 3);
  if (with_scores) {
    const float scores[] = {0, (float)second, (float)second};
    put_key(&data, "tokenizer.ggml.scores", GGUF_ARRAY);
    put(&data, GGUF_FLOAT32, 4);
    put(&data, 3, 8);
    buffer_append(&data.bytes, scores, sizeof scores);
  }
  return open_metadata(&data);
}

static void gguf_scores_are_checked(void **state) {
  (void)state;
  assert_ok(open_scores("llama", -1, true));
  assert_fails(STATUS_BAD_INPUT, open_scores("llama", -1, false), "t.gguf", "tokenizer.ggml.scores");
  assert_fails(STATUS_BAD_INPUT, open_scores("llama", NAN, true), "score of token 2", "not a number");
  assert_fails(STATUS_BAD_INPUT, open_scores("gemma4", -1, true), "tokenizer.ggml.merges");
  assert_fails(STATUS_BAD_INPUT, open_scores("rwkv", -1, true), "rwkv", "tokenizer.json");
}

static void gguf_vocabularies_are_checked(void **state) {
  (void)state;
  assert_ok(open_gguf("gpt2", "gpt-2", "a b", TOKEN_CONTROL, 3));
  assert_ok(open_gguf("gpt2", "qwen2", "a b", TOKEN_NORMAL, -1));
  assert_fails(STATUS_BAD_INPUT, open_gguf(NULL, "gpt-2", "a b", 1, -1), "t.gguf", "tokenizer.ggml.model");
  assert_fails(STATUS_BAD_INPUT, open_gguf("bert", "gpt-2", "a b", 1, -1), "bert", "tokenizer.json");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", NULL, "a b", 1, -1), "tokenizer.ggml.pre", "convert");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-3", "a b", 1, -1), "`gpt-3`", "known: gpt-2");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-2 phi-2", "a b", 1, -1), "gpt-2 phi-2", "known");
  assert_fails(STATUS_BAD_INPUT, open_gguf("t5", "default", "a b", 1, -1), "t5", "tokenizer.json");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-2", "ab", 1, -1), "merges[0]");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-2", "b a", 1, -1), "merge 0", "outside the vocabulary");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-2", "a b", 7, -1), "token_type", "token 3");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-2", "a b", TOKEN_BYTE, -1), "token 3", "<0x00>");
  assert_fails(STATUS_BAD_INPUT, open_gguf("gpt2", "gpt-2", "a b", 1, 4), "eos_token_id", "vocabulary of 4");
}

// ---- Regular expressions ----

static void regular_expressions_are_translated(void **state) {
  (void)state;
  static const struct {
    const char *from, *to;
  } cases[] = {
      {"\\p{L}+|[^\\r\\n\\p{N}]", "\\p{L}+|[^\\r\\n\\p{N}]"},
      {"\\p{Han}[\\P{^Greek}]", "\\p{sc:Han}[\\P{^sc:Greek}]"},
      {"(?i:'s)(?!a)(?<=b)", "(?i:'s)(?!a)(?<=b)"},
      {"^a$", "(?m:^)a(?m:$)"},
      {"[^$]\\^", "[^$]\\^"},
      {"\\u4e00\\x41\\x{1F600}", "\\x{4e00}\\x{41}\\x{1F600}"},
      {"a{2,3}\\d[\\d]", "a{2,3}\\p{Nd}[\\p{Nd}]"},
      {"é[–-—]", "é[–-—]"},
      {"[^(\\s|[.,]|a])]",
       "[^(\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}|.,|a])]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Buffer out = {0};
    assert_ok(regex_translate(&out, cases[i].from));
    assert_string_equal(out.data, cases[i].to);
    buffer_release(&out);
  }
}

static void regular_expressions_that_mean_something_else_are_refused(void **state) {
  (void)state;
  static const char *const patterns[] = {"[a&&b]",  "[[:alpha:]]", "(a)\\1",    "\\h",   "(?m:a)", "(?<n>a)", "[a[^b]]",
                                         "a{1,2}+", "\\p{Alpha1}", "\\pL",      "[\\S]", "\\R",    "\\xFF",   "\\u12",
                                         "\\",      "[]a]",        "(*ACCEPT)", "[\\b]", "\\G"};
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    Buffer out = {0};
    assert_fails(STATUS_BAD_INPUT, regex_translate(&out, patterns[i]), patterns[i], "byte");
    buffer_release(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_smallest_file_is_accepted),
      cmocka_unit_test(malformed_json_is_refused_with_its_place),
      cmocka_unit_test(bad_vocabularies_are_refused),
      cmocka_unit_test(unknown_components_are_refused_by_name),
      cmocka_unit_test(a_normalizer_cannot_ask_for_endless_memory),
      cmocka_unit_test(folders_are_checked_file_by_file),
      cmocka_unit_test(every_end_that_a_folder_lists_ends),
      cmocka_unit_test(gguf_vocabularies_are_checked),
      cmocka_unit_test(gguf_scores_are_checked),
      cmocka_unit_test(regular_expressions_are_translated),
      cmocka_unit_test(regular_expressions_that_mean_something_else_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
