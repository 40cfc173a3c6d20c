#include "tests/support/test.h"

#include <math.h>

#include "core/file.h"
#include "formats/safetensors.h"

static void put_file(Buffer *file, const char *header, size_t data) {
  uint64_t length = strlen(header);
  buffer_append(file, &length, sizeof length);
  buffer_append_string(file, header);
  for (size_t i = 0; i < data; i++) buffer_append(file, "x", 1);
}

// Parses a copy of the exact size, so that a sanitizer sees the end; releases the file.
static Status parse_as(Buffer *file, const char *path) {
  uint8_t *copy = malloc(file->length ? file->length : 1);
  if (file->length) memcpy(copy, file->data, file->length);
  Safetensors st;
  Status status = safetensors_parse(&st, path, copy, file->length);
  if (status == STATUS_OK) safetensors_close(&st);
  free(copy);
  buffer_release(file);
  return status;
}

static Status parse(const char *header, size_t data) {
  Buffer file = {0};
  put_file(&file, header, data);
  return parse_as(&file, "hostile.safetensors");
}

#define assert_refused(header, data, ...) assert_fails(STATUS_BAD_INPUT, parse((header), (data)), "hostile.safetensors", __VA_ARGS__)

#define ENTRY_A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define ENTRY_B "\"b\":{\"dtype\":\"I8\",\"shape\":[3,1],\"data_offsets\":[8,11]}"

static void whole_file_parses_and_every_truncation_is_refused(void **state) {
  (void)state;
  Buffer file = {0};
  put_file(&file, "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY_B "," ENTRY_A "}  ", 11);
  for (size_t length = 0; length < file.length; length++) {
    Buffer part = {0};
    buffer_append(&part, file.data, length);
    assert_fails(STATUS_BAD_INPUT, parse_as(&part, "hostile.safetensors"), "hostile.safetensors", "fetch it again");
  }
  Safetensors st;
  assert_ok(safetensors_parse(&st, "file", (const uint8_t *)file.data, file.length));
  assert_int_equal(st.tensor_count, 2);
  assert_int_equal(st.metadata_count, 1);
  assert_string_equal(st.metadata_keys[0], "format");
  assert_string_equal(st.metadata_values[0], "pt");
  const SafetensorsTensor *b = safetensors_find(&st, "b");
  assert_int_equal(b->type, ST_I8);
  assert_int_equal(b->dimensions, 2);
  assert_int_equal(b->shape[0], 3);
  assert_int_equal(b->count, 3);
  assert_int_equal(b->bytes, 3);
  assert_ptr_equal(b->data, file.data + file.length - 3);
  assert_null(safetensors_find(&st, "c"));
  safetensors_close(&st);
  buffer_release(&file);
}

static void scalars_and_empty_tensors_are_read(void **state) {
  (void)state;
  assert_ok(parse("{}", 0));
  assert_ok(parse(
      "{\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},\"e\":{\"dtype\":\"F64\",\"shape\":[0,5],\"data_offsets\":[8,8]}}",
      8));
}

static void header_length_beyond_the_file_or_the_limit_is_refused(void **state) {
  (void)state;
  const uint64_t lengths[] = {3, 100000001, 1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 7};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    Buffer file = {0};
    buffer_append(&file, &lengths[i], 8);
    buffer_append_string(&file, "{}");
    assert_fails(STATUS_BAD_INPUT, parse_as(&file, "hostile.safetensors"), "hostile.safetensors", "header", "fetch it again");
  }
}

static void header_that_is_no_json_object_is_refused(void **state) {
  (void)state;
  const char *const headers[] = {"",
                                 " {}",
                                 "[]",
                                 "{",
                                 "{}x",
                                 "{} {}",
                                 "{,}",
                                 "{\"a\"}",
                                 "{\"a\":}",
                                 "{" ENTRY_A ",}",
                                 "{" ENTRY_A " " ENTRY_B "}",
                                 "{a:1}",
                                 "{\"__metadata__\":{\"a\":\"b\"",
                                 "{\"__metadata__\":{\"a\":\"b\"},\"",
                                 "{\"\\"};
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) assert_refused(headers[i], 0, "fetch it again");
}

