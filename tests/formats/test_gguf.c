#include "tests/support/test.h"

#include <math.h>

#include "core/file.h"
#include "core/log.h"
#include "formats/gguf.h"

// A GGUF file put together by hand, so that each number in it can be wrong.
static void put_u32(Buffer *file, uint32_t value) { buffer_append(file, &value, sizeof value); }
static void put_u64(Buffer *file, uint64_t value) { buffer_append(file, &value, sizeof value); }

static void put_text(Buffer *file, const char *text) {
  put_u64(file, strlen(text));
  buffer_append_string(file, text);
}

static void put_header(Buffer *file, uint32_t version, uint64_t tensors, uint64_t values) {
  buffer_append(file, "GGUF", 4);
  put_u32(file, version);
  put_u64(file, tensors);
  put_u64(file, values);
}

static void put_key(Buffer *file, const char *key, uint32_t type) {
  put_text(file, key);
  put_u32(file, type);
}

static void put_integer(Buffer *file, const char *key, uint32_t value) {
  put_key(file, key, GGUF_UINT32);
  put_u32(file, value);
}

static void put_string(Buffer *file, const char *key, const char *value) {
  put_key(file, key, GGUF_STRING);
  put_text(file, value);
}

static void put_tensor(Buffer *file, const char *name, uint32_t type, uint64_t columns, uint64_t rows, uint64_t offset) {
  put_text(file, name);
  put_u32(file, 2);
  put_u64(file, columns);
  put_u64(file, rows);
  put_u32(file, type);
  put_u64(file, offset);
}

static void put_data(Buffer *file, size_t bytes) {
  while (file->length % 32) buffer_append(file, "", 1);
  for (size_t i = 0; i < bytes; i++) buffer_append(file, "x", 1);
}

// Parses a copy of the exact size, so that a sanitizer sees the end; releases the file.
static Status parse(Buffer *file) {
  uint8_t *copy = malloc(file->length ? file->length : 1);
  if (file->length) memcpy(copy, file->data, file->length);
  Gguf gguf;
  Status status = gguf_parse(&gguf, "hostile.gguf", copy, file->length);
  if (status == STATUS_OK) gguf_close(&gguf);
  free(copy);
  buffer_release(file);
  return status;
}

#define assert_refused(file, ...) assert_fails(STATUS_BAD_INPUT, parse(file), "hostile.gguf", __VA_ARGS__)

static void small_model(Buffer *file) {
  put_header(file, 3, 2, 4);
  put_string(file, "general.architecture", "llama");
  put_integer(file, "llama.block_count", 1);
  put_key(file, "tokenizer.ggml.tokens", GGUF_ARRAY);
  put_u32(file, GGUF_STRING);
  put_u64(file, 2);
  put_text(file, "a");
  put_text(file, "");
  put_key(file, "tokenizer.ggml.scores", GGUF_ARRAY);
  put_u32(file, GGUF_FLOAT32);
  put_u64(file, 2);
  put_u64(file, 0);
  put_tensor(file, "token_embd.weight", BLOCK_F32, 4, 2, 0);
  put_tensor(file, "blk.0.ffn_up.weight", BLOCK_F16, 4, 4, 32);
  put_data(file, 64);
}

static void whole_file_parses_and_every_truncation_is_refused(void **state) {
  (void)state;
  Buffer file = {0};
  small_model(&file);
  for (size_t length = 0; length < file.length; length++) {
    Buffer part = {0};
    buffer_append(&part, file.data, length);
    assert_refused(&part, "hostile.gguf");
  }
  assert_ok(parse(&file));
}

static void version_2_is_read_and_others_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  put_header(&file, 2, 0, 0);
  assert_ok(parse(&file));
  put_header(&file, 1, 0, 0);
  assert_refused(&file, "version 1", "convert");
  put_header(&file, 0x03000000, 0, 0);
  assert_refused(&file, "big-endian", "convert");
  buffer_append(&file, "PK\3\4 and so on", 14);
  assert_refused(&file, "zip", "safetensors");
  buffer_append(&file, "GGML and so on", 14);
  assert_refused(&file, "not a GGUF");
}

