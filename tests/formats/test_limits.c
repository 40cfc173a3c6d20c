// Limits that show only in files of more than a gigabyte (sparse ones, which take no disk), and what is given as a model and is none.
#include "tests/support/test.h"

#include <unistd.h>

#include "core/file.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/model.h"

// A file that begins with the bytes and is zeros up to `size`; skips the test where the disk has no sparse files of that size.
static char *sparse(const char *name, const void *bytes, size_t length, int64_t size) {
  char *path = path_join(test_folder, name);
  assert_ok(file_write_whole(path, bytes, length));
  if (truncate(path, (off_t)size) != 0) skip_test("no sparse file of %lld bytes can be made here", (long long)size);
  return path;
}

static void put(Buffer *out, uint64_t value, size_t bytes) { buffer_append(out, &value, bytes); }

// One key: a string, or an array of bytes, of `count`.
static Status open_with_count(uint64_t count, bool is_array) {
  Buffer file = {0};
  buffer_append(&file, "GGUF\3\0\0", 8);
  put(&file, 0, 8), put(&file, 1, 8);
  put(&file, 1, 8), buffer_append(&file, "k", 1);
  put(&file, is_array ? GGUF_ARRAY : GGUF_STRING, 4);
  if (is_array) put(&file, GGUF_UINT8, 4);
  put(&file, count, 8);
  char *path = sparse("large.gguf", file.data, file.length, (1ll << 30) + 4096);
  Gguf gguf;
  Status status = gguf_open(&gguf, path);
  if (status == STATUS_OK) assert_int_equal(gguf.values[0].bytes, is_array ? count : count + 8);
  if (status == STATUS_OK) gguf_close(&gguf);
  buffer_release(&file);
  unlink(path);
  free(path);
  return status;
}

static void strings_and_arrays_of_2_to_the_30_are_read_and_longer_ones_refused(void **state) {
  (void)state;
  for (int is_array = 0; is_array < 2; is_array++) {
    assert_ok(open_with_count(1u << 30, is_array));
    assert_fails(STATUS_BAD_INPUT, open_with_count((1u << 30) + 1, is_array), "large.gguf", "'k'", "2^30");
  }
}

static void safetensors_headers_over_100_million_bytes_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  put(&file, 100000001, 8);
  buffer_append_string(&file, "{}");
  char *path = sparse("large.safetensors", file.data, file.length, 200000000);
  Safetensors st;
  assert_fails(STATUS_BAD_INPUT, safetensors_open(&st, path), "large.safetensors", "100000001", "100000000");
  buffer_release(&file);
  free(path);
}

static void too_many_keys_tensors_and_too_long_keys_are_refused(void **state) {
  (void)state;
  static const struct {
    uint64_t tensors, keys;
    const char *word;
  } cases[] = {{0, (1 << 16) + 1, "keys"}, {(1 << 17) + 1, 0, "tensors"}};
  Gguf gguf;
  for (int i = 0; i < 2; i++) {
    Buffer file = {0};
    buffer_append(&file, "GGUF\3\0\0", 8);
    put(&file, cases[i].tensors, 8), put(&file, cases[i].keys, 8);
    char *path = sparse("many.gguf", file.data, file.length, 1 << 24);
    assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, path), "many.gguf", cases[i].word, "at most");
    buffer_release(&file);
    free(path);
  }
  for (uint64_t length = 65535; length <= 65536; length++) {
    Buffer file = {0};
    buffer_append(&file, "GGUF\3\0\0", 8);
    put(&file, 0, 8), put(&file, 1, 8), put(&file, length, 8);
    for (uint64_t i = 0; i < length; i++) buffer_append(&file, "k", 1);
    put(&file, GGUF_UINT8, 4), put(&file, 1, 1);
    Status status = gguf_parse(&gguf, "key.gguf", (const uint8_t *)file.data, file.length);
    if (length == 65535) assert_ok(status);
    else assert_fails(STATUS_BAD_INPUT, status, "key.gguf", "65535");
    if (status == STATUS_OK) gguf_close(&gguf);
    buffer_release(&file);
  }
}