static void entries_of_another_form_are_refused(void **state) {
  (void)state;
  const char *const entries[] = {"1",
                                 "null",
                                 "[1]",
                                 "{}",
                                 "{\"dtype\":\"I8\",\"shape\":[1]}",
                                 "{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}",
                                 "{\"dtype\":\"I8\",\"shape\":1,\"data_offsets\":[0,1]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1.0],\"data_offsets\":[0,1]}",
                                 "{\"dtype\":\"I8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1,2]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1.0]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}",
                                 "{\"dtype\":\"I8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}",
                                 "{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}"};
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    char *header = memory_format("{\"a\":%s}", entries[i]);
    assert_refused(header, 1, "'a'", "fetch it again");
    free(header);
  }
  assert_refused("{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, "'a'", "F4", "convert it to BF16");
}

static void deep_nesting_and_long_entries_are_refused(void **state) {
  (void)state;
  Buffer header = {0};
  buffer_append_string(&header, "{\"a\":");
  for (int i = 0; i < 100000; i++) buffer_append_string(&header, "[");
  for (int i = 0; i < 100000; i++) buffer_append_string(&header, "]");
  buffer_append_string(&header, "}");
  assert_refused(header.data, 1, "'a'", "4096");
  buffer_release(&header);
}

static void shapes_that_overflow_or_do_not_fill_the_bytes_are_refused(void **state) {
  (void)state;
  const char *const shapes[] = {
      "-1", "4611686018427387904,4", "4611686018427387904", "4294967296,4294967296", "9223372036854775807,2", "3", "1", "0"};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    char *header = memory_format("{\"a\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[0,8]}}", shapes[i]);
    assert_refused(header, 8, "'a'", "shape");
    free(header);
  }
}