static void counts_beyond_the_file_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  const uint64_t counts[] = {1, 1000, 1u << 31, UINT64_MAX, UINT64_MAX / 8 + 2};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    put_header(&file, 3, counts[i], 0);
    assert_refused(&file, "tensors", "fetch it again");
    put_header(&file, 3, 0, counts[i]);
    assert_refused(&file, "keys", "fetch it again");
  }
}

static void strings_and_arrays_beyond_the_file_or_the_limit_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  const uint64_t counts[] = {5, (1u << 30) + 1, UINT64_MAX, UINT64_MAX / 8 + 2, UINT64_MAX / 4 + 2};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    put_header(&file, 3, 0, 1);
    put_key(&file, "some.key", GGUF_STRING);
    put_u64(&file, counts[i]);
    buffer_append(&file, "four", 4);
    assert_refused(&file, "some.key", "string", "fetch it again");
    for (uint32_t element = GGUF_UINT32; element <= GGUF_STRING; element++) {
      put_header(&file, 3, 0, 1);
      put_key(&file, "some.key", GGUF_ARRAY);
      put_u32(&file, element);
      put_u64(&file, counts[i]);
      buffer_append(&file, "four", 4);
      assert_refused(&file, "some.key", "fetch it again");
    }
  }
}

static void unknown_types_and_arrays_in_arrays_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  const uint32_t types[] = {13, 255, UINT32_MAX};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    put_header(&file, 3, 0, 1);
    put_key(&file, "some.key", types[i]);
    put_u64(&file, 0);
    assert_refused(&file, "some.key", "type");
  }
  const uint32_t elements[] = {GGUF_ARRAY, 13, UINT32_MAX};
  for (size_t i = 0; i < sizeof elements / sizeof *elements; i++) {
    put_header(&file, 3, 0, 1);
    put_key(&file, "some.key", GGUF_ARRAY);
    put_u32(&file, elements[i]);
    put_u64(&file, 1);
    put_u64(&file, 0);
    assert_refused(&file, "some.key", "type");
  }
  put_header(&file, 3, 0, 1);
  put_key(&file, "some.flag", GGUF_BOOL);
  buffer_append(&file, "\2", 1);
  assert_refused(&file, "some.flag", "bool");
}

static void duplicate_and_unprintable_keys_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  put_header(&file, 3, 0, 2);
  put_integer(&file, "some.key", 1);
  put_integer(&file, "some.key", 2);
  assert_refused(&file, "some.key", "twice");
  const char *const names[] = {"", "escape\033[2J", "broken\xFFutf8"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    put_header(&file, 3, 0, 1);
    put_integer(&file, names[i], 1);
    assert_refused(&file, "key", "printable");
  }
  char *long_key = memory_new(65537, 1);
  memset(long_key, 'k', 65536);
  put_header(&file, 3, 0, 1);
  put_integer(&file, long_key, 1);
  assert_refused(&file, "65535");
  free(long_key);
}

static void tensor_names_over_63_bytes_and_duplicates_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  char name[65] = {0};
  memset(name, 'n', 63);
  put_header(&file, 3, 1, 0);
  put_tensor(&file, name, BLOCK_F32, 4, 2, 0);
  put_data(&file, 32);
  assert_ok(parse(&file));
  name[63] = 'n';
  put_header(&file, 3, 1, 0);
  put_tensor(&file, name, BLOCK_F32, 4, 2, 0);
  put_data(&file, 32);
  assert_refused(&file, "name", "63");
  put_header(&file, 3, 2, 0);
  put_tensor(&file, "t", BLOCK_F32, 4, 2, 0);
  put_tensor(&file, "t", BLOCK_F32, 4, 2, 32);
  put_data(&file, 64);
  assert_refused(&file, "'t'", "twice");
}

