// `lora quantize` and `lora imatrix` as a user runs them.
#include <jansson.h>
#include <unistd.h>

#include "core/file.h"
#include "formats/gguf.h"
#include "tests/support/test.h"

static const char tiny_gguf[] = TESTS_DIR "/data/tiny.gguf", tiny_folder[] = TESTS_DIR "/data/tiny-hf",
                  corpus[] = TESTS_DIR "/tools/tiny_corpus.txt";

static int make_folder(void **state) {
  *state = temporary_folder();
  return 0;
}

static int remove_folder(void **state) {
  (void)directory_remove(*state);
  free(*state);
  return 0;
}

static void assert_says(const Buffer *output, const char *words) {
  if (!strstr(output->data, words)) fail_msg("\"%s\" is not in: %s", words, output->data);
}

static void assert_leaves_nothing(const char *folder, const char *name) {
  char *path = path_join(folder, name);
  assert_false(file_exists(path));
  free(path);
}

static double perplexity_of(const char *folder, const char *name) {
  Buffer output = {0};
  assert_int_equal(run_program(&output, "perplexity --model %s/%s --text %s --context 64 --quiet", folder, name, corpus), 0);
  const char *at = strstr(output.data, "perplexity ");
  assert_non_null(at);
  double value = strtod(at + strlen("perplexity "), NULL);
  buffer_release(&output);
  return value;
}

static void every_type_is_written_and_opens_again(void **state) {
  static const char *const types[] = {"q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "iq4_xs", "iq4_nl", "q4_0", "q4_1", "q4_k_s", "q4_k_m",
                                      "q5_0", "q5_1",   "q5_k_s", "q5_k_m", "q6_k",   "q8_0",   "f16",  "bf16", "f32"};
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "quantize %s %s/f.gguf --type f32 --quiet", tiny_folder, folder), 0);
  double exact = perplexity_of(folder, "f.gguf");
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    output.length = 0;
    if (run_program(&output, "quantize %s/f.gguf %s/q.gguf --type %s", folder, folder, types[i])) fail_msg("%s", output.data);
    assert_says(&output, "bits a weight");
    double value = perplexity_of(folder, "q.gguf");
    double most = types[i][0] == 'q' && types[i][1] < '4' ? 1.3 : types[i][0] == 'q' && types[i][1] > '6' ? 1.01 : 1.15;
    if (!(value < most * exact && value > exact / most)) fail_msg("%s: perplexity %g of %g", types[i], value, exact);
  }
  buffer_release(&output);
}

// All keys but those of the type are carried over byte for byte; what is quantised already is told.
static void keys_are_carried_over_and_the_type_is_told(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "quantize %s %s/k.gguf --type q4_k_m", tiny_gguf, folder), 0);
  assert_says(&output, "is quantised already (q4_1)");
  char *path = path_join(folder, "k.gguf");
  Gguf before, after;
  int64_t file_type;
  assert_ok(gguf_open(&before, tiny_gguf));
  assert_ok(gguf_open(&after, path));
  assert_true(gguf_get_integer(&after, "general.file_type", &file_type));
  assert_int_equal(file_type, 15);
  for (int64_t i = 0; i < before.value_count; i++) {
    const GgufValue *a = &before.values[i], *b = gguf_find(&after, a->key);
    assert_non_null(b);
    assert_int_equal(a->type, b->type);
    if (strcmp(a->key, "general.file_type") == 0) continue;
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->data, b->data, a->bytes);
  }
  assert_int_equal(before.tensor_count, after.tensor_count);
  gguf_close(&before);
  gguf_close(&after);
  free(path);
  buffer_release(&output);
}

static void json_has_sizes_and_bits(void **state) {
  Buffer output = {0};
  assert_int_equal(run_program(&output, "quantize %s %s/j.gguf --type q8_0 --json --quiet", tiny_folder, (char *)*state), 0);
  json_error_t error;
  json_t *root = json_loads(output.data, JSON_DISABLE_EOF_CHECK, &error);
  if (!root) fail_msg("no JSON: %s", output.data);
  assert_string_equal(json_string_value(json_object_get(root, "type")), "q8_0");
  assert_true(json_integer_value(json_object_get(root, "bytes")) < json_integer_value(json_object_get(root, "bytes_before")));
  double bits = json_real_value(json_object_get(root, "bits_per_weight"));
  assert_true(bits > 8.4 && bits < 9.5);
  json_decref(root);
  buffer_release(&output);
}

