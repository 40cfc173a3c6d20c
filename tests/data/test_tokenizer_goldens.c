// The golden ids of llama.cpp's vocabularies, where the shared data is there: each text as its test-tokenizer-0 encodes it, without BOS
// and EOS and with control tokens as plain text; and that decoding gives the text back.
#include "core/file.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/test.h"

static char *golden_path(const char *name) {
  char *relative = memory_format("data/vocab/ggml-vocab-%s.gguf", name), *path = shared_path(relative);
  free(relative);
  return path;
}

static void compare_text(const Tokenizer *tokenizer, const char *name, int number, const char *text, size_t length, const char *line,
                         size_t line_length) {
  TokenList ids = {0};
  Buffer mine = {0}, decoded = {0};
  for (; line_length && *line == ' '; line_length--) line++;
  while (line_length && line[line_length - 1] == ' ') line_length--;
  assert_ok(tokenizer_encode(&ids, tokenizer, text, length, 0));
  buffer_append(&mine, "", 0);
  for (int64_t i = 0; i < ids.count; i++) buffer_format(&mine, i ? " %d" : "%d", ids.ids[i]);
  if (mine.length != line_length || memcmp(mine.data, line, line_length) != 0) {
    fail_msg("%s, text %d: %s, expected %.*s", name, number, mine.data, (int)line_length, line);
  }
  tokenizer_decode(&decoded, tokenizer, ids.ids, ids.count, true);
  assert_int_equal(decoded.length, length);
  assert_memory_equal(decoded.data, text, length);
  buffer_release(&mine);
  buffer_release(&decoded);
  token_list_release(&ids);
}

// Texts with a separator line between them, and a line of ids for each.
static void compare_golden(const char *name, int expected) {
  static const char separator[] = "\n__ggml_vocab_test__\n";
  char *path = golden_path(name);
  if (!path) skip_test("no shared vocabulary %s", name);
  char *input = memory_format("%s.inp", path), *output = memory_format("%s.out", path);
  Buffer texts = {0}, lines = {0};
  Tokenizer *tokenizer;
  assert_ok(file_read(&texts, input, 1 << 20));
  assert_ok(file_read(&lines, output, 1 << 20));
  assert_ok(tokenizer_open(&tokenizer, path));
  const char *text = texts.data, *line = lines.data;
  int compared = 0;
  for (const char *end, *stop; (end = strstr(text, separator)); text = end + strlen(separator), line = stop + 1, compared++) {
    stop = strchr(line, '\n');
    assert_non_null(stop);
    compare_text(tokenizer, name, compared, text, (size_t)(end - text), line, (size_t)(stop - line));
  }
  assert_int_equal(compared, expected);
  tokenizer_free(tokenizer);
  buffer_release(&texts);
  buffer_release(&lines);
  free(input);
  free(output);
  free(path);
}

// The names of the tests are those of the vocabularies.
#define GOLDEN(test, name, count)                              \
  static void test##_reproduces_its_golden_ids(void **state) { \
    (void)state;                                               \
    compare_golden(name, count);                               \
  }

GOLDEN(deepseek_coder, "deepseek-coder", 46)
GOLDEN(falcon, "falcon", 46)
GOLDEN(gemma_4, "gemma-4", 45)
GOLDEN(gpt_2, "gpt-2", 46)
GOLDEN(llama_bpe, "llama-bpe", 46)
GOLDEN(llama_spm, "llama-spm", 46)
GOLDEN(phi_3, "phi-3", 46)
GOLDEN(qwen2, "qwen2", 46)
GOLDEN(qwen35, "qwen35", 50)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(deepseek_coder_reproduces_its_golden_ids), cmocka_unit_test(falcon_reproduces_its_golden_ids),
      cmocka_unit_test(gemma_4_reproduces_its_golden_ids),        cmocka_unit_test(gpt_2_reproduces_its_golden_ids),
      cmocka_unit_test(llama_bpe_reproduces_its_golden_ids),      cmocka_unit_test(llama_spm_reproduces_its_golden_ids),
      cmocka_unit_test(phi_3_reproduces_its_golden_ids),          cmocka_unit_test(qwen2_reproduces_its_golden_ids),
      cmocka_unit_test(qwen35_reproduces_its_golden_ids),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