static void tensor_shapes_that_overflow_or_do_not_divide_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  const uint64_t shapes[][2] = {{0, 1}, {1, 0}, {UINT64_MAX, 1}, {1ull << 32, 1ull << 31}, {1ull << 62, 2}, {1ull << 61, 3}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    put_header(&file, 3, 1, 0);
    put_tensor(&file, "t", BLOCK_F32, shapes[i][0], shapes[i][1], 0);
    put_data(&file, 64);
    assert_refused(&file, "'t'", "fetch it again");
  }
  const uint32_t dimensions[] = {0, 5, UINT32_MAX};
  for (size_t i = 0; i < sizeof dimensions / sizeof *dimensions; i++) {
    put_header(&file, 3, 1, 0);
    put_text(&file, "t");
    put_u32(&file, dimensions[i]);
    put_data(&file, 64);
    assert_refused(&file, "'t'", "dimensions");
  }
  put_header(&file, 3, 1, 0);
  put_tensor(&file, "t", BLOCK_Q4_0, 48, 1, 0);
  put_data(&file, 64);
  assert_refused(&file, "'t'", "q4_0", "48");
}

static void unknown_tensor_types_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  const uint32_t types[] = {4, 36, 99, BLOCK_NF4, UINT32_MAX};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    put_header(&file, 3, 1, 0);
    put_tensor(&file, "t", types[i], 32, 1, 0);
    put_data(&file, 64);
    assert_refused(&file, "'t'", "type");
  }
}

// Experts of every type that GGUF has, read or not: all bytes must be there, and rows must be whole blocks.
static void experts_of_every_type_have_their_size(void **state) {
  (void)state;
  int known = 0;
  for (uint32_t type = 0; type < 64; type++) {
    BlockLayout layout;
    if (!block_layout_any(&layout, type)) continue;
    known++;
    assert_string_equal(layout.name, block_type_name_any(type));
    const int64_t columns = 2 * layout.elements, rows = 3, experts = 5;
    const size_t bytes = (size_t)(2 * layout.bytes * rows * experts);
    for (int fault = 0; fault < 3; fault++) {
      Buffer file = {0};
      put_header(&file, 3, 1, 0);
      put_text(&file, "blk.0.ffn_up_exps.weight");
      put_u32(&file, 3);
      put_u64(&file, (uint64_t)(fault == 1 ? columns + layout.elements / 2 : columns));
      put_u64(&file, (uint64_t)rows);
      put_u64(&file, (uint64_t)experts);
      put_u32(&file, type);
      put_u64(&file, 0);
      put_data(&file, fault == 2 ? bytes - 1 : bytes);
      if (fault == 1 && layout.elements > 1) assert_refused(&file, "ffn_up_exps", layout.name, "blocks of");
      if (fault == 2) assert_refused(&file, "ffn_up_exps", "end behind the file");
      if (fault == 0) {
        Gguf gguf;
        assert_ok(gguf_parse(&gguf, "file", (const uint8_t *)file.data, file.length));
        const GgufTensor *tensor = &gguf.tensors[0];
        assert_int_equal(tensor->bytes, bytes);
        assert_int_equal(tensor->shape[2], experts);
        assert_ptr_equal((const char *)tensor->data + bytes, file.data + file.length);
        gguf_close(&gguf);
      }
      buffer_release(&file);
    }
  }
  assert_int_equal(known, 34);
}

static void tensors_outside_the_file_unaligned_or_overlapping_are_refused(void **state) {
  (void)state;
  Buffer file = {0};
  const uint64_t offsets[] = {32, 64, UINT64_MAX - 31, 1ull << 63};
  for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
    put_header(&file, 3, 1, 0);
    put_tensor(&file, "t", BLOCK_F32, 8, 2, offsets[i]);
    put_data(&file, 64);
    assert_refused(&file, "'t'", "fetch it again");
  }
  put_header(&file, 3, 1, 0);
  put_tensor(&file, "t", BLOCK_F32, 8, 1, 16);
  put_data(&file, 64);
  assert_refused(&file, "'t'", "alignment");
  put_header(&file, 3, 2, 0);
  put_tensor(&file, "one", BLOCK_F32, 8, 2, 0);
  put_tensor(&file, "two", BLOCK_F32, 8, 1, 32);
  put_data(&file, 64);
  assert_refused(&file, "'one'", "'two'", "overlap");
}