static void scores_must_be_as_many_as_tokens(void **state) {
  (void)state;
  static const char *const keys[] = {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"};
  const int32_t numbers[3] = {1, 1, 1};
  for (int i = 0; i < 2; i++)
    for (uint64_t count = 0; count <= 3; count++) {
      char *path = path_join(test_folder, "scores.gguf");
      GgufWriter writer;
      gguf_writer_new(&writer);
      gguf_put_string_array(&writer, "tokenizer.ggml.tokens", (const GgufString[]){{"a", 1}, {"b", 1}}, 2);
      gguf_put_array(&writer, keys[i], i ? GGUF_INT32 : GGUF_FLOAT32, numbers, count);
      assert_ok(gguf_writer_open(&writer, path));
      assert_ok(gguf_writer_commit(&writer));
      Gguf gguf;
      Status status = gguf_open(&gguf, path);
      if (count == 2) assert_ok(status);
      else assert_fails(STATUS_BAD_INPUT, status, keys[i], "each token");
      if (status == STATUS_OK) gguf_close(&gguf);
      free(path);
    }
}

static const struct {
  const char *name, *bytes, *word;
} foreign[] = {
    {"pytorch_model.bin", "PK\3\4 and so on", "safe_serialization=True"},
    {"model.pt", "\x80\2}q and so on", "safe_serialization=True"},
    {"model.gguf", "PK\3\4 and so on", "safe_serialization=True"},
    {"model.gguf", "\x80\5}q and so on", "safe_serialization=True"},
    {"model.pth", "text", "safe_serialization=True"},
    {"model.onnx", "\x08\7 and so on", "ONNX"},
    {"model.engine", "ptrt and so on", "TensorRT"},
    {"model.plan", "and so on", "TensorRT"},
    {"engine", "ftrt and so on", "TensorRT"},
    {"model.safetensors", "\2\1\1\1\1\1\1\1{}", "looks like safetensors"},
    {"notes.txt", "hello, world", "not a GGUF"},
};

static void a_file_of_another_kind_as_model_is_refused_with_the_remedy(void **state) {
  (void)state;
  Backend *backend;
  assert_ok(backend_new(&backend, NULL, 1));
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
    char *path = path_join(test_folder, foreign[i].name);
    assert_ok(file_write_whole(path, foreign[i].bytes, strlen(foreign[i].bytes)));
    Model *model;
    assert_fails(STATUS_BAD_INPUT, model_open(&model, path, (ModelOptions){0}, backend), foreign[i].name, foreign[i].word, "give");
    assert_null(model);
    Buffer output = {0};
    assert_int_equal(run_program(&output, "generate --model '%s' --prompt x", path), STATUS_BAD_INPUT);
    assert_non_null(strstr(output.data, foreign[i].word));
    buffer_release(&output);
    unlink(path);
    free(path);
  }
  backend_free(backend);
}

static void a_folder_of_pickles_as_model_is_refused_with_the_remedy(void **state) {
  (void)state;
  static const char *const names[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.onnx"};
  char *source = path_join(TESTS_DIR, "data/tiny-hf/config.json"), *config = path_join(test_folder, "config.json");
  Buffer text = {0};
  Backend *backend;
  assert_ok(backend_new(&backend, NULL, 1));
  assert_ok(file_read(&text, source, 1 << 20));
  assert_ok(file_write_whole(config, text.data, text.length));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = path_join(test_folder, names[i]);
    Model *model;
    assert_ok(file_write_whole(path, "x", 1));
    assert_fails(STATUS_BAD_INPUT, model_open(&model, test_folder, (ModelOptions){0}, backend), names[i], "safe_serialization=True");
    unlink(path);
    free(path);
  }
  backend_free(backend);
  buffer_release(&text);
  free(source), free(config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(strings_and_arrays_of_2_to_the_30_are_read_and_longer_ones_refused),
      unit_test_in_folder(safetensors_headers_over_100_million_bytes_are_refused),
      unit_test_in_folder(too_many_keys_tensors_and_too_long_keys_are_refused),
      unit_test_in_folder(scores_must_be_as_many_as_tokens),
      unit_test_in_folder(a_file_of_another_kind_as_model_is_refused_with_the_remedy),
      unit_test_in_folder(a_folder_of_pickles_as_model_is_refused_with_the_remedy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
