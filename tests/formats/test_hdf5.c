// Arrays of every type go through a file and come back by reading and by mapping; what is not as asked for is refused.
#include <hdf5.h>

#include "core/file.h"
#include "formats/hdf5.h"
#include "tests/support/test.h"

static const size_t sizes[] = {[HDF5_F32] = 4, [HDF5_I32] = 4, [HDF5_I64] = 8, [HDF5_U8] = 1};

static void write_arrays(const char *path, const uint8_t *bytes, const int64_t *counts, int array_count) {
  Hdf5File file;
  assert_ok(hdf5_create(&file, path));
  for (int i = 0; i < array_count; i++) {
    Hdf5Array array;
    char name[8];
    snprintf(name, sizeof name, "a%d", i);
    hdf5_array_create(&array, &file, name, (Hdf5Type)(i % 4), counts[i]);
    hdf5_array_write(&array, 0, bytes, counts[i] / 3);
    hdf5_array_write(&array, counts[i] / 3, bytes + (size_t)(counts[i] / 3) * sizes[i % 4], counts[i] - counts[i] / 3);
    hdf5_array_close(&array);
  }
  assert_ok(hdf5_close(&file));
}

static void arrays_are_read_and_mapped_as_they_were_written(void **state) {
  (void)state;
  static const int64_t counts[] = {0, 1, 5, 13, 1000, 100000, 0, 7, 3};
  enum { COUNT = sizeof counts / sizeof *counts, BYTES = 800000 };
  char *folder = temporary_folder(), *path = path_join(folder, "a.h5");
  uint8_t *bytes = memory_new(BYTES, 1), *back = memory_new(BYTES, 1);
  Rng rng = rng_new(7, 0);
  // Below 0x40, so that no four of them are a NaN.
  for (int i = 0; i < BYTES; i++) bytes[i] = (uint8_t)(rng_next(&rng) & 0x3F);
  write_arrays(path, bytes, counts, COUNT);
  Hdf5File file;
  FileMap map;
  assert_ok(hdf5_open(&file, path));
  assert_ok(file_map(&map, path));
  for (int i = 0; i < COUNT; i++) {
    Hdf5Array array;
    char name[8];
    snprintf(name, sizeof name, "a%d", i);
    size_t size = (size_t)counts[i] * sizes[i % 4];
    assert_fails(STATUS_BAD_INPUT, hdf5_array_open(&array, &file, name, (Hdf5Type)((i + 1) % 4)), name, "is not a list of");
    assert_ok(hdf5_array_open(&array, &file, name, (Hdf5Type)(i % 4)));
    assert_int_equal(array.count, counts[i]);
    assert_ok(hdf5_array_read(back, &array, 0, array.count));
    assert_memory_equal(back, bytes, size);
    assert_fails(STATUS_BAD_INPUT, hdf5_array_read(back, &array, 1, array.count), "cannot be read");
    int64_t place = hdf5_array_place(&array);
    if (counts[i]) {
      assert_int_equal(place % 64, 0);
      assert_true((size_t)place + size <= map.size);
      assert_memory_equal(map.data + place, bytes, size);
    } else {
      assert_int_equal(place, -1);
    }
    hdf5_array_close(&array);
  }
  Hdf5Array none;
  assert_fails(STATUS_BAD_INPUT, hdf5_array_open(&none, &file, "none", HDF5_U8), "no array 'none'");
  file_unmap(&map);
  hdf5_close(&file);
  free(bytes), free(back), free(path);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void note_item(void *argument, const Hdf5Item *item) {
  Buffer *seen = argument;
  buffer_format(seen, "%s", item->name);
  switch (item->kind) {
    case HDF5_ITEM_INTEGER: buffer_format(seen, "=%lld ", (long long)item->integer); break;
    case HDF5_ITEM_REAL: buffer_format(seen, "=%g ", item->real); break;
    case HDF5_ITEM_TEXT: buffer_format(seen, "='%s' ", item->text); break;
    case HDF5_ITEM_ARRAY: buffer_format(seen, "[%lld]:%d%s ", (long long)item->count, item->type, item->place < 0 ? "?" : ""); break;
    case HDF5_ITEM_OTHER: buffer_append_string(seen, "?? "); break;
  }
}

static void a_visit_sees_attributes_then_arrays_by_name_and_what_is_neither(void **state) {
  (void)state;
  static const int64_t counts[] = {4, 2, 0, 8};
  static const uint8_t bytes[64];
  char *folder = temporary_folder(), *path = path_join(folder, "v.h5");
  write_arrays(path, bytes, counts, 4);
  hid_t raw = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), space = H5Screate_simple(2, (const hsize_t[]){2, 2}, NULL);
  H5Gclose(H5Gcreate2(raw, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Dclose(H5Dcreate2(raw, "matrix", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  Hdf5File writer = {.id = raw};
  hdf5_write_integer(&writer, "step", 7);
  hdf5_write_real(&writer, "rate", 0.5);
  hdf5_write_text(&writer, "note", "a text");
  hid_t attribute = H5Acreate2(raw, "pair", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Aclose(attribute);
  H5Sclose(space);
  H5Fclose(raw);
  Hdf5File file;
  Buffer seen = {0};
  assert_ok(hdf5_open(&file, path));
  hdf5_visit(&file, note_item, &seen);
  hdf5_close(&file);
  assert_string_equal(seen.data, "note='a text' pair?? rate=0.5 step=7 a0[4]:0 a1[2]:1 a2[0]:2? a3[8]:3 group?? matrix?? ");
  buffer_release(&seen);
  assert_ok(directory_remove(folder));
  free(folder), free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(arrays_are_read_and_mapped_as_they_were_written),
      cmocka_unit_test(a_visit_sees_attributes_then_arrays_by_name_and_what_is_neither),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