static void alignment_must_be_a_power_of_two_within_bounds(void **state) {
  (void)state;
  Buffer file = {0};
  const uint32_t alignments[] = {0, 1, 24, 33, 1 << 17, UINT32_MAX};
  for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
    put_header(&file, 3, 0, 1);
    put_integer(&file, "general.alignment", alignments[i]);
    assert_refused(&file, "general.alignment", "power of two");
  }
  put_header(&file, 3, 0, 1);
  put_string(&file, "general.alignment", "32");
  assert_refused(&file, "general.alignment");
}

static void put_model(Buffer *file, uint32_t blocks, uint32_t heads, uint32_t key_heads) {
  put_header(file, 3, 2, 4);
  put_string(file, "general.architecture", "llama");
  put_integer(file, "llama.block_count", blocks);
  put_integer(file, "llama.attention.head_count", heads);
  put_integer(file, "llama.attention.head_count_kv", key_heads);
  put_tensor(file, "blk.0.attn_q.weight", BLOCK_F32, 4, 8, 0);
  put_tensor(file, "blk.1.attn_k.weight", BLOCK_F32, 4, 4, 128);
  put_data(file, 192);
}

static void block_and_head_counts_must_fit_the_tensors(void **state) {
  (void)state;
  Buffer file = {0};
  put_model(&file, 2, 4, 2);
  assert_ok(parse(&file));
  const uint32_t blocks[] = {0, 1, 3, 1u << 31, UINT32_MAX};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
    put_model(&file, blocks[i], 4, 2);
    assert_refused(&file, "llama.block_count");
  }
  const uint32_t heads[][2] = {{0, 2}, {4, 0}, {3, 3}, {4, 3}, {8, 8}, {UINT32_MAX, 1}, {4, UINT32_MAX}};
  for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
    put_model(&file, 2, heads[i][0], heads[i][1]);
    assert_refused(&file, "head_count");
  }
}

static void put_vocabulary(Buffer *file, const char *token, uint64_t types, int32_t type) {
  put_key(file, "tokenizer.ggml.tokens", GGUF_ARRAY);
  put_u32(file, GGUF_STRING);
  put_u64(file, 1);
  put_text(file, token);
  put_key(file, "tokenizer.ggml.token_type", GGUF_ARRAY);
  put_u32(file, GGUF_INT32);
  put_u64(file, types);
  for (uint64_t i = 0; i < types; i++) put_u32(file, (uint32_t)type);
}

static void vocabulary_must_agree_with_itself(void **state) {
  (void)state;
  Buffer file = {0};
  put_header(&file, 3, 0, 3);
  put_vocabulary(&file, "<0xAF>", 1, 6);
  put_integer(&file, "tokenizer.ggml.bos_token_id", 0);
  assert_ok(parse(&file));
  const uint32_t ids[] = {1, UINT32_MAX};
  for (size_t i = 0; i < 2; i++) {
    put_header(&file, 3, 0, 3);
    put_vocabulary(&file, "a", 1, 1);
    put_integer(&file, "tokenizer.ggml.eos_token_id", ids[i]);
    assert_refused(&file, "tokenizer.ggml.eos_token_id", "vocabulary");
  }
  const char *const bytes[] = {"<0x100>", "<0xG0>", "<0x0>", "0x00", "", "<0x0A>x"};
  for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
    put_header(&file, 3, 0, 2);
    put_vocabulary(&file, bytes[i], 1, 6);
    assert_refused(&file, "tokenizer.ggml.tokens", "<0x00>");
  }
  put_header(&file, 3, 0, 2);
  put_vocabulary(&file, "a", 2, 1);
  assert_refused(&file, "tokenizer.ggml.token_type", "each token");
  put_header(&file, 3, 0, 2);
  put_vocabulary(&file, "a", 1, 7);
  assert_refused(&file, "tokenizer.ggml.token_type");
  put_header(&file, 3, 0, 1);
  put_integer(&file, "tokenizer.ggml.tokens", 1);
  assert_refused(&file, "tokenizer.ggml.tokens", "strings");
}