static void offsets_outside_with_holes_or_overlaps_are_refused(void **state) {
  (void)state;
  const char *const offsets[] = {"-8,0", "8,0", "8,16", "0,9223372036854775807", "9223372036854775800,9223372036854775807"};
  for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
    char *header = memory_format("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%s]}}", offsets[i]);
    assert_refused(header, 8, "'a'", "data_offsets");
    free(header);
  }
  assert_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "'a'", "hole");
  assert_refused("{" ENTRY_A ",\"c\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10, "'c'", "hole");
  assert_refused("{" ENTRY_A ",\"c\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[7,11]}}", 11, "'c'", "overlaps");
  assert_refused("{" ENTRY_A ",\"c\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "overlaps");
  assert_refused("{" ENTRY_A "}", 9, "8 of the 9 bytes");
  assert_refused("{}", 1, "0 of the 1 bytes");
}

static void duplicate_and_unprintable_names_are_refused(void **state) {
  (void)state;
  assert_refused("{" ENTRY_A "," ENTRY_A "}", 8, "'a'", "twice");
  assert_refused("{" ENTRY_A ",\"\\u0061\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[8,11]}}", 11, "'a'", "twice");
  const char *const names[] = {"", "\\u001b[2J", "\\u0000", "a\\u0000b", "\\ud800", "\xFF", "\n"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *header = memory_format("{\"%s\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", names[i]);
    assert_refused(header, 1, "name", "printable");
    free(header);
  }
}

static void metadata_must_map_strings_to_strings(void **state) {
  (void)state;
  const char *const values[] = {
      "1", "\"a\"", "[]", "{\"a\":1}", "{\"a\":{}}", "{\"a\":null}", "{\"a\":\"b\",\"a\":\"c\"}", "{\"a\":\"b\",}", "{\"a\" \"b\"}"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    char *header = memory_format("{\"__metadata__\":%s}", values[i]);
    assert_refused(header, 0, "__metadata__", "fetch it again");
    free(header);
  }
  assert_refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__", "twice");
}

static void foreign_formats_are_refused_with_the_remedy(void **state) {
  (void)state;
  const struct {
    const char *path, *bytes, *word;
  } cases[] = {{"pytorch_model.bin", "{}{}{}{}{}", "safetensors"},
               {"m.safetensors", "PK\3\4zip archive", "safetensors"},
               {"m.safetensors", "\x80\2}q a pickle", "safetensors"},
               {"m.safetensors", "GGUF and so on", ".gguf"},
               {"model.onnx", "ONNX", "ONNX"},
               {"model.engine", "TensorRT", "TensorRT"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Buffer file = {0};
    buffer_append_string(&file, cases[i].bytes);
    assert_fails(STATUS_BAD_INPUT, parse_as(&file, cases[i].path), cases[i].path, cases[i].word);
  }
}

static void floats_of_each_width_convert(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "floats.safetensors");
  const double f64[] = {1.5, -2e-3};
  const float f32[] = {3.25f, -4};
  const uint16_t f16[] = {0x3C00, 0xC000}, bf16[] = {0x3F80, 0xC000};
  const int64_t shape[] = {2};
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  safetensors_declare(&writer, "f64", ST_F64, 1, shape);
  safetensors_declare(&writer, "f32", ST_F32, 1, shape);
  safetensors_declare(&writer, "f16", ST_F16, 1, shape);
  safetensors_declare(&writer, "bf16", ST_BF16, 1, shape);
  safetensors_declare(&writer, "u8", ST_U8, 1, shape);
  assert_ok(safetensors_writer_open(&writer, path));
  safetensors_write(&writer, f64, sizeof f64);
  safetensors_write(&writer, f32, 3);  // in pieces
  safetensors_write(&writer, (const char *)f32 + 3, sizeof f32 - 3);
  safetensors_write(&writer, f16, sizeof f16);
  safetensors_write(&writer, bf16, sizeof bf16);
  safetensors_write(&writer, "ab", 2);
  assert_ok(safetensors_writer_commit(&writer));
  Safetensors st;
  float out[2];
  assert_ok(safetensors_open(&st, path));
  assert_true(safetensors_to_float(out, safetensors_find(&st, "f64"), 0, 2) && out[0] == 1.5f && out[1] == -2e-3f);
  assert_true(safetensors_to_float(out, safetensors_find(&st, "f32"), 1, 1) && out[0] == -4);
  assert_true(safetensors_to_float(out, safetensors_find(&st, "f16"), 0, 2) && out[0] == 1 && out[1] == -2);
  assert_true(safetensors_to_float(out, safetensors_find(&st, "bf16"), 0, 2) && out[0] == 1 && out[1] == -2);
  assert_false(safetensors_to_float(out, safetensors_find(&st, "u8"), 0, 2));
  safetensors_close(&st);
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

// Writes what file `number` of `in` holds, tensors in order of their places (these files have them so).
static void write_copy(const Safetensors *in, int number, const char *path) {
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  for (int64_t i = 0; i < in->metadata_count; i++) safetensors_put_metadata(&writer, in->metadata_keys[i], in->metadata_values[i]);
  for (int64_t i = 0; i < in->tensor_count; i++) {
    const SafetensorsTensor *tensor = &in->tensors[i];
    if (tensor->file == number) safetensors_declare(&writer, tensor->name, tensor->type, tensor->dimensions, tensor->shape);
  }
  assert_ok(safetensors_writer_open(&writer, path));
  for (int64_t i = 0; i < in->tensor_count; i++)
    if (in->tensors[i].file == number) safetensors_write(&writer, in->tensors[i].data, in->tensors[i].bytes);
  assert_ok(safetensors_writer_commit(&writer));
}

static void copy_of_a_file_of_the_reference_library_is_identical(void **state) {
  (void)state;
  const char *original = TESTS_DIR "/formats/data/nf4.safetensors";
  char *folder = temporary_folder(), *copy = path_join(folder, "copy.safetensors");
  Safetensors st;
  FileMap a, b;
  assert_ok(safetensors_open(&st, original));
  write_copy(&st, 0, copy);
  assert_ok(file_map(&a, original));
  assert_ok(file_map(&b, copy));
  assert_int_equal(a.size, b.size);
  assert_memory_equal(a.data, b.data, a.size);
  file_unmap(&a);
  file_unmap(&b);
  safetensors_close(&st);
  assert_ok(directory_remove(folder));
  free(folder), free(copy);
}

static void metadata_and_names_survive_escaping(void **state) {
  (void)state;
  const char *name = "layers.0.\"quoted\\\xC3\xA9", *value = "line\nbreak \"x\" \xF0\x9F\x90\xA2 \x01";
  char *folder = temporary_folder(), *path = path_join(folder, "names.safetensors");
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  safetensors_put_metadata(&writer, "format", "pt");
  safetensors_put_metadata(&writer, "notes", value);
  safetensors_declare(&writer, name, ST_U8, 0, NULL);
  assert_ok(safetensors_writer_open(&writer, path));
  safetensors_write(&writer, "z", 1);
  assert_ok(safetensors_writer_commit(&writer));
  safetensors_writer_abandon(&writer);
  Safetensors st;
  assert_ok(safetensors_open(&st, path));
  assert_string_equal(st.metadata_values[1], value);
  assert_non_null(safetensors_find(&st, name));
  assert_int_equal((uintptr_t)st.tensors[0].data % 8, 0);
  safetensors_close(&st);
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

static void writer_refuses_what_no_reader_would_accept(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "bad.safetensors");
  const int64_t one[] = {1}, negative[] = {-1}, huge[] = {1ll << 62, 8};
  const struct {
    const char *name;
    int dimensions;
    const int64_t *shape;
    const char *word;
  } cases[] = {{"first", 1, one, "twice"},
               {"wide", 1, one, "wider types first"},
               {"t", 1, negative, "negative"},
               {"t", 2, huge, "overflows"},
               {"\xFF", 1, one, "UTF-8"}};
  SafetensorsWriter writer;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    safetensors_writer_new(&writer);
    safetensors_declare(&writer, "first", ST_U8, 1, one);
    safetensors_declare(&writer, cases[i].name, strcmp(cases[i].name, "wide") == 0 ? ST_F32 : ST_U8, cases[i].dimensions, cases[i].shape);
    assert_fails(STATUS_FAILED, safetensors_writer_open(&writer, path), "bad.safetensors", cases[i].word);
    safetensors_writer_abandon(&writer);
  }
  safetensors_writer_new(&writer);
  safetensors_put_metadata(&writer, "k", "1");
  safetensors_put_metadata(&writer, "k", "2");
  assert_fails(STATUS_FAILED, safetensors_writer_open(&writer, path), "'k'", "twice");
  safetensors_writer_abandon(&writer);
  for (size_t bytes = 0; bytes <= 2; bytes += 2) {  // one is right
    safetensors_writer_new(&writer);
    safetensors_declare(&writer, "t", ST_U8, 1, one);
    assert_ok(safetensors_writer_open(&writer, path));
    safetensors_write(&writer, "zz", bytes);
    assert_fails(STATUS_FAILED, safetensors_writer_commit(&writer), "bad.safetensors", "declared");
    assert_false(file_exists(path));
  }
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

static void write_text(const char *folder, const char *name, const char *text) {
  char *path = path_join(folder, name);
  assert_ok(file_write_whole(path, text, strlen(text)));
  free(path);
}

static void write_shard(const char *folder, const char *name, const char *tensor) {
  char *path = path_join(folder, name);
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  safetensors_put_metadata(&writer, "format", "pt");
  safetensors_declare(&writer, tensor, ST_U8, 1, (const int64_t[]){1});
  assert_ok(safetensors_writer_open(&writer, path));
  safetensors_write(&writer, tensor, 1);
  assert_ok(safetensors_writer_commit(&writer));
  free(path);
}

static void sharded_folder_opens_through_its_index(void **state) {
  (void)state;
  char *folder = temporary_folder();
  write_shard(folder, "one.safetensors", "a");
  write_shard(folder, "two.safetensors", "b");
  write_text(folder, "model.safetensors.index.json",
             "{\"metadata\":{\"total_size\":2},\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}\n");
  Safetensors st;
  assert_ok(safetensors_open(&st, folder));
  assert_int_equal(st.path_count, 2);
  assert_int_equal(st.tensor_count, 2);
  assert_int_equal(st.metadata_count, 1);
  const SafetensorsTensor *a = safetensors_find(&st, "a");
  assert_int_equal(*(const char *)a->data, 'a');
  assert_non_null(strstr(st.paths[a->file], "one.safetensors"));
  assert_int_equal(*(const char *)safetensors_find(&st, "b")->data, 'b');
  safetensors_close(&st);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void index_that_disagrees_with_its_shards_is_refused(void **state) {
  (void)state;
  char *folder = temporary_folder();
  write_shard(folder, "one.safetensors", "a");
  write_shard(folder, "two.safetensors", "b");
  write_shard(folder, "again.safetensors", "a");
  const struct {
    const char *map, *word;
  } cases[] = {
      {"{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}", "'c'"},
      {"{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}", "'b'"},
      {"{\"b\":\"two.safetensors\",\"c\":\"one.safetensors\"}", "'c'"},
      {"{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"again.safetensors\"}", "twice"},
      {"{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}", "twice"},
      {"{\"a\":\"absent.safetensors\"}", "absent.safetensors"},
      {"{\"a\":\"../one.safetensors\"}", "beside it"},
      {"{\"a\":\"/one.safetensors\"}", "beside it"},
      {"{\"a\":\".safetensors\"}", "beside it"},
      {"{\"a\":\"one.bin\"}", "beside it"},
      {"{\"a\":1}", "weight_map"},
      {"{\"a\"", "JSON"},
      {"[]", "weight_map"},
      {"{}", "weight_map"},
      {"{\"a\":\"one.safetensors\"},\"weight_map\":{}", "twice"},
      {"{\"a\":\"one.safetensors\"},\"metadata\":tru", "metadata"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *index = memory_format("{\"weight_map\":%s}", cases[i].map);
    write_text(folder, "model.safetensors.index.json", index);
    free(index);
    Safetensors st;
    assert_fails(STATUS_BAD_INPUT, safetensors_open(&st, folder), "model.safetensors.index.json", cases[i].word);
    safetensors_close(&st);
  }
  // A tensor in a shard that the index does not know.
  SafetensorsWriter writer;
  char *path = path_join(folder, "one.safetensors");
  safetensors_writer_new(&writer);
  safetensors_declare(&writer, "a", ST_U8, 0, NULL);
  safetensors_declare(&writer, "extra", ST_U8, 0, NULL);
  assert_ok(safetensors_writer_open(&writer, path));
  safetensors_write(&writer, "ae", 2);
  assert_ok(safetensors_writer_commit(&writer));
  write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"one.safetensors\"}}");
  Safetensors st;
  assert_fails(STATUS_BAD_INPUT, safetensors_open(&st, folder), "'extra'", "one.safetensors");
  free(path);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void folders_without_safetensors_are_refused_with_the_remedy(void **state) {
  (void)state;
  char *folder = temporary_folder();
  Safetensors st;
  assert_fails(STATUS_BAD_INPUT, safetensors_open(&st, folder), folder, "model.safetensors");
  write_text(folder, "pytorch_model.bin", "weights");
  assert_fails(STATUS_BAD_INPUT, safetensors_open(&st, folder), "pytorch_model.bin", "safe_serialization");
  char *path = path_join(folder, "absent.safetensors");
  assert_fails(STATUS_BAD_INPUT, safetensors_open(&st, path), "absent.safetensors", "No such file");
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_file_parses_and_every_truncation_is_refused),
      cmocka_unit_test(scalars_and_empty_tensors_are_read),
      cmocka_unit_test(header_length_beyond_the_file_or_the_limit_is_refused),
      cmocka_unit_test(header_that_is_no_json_object_is_refused),
      cmocka_unit_test(entries_of_another_form_are_refused),
      cmocka_unit_test(deep_nesting_and_long_entries_are_refused),
      cmocka_unit_test(shapes_that_overflow_or_do_not_fill_the_bytes_are_refused),
      cmocka_unit_test(offsets_outside_with_holes_or_overlaps_are_refused),
      cmocka_unit_test(duplicate_and_unprintable_names_are_refused),
      cmocka_unit_test(metadata_must_map_strings_to_strings),
      cmocka_unit_test(foreign_formats_are_refused_with_the_remedy),
      cmocka_unit_test(floats_of_each_width_convert),
      cmocka_unit_test(copy_of_a_file_of_the_reference_library_is_identical),
      cmocka_unit_test(metadata_and_names_survive_escaping),
      cmocka_unit_test(writer_refuses_what_no_reader_would_accept),
      cmocka_unit_test(sharded_folder_opens_through_its_index),
      cmocka_unit_test(index_that_disagrees_with_its_shards_is_refused),
      cmocka_unit_test(folders_without_safetensors_are_refused_with_the_remedy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