static void an_importance_matrix_is_made_and_used(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(
      run_program(&output, "imatrix --model %s --text %s --output %s/i.gguf --context 64 --chunks 8", tiny_folder, corpus, folder), 0);
  assert_says(&output, "21 matrices over 8 chunks of 64 tokens");
  assert_int_equal(run_program(&output, "quantize %s %s/w.gguf --type q4_0 --imatrix %s/i.gguf", tiny_folder, folder, folder), 0);
  assert_int_equal(run_program(&output, "quantize %s %s/n.gguf --type q4_0", tiny_folder, folder), 0);
  char *with = path_join(folder, "w.gguf"), *without = path_join(folder, "n.gguf");
  Gguf a, b;
  assert_ok(gguf_open(&a, with));
  assert_ok(gguf_open(&b, without));
  const GgufTensor *x = gguf_find_tensor(&a, "blk.1.attn_q.weight"), *y = gguf_find_tensor(&b, "blk.1.attn_q.weight");
  assert_int_equal(x->type, y->type);
  assert_true(memcmp(x->data, y->data, x->bytes) != 0);
  gguf_close(&a);
  gguf_close(&b);
  free(with);
  free(without);
  output.length = 0;
  // The embedding, which is the output here, is not measured, and is told of.
  assert_int_equal(run_program(&output, "quantize %s %s/w.gguf --type q8_0 --imatrix %s/nothing.gguf", tiny_folder, folder, folder), 3);
  assert_says(&output, "nothing.gguf");
  buffer_release(&output);
}

static void mistakes_have_their_exit_codes_and_leave_nothing(void **state) {
  const char *folder = *state;
  Buffer output = {0};
  assert_int_equal(run_program(&output, "quantize %s %s/x.gguf", tiny_gguf, folder), 2);
  assert_says(&output, "--type is missing");
  assert_int_equal(run_program(&output, "quantize %s %s/x.gguf --type q4_q", tiny_gguf, folder), 2);
  assert_says(&output, "q4_k_m");
  assert_int_equal(run_program(&output, "quantize %s %s/x --type q4_0", tiny_gguf, folder), 2);
  assert_says(&output, "ends in .gguf");
  assert_int_equal(run_program(&output, "quantize %s --type q4_0", tiny_gguf), 2);
  assert_int_equal(run_program(&output, "quantize %s/nowhere.gguf %s/x.gguf --type q4_0", folder, folder), 3);
  assert_int_equal(run_program(&output, "quantize %s %s/x.gguf --type q4_0 --imatrix %s", tiny_gguf, folder, tiny_gguf), 3);
  assert_says(&output, "imatrix");
  assert_leaves_nothing(folder, "x.gguf");
  assert_int_equal(run_program(&output, "quantize %s %s/self.gguf --type f32 --quiet", tiny_folder, folder), 0);
  assert_int_equal(run_program(&output, "quantize %s/self.gguf %s/self.gguf --type q4_0", folder, folder), 2);
  assert_says(&output, "base model itself");
  assert_true(perplexity_of(folder, "self.gguf") > 1);
  assert_int_equal(run_program(&output, "imatrix --model %s --text %s", tiny_folder, corpus), 2);
  assert_says(&output, "--output FILE is missing");
  assert_int_equal(run_program(&output, "imatrix --model %s --text %s --output %s/i.gguf --context 100000", tiny_folder, corpus, folder),
                   2);
  assert_leaves_nothing(folder, "i.gguf");
  buffer_release(&output);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(every_type_is_written_and_opens_again), TEST(keys_are_carried_over_and_the_type_is_told),       TEST(json_has_sizes_and_bits),
      TEST(an_importance_matrix_is_made_and_used), TEST(mistakes_have_their_exit_codes_and_leave_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
