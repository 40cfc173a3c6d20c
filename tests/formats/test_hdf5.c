// Arrays of every type go through a file and come back by reading and by mapping; what is not as asked for is refused.
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(arrays_are_read_and_mapped_as_they_were_written)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