static void numbers_convert_when_they_fit(void **state) {
  (void)state;
  Buffer file = {0};
  put_header(&file, 3, 0, 5);
  put_key(&file, "byte", GGUF_INT8);
  buffer_append(&file, "\xFE", 1);
  put_key(&file, "huge", GGUF_UINT64);
  put_u64(&file, UINT64_MAX);
  put_key(&file, "half", GGUF_FLOAT32);
  put_u32(&file, 0x3F000000);
  put_key(&file, "flag", GGUF_BOOL);
  buffer_append(&file, "\1", 1);
  put_key(&file, "list", GGUF_ARRAY);
  put_u32(&file, GGUF_UINT16);
  put_u64(&file, 2);
  put_u32(&file, 0xFFFF0001);
  Gguf gguf;
  assert_ok(gguf_parse(&gguf, "file", (const uint8_t *)file.data, file.length));
  int64_t integer = 77;
  double number = 77;
  bool flag = false;
  GgufString string;
  assert_true(gguf_get_integer(&gguf, "byte", &integer));
  assert_int_equal(integer, -2);
  assert_true(gguf_get_float(&gguf, "byte", &number) && number == -2);
  assert_true(gguf_get_float(&gguf, "half", &number) && number == 0.5);
  assert_true(gguf_get_bool(&gguf, "flag", &flag) && flag);
  assert_false(gguf_get_integer(&gguf, "huge", &integer));
  assert_false(gguf_get_integer(&gguf, "half", &integer));
  assert_false(gguf_get_integer(&gguf, "flag", &integer));
  assert_false(gguf_get_integer(&gguf, "list", &integer));
  assert_false(gguf_get_integer(&gguf, "absent", &integer));
  assert_false(gguf_get_string(&gguf, "byte", &string));
  assert_int_equal(integer, -2);
  const GgufValue *list = gguf_find(&gguf, "list");
  assert_true(gguf_array_integer(list, 1, &integer));
  assert_int_equal(integer, 65535);
  assert_false(gguf_array_integer(list, 2, &integer));
  gguf_close(&gguf);
  buffer_release(&file);
}

// Writes what `in` holds: every key carried over, then every tensor.
static void write_copy(const Gguf *in, const char *path) {
  GgufWriter writer;
  gguf_writer_new(&writer);
  for (int64_t i = 0; i < in->value_count; i++) gguf_put_value(&writer, &in->values[i]);
  for (int64_t i = 0; i < in->tensor_count; i++) {
    const GgufTensor *tensor = &in->tensors[i];
    gguf_declare_tensor(&writer, tensor->name, tensor->type, tensor->dimensions, tensor->shape);
  }
  assert_ok(gguf_writer_open(&writer, path));
  for (int64_t i = 0; i < in->tensor_count; i++) assert_ok(gguf_write_tensor(&writer, in->tensors[i].data, in->tensors[i].bytes));
  assert_ok(gguf_writer_commit(&writer));
}

static void assert_same_bytes(const char *a, const char *b) {
  FileMap x, y;
  assert_ok(file_map(&x, a));
  assert_ok(file_map(&y, b));
  assert_int_equal(x.size, y.size);
  assert_memory_equal(x.data, y.data, x.size);
  file_unmap(&x);
  file_unmap(&y);
}

static void assert_copy_is_identical(const char *original) {
  char *folder = temporary_folder(), *copy = path_join(folder, "copy.gguf");
  Gguf gguf;
  assert_ok(gguf_open(&gguf, original));
  write_copy(&gguf, copy);
  gguf_close(&gguf);
  assert_same_bytes(original, copy);
  assert_ok(directory_remove(folder));
  free(folder), free(copy);
}

static void copy_of_a_gguf_py_file_is_identical(void **state) {
  (void)state;
  assert_copy_is_identical(TESTS_DIR "/formats/data/blocks.gguf");
}

static void copy_of_a_llama_cpp_file_is_identical(void **state) {
  (void)state;
  char *path = shared_path("golden/quant/gguf/q4_k_m.gguf");
  if (!path) skip_test("golden/quant is not here");
  assert_copy_is_identical(path);
  free(path);
}

