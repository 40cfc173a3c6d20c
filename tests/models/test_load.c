// Folders that name the same weights otherwise: tied embeddings under the head's name, and a decoder saved without "model.".
#include "core/file.h"
#include "core/text.h"
#include "models/model.h"
#include "tests/support/golden.h"

static const char tiny[] = TESTS_DIR "/data/tiny-hf";
enum { TOKENS = 9 };
static const int32_t ids[TOKENS] = {1, 300, 17, 402, 99, 45, 511, 260, 3};

typedef const char *Rename(const char *name);
static const char *embedding_as_head(const char *name) { return strcmp(name, "model.embed_tokens.weight") == 0 ? "lm_head.weight" : name; }
static const char *without_prefix(const char *name) { return text_starts_with(name, "model.") ? name + strlen("model.") : name; }
static const char *embedding_lost(const char *name) { return strcmp(name, "model.embed_tokens.weight") == 0 ? "elsewhere" : name; }

// The tiny model's folder with other names.
static char *renamed_folder(Rename *rename) {
  char *folder = temporary_folder(), *to = path_join(folder, "model.safetensors"), *config = path_join(folder, "config.json");
  Safetensors from;
  SafetensorsWriter writer;
  Buffer text = {0};
  assert_ok(file_read(&text, TESTS_DIR "/data/tiny-hf/config.json", 1 << 20));
  assert_ok(file_write_whole(config, text.data, text.length));
  assert_ok(safetensors_open(&from, tiny));
  safetensors_writer_new(&writer);
  for (int64_t i = 0; i < from.tensor_count; i++) {
    const SafetensorsTensor *tensor = &from.tensors[i];
    safetensors_declare(&writer, rename(tensor->name), tensor->type, tensor->dimensions, tensor->shape);
  }
  assert_ok(safetensors_writer_open(&writer, to));
  for (int64_t i = 0; i < from.tensor_count; i++) safetensors_write(&writer, from.tensors[i].data, from.tensors[i].bytes);
  assert_ok(safetensors_writer_commit(&writer));
  safetensors_close(&from);
  buffer_release(&text);
  free(config);
  free(to);
  return folder;
}

static float *logits_of(const char *folder) {
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_ok(model_open(&model, folder, (ModelOptions){0}, backend));
  float *logits = golden_logits(model, ids, 1, TOKENS);
  model_close(model);
  backend_free(backend);
  return logits;
}

static void folders_that_name_the_same_weights_otherwise_are_the_same_model(void **state) {
  (void)state;
  Rename *const renames[] = {embedding_as_head, without_prefix};
  float *expected = logits_of(tiny);
  for (size_t i = 0; i < sizeof renames / sizeof *renames; i++) {
    char *folder = renamed_folder(renames[i]);
    float *actual = logits_of(folder);
    assert_memory_equal(actual, expected, TOKENS * 768 * sizeof *actual);
    free(actual);
    assert_ok(directory_remove(folder));
    free(folder);
  }
  free(expected);
}