static void written_values_and_tensors_are_read_back(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "new.gguf");
  const uint16_t shorts[] = {1, 65535};
  const GgufString strings[] = {{"one", 3}, {"\0two", 4}, {"", 0}};
  const float values[6] = {1, -2, 3, NAN, INFINITY, 0};
  GgufWriter writer;
  gguf_writer_new(&writer);
  gguf_put_uint32(&writer, "general.alignment", 64);
  gguf_put_uint32(&writer, "number", 7);
  gguf_put_float32(&writer, "fraction", 0.25f);
  gguf_put_bool(&writer, "yes", true);
  gguf_put_bool(&writer, "no", false);
  gguf_put_string(&writer, "text", "a\0b", 3);
  gguf_put_array(&writer, "shorts", GGUF_UINT16, shorts, 2);
  gguf_put_string_array(&writer, "strings", strings, 3);
  gguf_declare_tensor(&writer, "a", BLOCK_F32, 2, (const int64_t[]){3, 2});
  gguf_declare_tensor(&writer, "b", BLOCK_F32, 1, (const int64_t[]){1});
  assert_ok(gguf_writer_open(&writer, path));
  assert_ok(gguf_write_tensor(&writer, values, sizeof values));
  assert_ok(gguf_write_tensor(&writer, values, sizeof *values));
  assert_ok(gguf_writer_commit(&writer));
  gguf_writer_abandon(&writer);

  Gguf gguf;
  int64_t integer;
  double number;
  bool yes, no;
  GgufString text;
  assert_ok(gguf_open(&gguf, path));
  assert_int_equal(gguf.version, 3);
  assert_int_equal(gguf.alignment, 64);
  assert_true(gguf_get_integer(&gguf, "number", &integer) && integer == 7);
  assert_true(gguf_get_float(&gguf, "fraction", &number) && number == 0.25);
  assert_true(gguf_get_bool(&gguf, "yes", &yes) && yes);
  assert_true(gguf_get_bool(&gguf, "no", &no) && !no);
  assert_true(gguf_get_string(&gguf, "text", &text) && text.length == 3);
  assert_memory_equal(text.data, "a\0b", 3);
  const GgufValue *list = gguf_find(&gguf, "strings");
  assert_int_equal(list->count, 3);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(list->strings[i].length, strings[i].length);
    assert_memory_equal(list->strings[i].data, strings[i].data, strings[i].length);
  }
  const GgufTensor *tensor = gguf_find_tensor(&gguf, "a");
  assert_int_equal(tensor->dimensions, 2);
  assert_int_equal(tensor->shape[0], 3);
  assert_int_equal(tensor->shape[1], 2);
  assert_memory_equal(tensor->data, values, sizeof values);
  assert_int_equal(((const uint8_t *)gguf_find_tensor(&gguf, "b")->data - (const uint8_t *)tensor->data), 64);
  gguf_close(&gguf);
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

static void writer_refuses_what_no_reader_would_accept(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "bad.gguf");
  const int64_t shape[5] = {32, 1, 1, 1, 1}, odd[] = {33, 1}, none[] = {32, 0}, huge[] = {1ll << 62, 4};
  const char long_name[] = "0123456789012345678901234567890123456789012345678901234567890123";
  const struct {
    const char *name;
    uint32_t type;
    int dimensions;
    const int64_t *shape;
    const char *word;
  } cases[] = {{"t", BLOCK_Q4_0, 2, odd, "divide"},  {"t", BLOCK_NF4, 2, shape, "type"},     {"t", BLOCK_F32, 5, shape, "dimensions"},
               {"t", BLOCK_F32, 2, none, "below 1"}, {"t", BLOCK_F32, 2, huge, "overflows"}, {long_name, BLOCK_F32, 2, shape, "63"}};
  GgufWriter writer;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    gguf_writer_new(&writer);
    gguf_declare_tensor(&writer, cases[i].name, cases[i].type, cases[i].dimensions, cases[i].shape);
    assert_fails(STATUS_FAILED, gguf_writer_open(&writer, path), "bad.gguf", cases[i].name, cases[i].word);
    gguf_writer_abandon(&writer);
  }
  gguf_writer_new(&writer);
  gguf_put_uint32(&writer, "some.key", 1);
  gguf_put_uint32(&writer, "some.key", 2);
  assert_fails(STATUS_FAILED, gguf_writer_open(&writer, path), "some.key", "twice");
  gguf_writer_abandon(&writer);

  gguf_writer_new(&writer);
  gguf_declare_tensor(&writer, "t", BLOCK_F32, 2, shape);
  assert_ok(gguf_writer_open(&writer, path));
  assert_fails(STATUS_FAILED, gguf_write_tensor(&writer, shape, 4), "'t'", "128");
  assert_fails(STATUS_FAILED, gguf_writer_commit(&writer), "0 of 1");
  assert_false(file_exists(path));
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

static void big_vocabularies_open_fast(void **state) {
  (void)state;
  enum { TOKENS = 256000 };
  char *folder = temporary_folder(), *path = path_join(folder, "vocabulary.gguf");
  GgufString *tokens = memory_new(TOKENS, sizeof *tokens);
  Buffer text = {0};
  for (int i = 0; i < TOKENS; i++) buffer_format(&text, "%08d", i);
  for (int i = 0; i < TOKENS; i++) tokens[i] = (GgufString){text.data + 8 * i, 8};
  GgufWriter writer;
  gguf_writer_new(&writer);
  gguf_put_string_array(&writer, "tokenizer.ggml.tokens", tokens, TOKENS);
  assert_ok(gguf_writer_open(&writer, path));
  assert_ok(gguf_writer_commit(&writer));
  Gguf gguf;
  double start = time_seconds();
  assert_ok(gguf_open(&gguf, path));
  double seconds = time_seconds() - start;
  print_message("256,000 tokens: %.1f ms\n", seconds * 1e3);
  assert_int_equal(gguf_find(&gguf, "tokenizer.ggml.tokens")->count, TOKENS);
  assert_memory_equal(gguf_find(&gguf, "tokenizer.ggml.tokens")->strings[TOKENS - 1].data, "00255999", 8);
  assert_true(seconds < 1);  // some ms; a sanitizer on a busy machine takes longer
  gguf_close(&gguf);
  buffer_release(&text);
  assert_ok(directory_remove(folder));
  free(tokens), free(folder), free(path);
}

static void missing_file_and_folder_are_refused(void **state) {
  (void)state;
  Gguf gguf;
  char *folder = temporary_folder(), *path = path_join(folder, "absent.gguf");
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, path), "absent.gguf", "No such file");
  gguf_close(&gguf);
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, folder), "not a regular file");
  assert_ok(file_write_whole(path, "", 0));
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, path), "not a GGUF");
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_file_parses_and_every_truncation_is_refused),
      cmocka_unit_test(version_2_is_read_and_others_are_refused),
      cmocka_unit_test(counts_beyond_the_file_are_refused),
      cmocka_unit_test(strings_and_arrays_beyond_the_file_or_the_limit_are_refused),
      cmocka_unit_test(unknown_types_and_arrays_in_arrays_are_refused),
      cmocka_unit_test(duplicate_and_unprintable_keys_are_refused),
      cmocka_unit_test(tensor_names_over_63_bytes_and_duplicates_are_refused),
      cmocka_unit_test(tensor_shapes_that_overflow_or_do_not_divide_are_refused),
      cmocka_unit_test(unknown_tensor_types_are_refused),
      cmocka_unit_test(experts_of_every_type_have_their_size),
      cmocka_unit_test(tensors_outside_the_file_unaligned_or_overlapping_are_refused),
      cmocka_unit_test(alignment_must_be_a_power_of_two_within_bounds),
      cmocka_unit_test(block_and_head_counts_must_fit_the_tensors),
      cmocka_unit_test(vocabulary_must_agree_with_itself),
      cmocka_unit_test(numbers_convert_when_they_fit),
      cmocka_unit_test(copy_of_a_gguf_py_file_is_identical),
      cmocka_unit_test(copy_of_a_llama_cpp_file_is_identical),
      cmocka_unit_test(written_values_and_tensors_are_read_back),
      cmocka_unit_test(writer_refuses_what_no_reader_would_accept),
      cmocka_unit_test(big_vocabularies_open_fast),
      cmocka_unit_test(missing_file_and_folder_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