static void a_model_without_embedding_is_refused_by_the_tensors_name(void **state) {
  (void)state;
  char *folder = renamed_folder(embedding_lost);
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_fails(STATUS_BAD_INPUT, model_open(&model, folder, (ModelOptions){0}, backend), folder, "embed_tokens.weight", "missing");
  backend_free(backend);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void types_that_are_not_read_are_refused_with_those_that_are(void **state) {
  (void)state;
  static const char name[] = "blk.0.attn_q.weight";
  char *folder = temporary_folder(), *path = path_join(folder, "nvfp4.gguf");
  Buffer file = {0};
  assert_ok(file_read(&file, TESTS_DIR "/data/tiny.gguf", 1 << 20));
  size_t at = 0;
  while (memcmp(file.data + at, name, strlen(name)) != 0) assert_true(++at + sizeof name + 24 < file.length);
  const uint32_t nvfp4 = 40;  // no larger than what is there
  memcpy(file.data + at + strlen(name) + 4 + 2 * 8, &nvfp4, sizeof nvfp4);
  assert_ok(file_write_whole(path, file.data, file.length));
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_fails(STATUS_BAD_INPUT, model_open(&model, path, (ModelOptions){0}, backend), path, name, "the type nvfp4", "q2_k, q3_k, q4_k",
               "iq4_xs, mxfp4, tq1_0, tq2_0)");
  backend_free(backend);
  buffer_release(&file);
  assert_ok(directory_remove(folder));
  free(path), free(folder);
}

static void what_is_no_model_is_told_from_one(void **state) {
  (void)state;
  char *folder = temporary_folder();
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_fails(STATUS_BAD_INPUT, model_open(&model, folder, (ModelOptions){0}, backend), folder, "without config.json");
  assert_fails(STATUS_BAD_INPUT, model_open(&model, "organisation/name", (ModelOptions){0}, backend), "there is no such file or folder");
  backend_free(backend);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void eight_bits_are_q8_0_of_floats_and_blocks_of_a_file_stay(void **state) {
  (void)state;
  Backend *backend;
  Model *plain, *eight;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&plain, tiny, (ModelOptions){0}, backend));
  assert_ok(model_open(&eight, tiny, (ModelOptions){.quantize_q8_0 = true}, backend));
  int64_t all = 0;
  for (int i = 0; i < plain->linear_count; i++) {
    const Matrix *from = &plain->linears[i]->weight, *to = &eight->linears[i]->weight;
    assert_int_equal(to->type, BLOCK_Q8_0);
    int64_t bytes = block_row_bytes(BLOCK_Q8_0, from->columns);
    float *row = memory_new((size_t)from->columns, sizeof *row);
    char *blocks = memory_new((size_t)bytes, 1);
    for (int64_t r = 0; r < from->rows; r++) {
      matrix_dequantize(row, from, r, 0, from->columns);
      block_traits(BLOCK_Q8_0)->quantize(blocks, row, NULL, from->columns);
      assert_memory_equal(blocks, (const char *)to->data + r * bytes, (size_t)bytes);
    }
    all += bytes * from->rows;
    free(row);
    free(blocks);
  }
  assert_int_equal(eight->embedding.weight.type, plain->embedding.weight.type);
  // What is counted: the copies as the process's own, the floats no more.
  assert_int_equal(eight->nf4_bytes, all);
  assert_int_equal(model_mapped_bytes(eight), model_mapped_bytes(plain) - 2 * all * 32 / 34);
  float *expected = golden_logits(plain, ids, 1, TOKENS), *actual = golden_logits(eight, ids, 1, TOKENS);
  assert_close(actual, expected, TOKENS * plain->config.vocabulary, 0.05);
  assert_memory_not_equal(actual, expected, sizeof *actual * (size_t)(TOKENS * plain->config.vocabulary));
  free(expected);
  free(actual);
  model_close(plain);
  model_close(eight);
  assert_ok(model_open(&plain, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, backend));
  assert_ok(model_open(&eight, TESTS_DIR "/data/tiny.gguf", (ModelOptions){.quantize_q8_0 = true}, backend));
  for (int i = 0; i < plain->linear_count; i++)
    if (block_traits(plain->linears[i]->weight.type)->elements > 1)
      assert_int_equal(eight->linears[i]->weight.type, plain->linears[i]->weight.type);
  model_close(plain);
  model_close(eight);
  backend_free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(folders_that_name_the_same_weights_otherwise_are_the_same_model),
      cmocka_unit_test(a_model_without_embedding_is_refused_by_the_tensors_name),
      cmocka_unit_test(types_that_are_not_read_are_refused_with_those_that_are),
      cmocka_unit_test(what_is_no_model_is_told_from_one),
      cmocka_unit_test(eight_bits_are_q8_0_of_floats_and_blocks_of_a_file_stay),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
