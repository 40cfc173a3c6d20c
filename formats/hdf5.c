// Root-level attributes (64-bit integers, doubles, fixed-length strings) and contiguous one-dimensional datasets.
#include "formats/hdf5.h"

#include <errno.h>
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/memory.h"
#include "formats/hdf5_driver.h"

static Status file_enter(Hdf5File *file, const char *path, bool writing) {
  *file = (Hdf5File){.id = -1, .path = memory_copy_string(path), .writing = writing};
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);  // or the library prints its stack of errors itself
  hid_t access = hdf5_driver_access(&file->error);
  hid_t creation = H5Pcreate(H5P_FILE_CREATE);
  H5Pset_obj_track_times(creation, false);
  if (access >= 0) file->id = writing ? H5Fcreate(path, H5F_ACC_TRUNC, creation, access) : H5Fopen(path, H5F_ACC_RDONLY, access);
  H5Pclose(creation);
  if (access >= 0) H5Pclose(access);
  if (file->id >= 0) return STATUS_OK;
  int error = file->error;
  free(file->path);
  *file = (Hdf5File){.id = -1};
  if (error)
    return status_errno(writing ? STATUS_FAILED : STATUS_BAD_INPUT, error, "%s: cannot be %s", path, writing ? "written" : "opened");
  return status_fail(writing ? STATUS_FAILED : STATUS_BAD_INPUT, "%s: %s", path, writing ? "cannot be written" : "not an HDF5 file");
}

Status hdf5_create(Hdf5File *file, const char *path) { return file_enter(file, path, true); }
Status hdf5_open(Hdf5File *file, const char *path) { return file_enter(file, path, false); }

Status hdf5_close(Hdf5File *file) {
  if (!file->path) return STATUS_OK;
  if (H5Fclose(file->id) < 0) file->failed = true;
  Status status = STATUS_OK;
  if (file->writing && file->error) status = status_errno(STATUS_FAILED, file->error, "%s: cannot be written", file->path);
  else if (file->writing && file->failed) status = status_fail(STATUS_FAILED, "%s: cannot be written as HDF5", file->path);
  free(file->path);
  *file = (Hdf5File){.id = -1};
  return status;
}

static void attribute_write(Hdf5File *file, const char *name, hid_t stored, hid_t native, const void *value) {
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate2(file->id, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute < 0 || H5Awrite(attribute, native, value) < 0) file->failed = true;
  if (attribute >= 0) H5Aclose(attribute);
  H5Sclose(space);
}

void hdf5_write_integer(Hdf5File *file, const char *name, int64_t value) {
  attribute_write(file, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void hdf5_write_real(Hdf5File *file, const char *name, double value) {
  attribute_write(file, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

void hdf5_write_text(Hdf5File *file, const char *name, const char *value) {
  hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, strlen(value) + 1);
  attribute_write(file, name, type, type, value);
  H5Tclose(type);
}

// A scalar of the class that is wanted, at most `capacity` bytes in the file; `native` 0: as it is stored.
static Status attribute_read(void *value, size_t capacity, const Hdf5File *file, const char *name, H5T_class_t class, hid_t native) {
  hid_t attribute = H5Aopen(file->id, name, H5P_DEFAULT);
  if (attribute < 0) return status_fail(STATUS_BAD_INPUT, "%s: it has no attribute '%s'", file->path, name);
  hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
  bool fits = H5Tget_class(type) == class && H5Tget_size(type) <= capacity && H5Tis_variable_str(type) <= 0;
  bool good = fits && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(attribute, native ? native : type, value) >= 0;
  H5Sclose(space);
  H5Tclose(type);
  H5Aclose(attribute);
  return good ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "%s: its attribute '%s' is not what it should be", file->path, name);
}

Status hdf5_read_integer(int64_t *value, const Hdf5File *file, const char *name) {
  return attribute_read(value, sizeof *value, file, name, H5T_INTEGER, H5T_NATIVE_INT64);
}

Status hdf5_read_real(double *value, const Hdf5File *file, const char *name) {
  return attribute_read(value, sizeof *value, file, name, H5T_FLOAT, H5T_NATIVE_DOUBLE);
}

Status hdf5_read_text(char *value, size_t capacity, const Hdf5File *file, const char *name) {
  memset(value, 0, capacity);
  Status status = attribute_read(value, capacity, file, name, H5T_STRING, 0);
  value[capacity - 1] = 0;
  return status;
}

// The library's types are variables, so there is no constant table of them.
static hid_t stored_type(Hdf5Type type) {
  switch (type) {
    case HDF5_F32: return H5T_IEEE_F32LE;
    case HDF5_I32: return H5T_STD_I32LE;
    case HDF5_I64: return H5T_STD_I64LE;
    case HDF5_U8: return H5T_STD_U8LE;
  }
  return -1;
}

static hid_t native_type(Hdf5Type type) {
  switch (type) {
    case HDF5_F32: return H5T_NATIVE_FLOAT;
    case HDF5_I32: return H5T_NATIVE_INT32;
    case HDF5_I64: return H5T_NATIVE_INT64;
    case HDF5_U8: return H5T_NATIVE_UINT8;
  }
  return -1;
}

static const char *const type_names[] = {
    [HDF5_F32] = "32-bit floats", [HDF5_I32] = "32-bit integers", [HDF5_I64] = "64-bit integers", [HDF5_U8] = "bytes"};

void hdf5_array_create(Hdf5Array *array, Hdf5File *file, const char *name, Hdf5Type type, int64_t count) {
  *array = (Hdf5Array){.file = file, .type = type, .count = count};
  hsize_t extent = (hsize_t)count;
  hid_t space = H5Screate_simple(1, &extent, NULL);
  hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(properties, false);
  H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
  array->id = H5Dcreate2(file->id, name, stored_type(type), space, H5P_DEFAULT, properties, H5P_DEFAULT);
  if (array->id < 0) file->failed = true;
  H5Pclose(properties);
  H5Sclose(space);
}

Status hdf5_array_open(Hdf5Array *array, Hdf5File *file, const char *name, Hdf5Type type) {
  *array = (Hdf5Array){.file = file, .type = type, .id = H5Dopen2(file->id, name, H5P_DEFAULT)};
  if (array->id < 0) return status_fail(STATUS_BAD_INPUT, "%s: it has no array '%s'", file->path, name);
  hid_t stored = H5Dget_type(array->id), space = H5Dget_space(array->id);
  bool good = H5Tequal(stored, stored_type(type)) > 0 && H5Sget_simple_extent_ndims(space) == 1;
  array->count = H5Sget_simple_extent_npoints(space);
  H5Sclose(space);
  H5Tclose(stored);
  if (good && array->count >= 0) return STATUS_OK;
  hdf5_array_close(array);
  return status_fail(STATUS_BAD_INPUT, "%s: its array '%s' is not a list of %s", file->path, name, type_names[type]);
}

// Moves elements offset .. offset + count - 1; exactly one of `from` and `to` is not NULL.
static bool array_move(const Hdf5Array *array, int64_t offset, int64_t count, const void *from, void *to) {
  if (count == 0) return true;
  hsize_t start = (hsize_t)offset, extent = (hsize_t)count;
  hid_t memory = H5Screate_simple(1, &extent, NULL), space = H5Dget_space(array->id), native = native_type(array->type);
  herr_t result = H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &extent, NULL);
  if (result >= 0 && from) result = H5Dwrite(array->id, native, memory, space, H5P_DEFAULT, from);
  else if (result >= 0) result = H5Dread(array->id, native, memory, space, H5P_DEFAULT, to);
  H5Sclose(space);
  H5Sclose(memory);
  return result >= 0;
}

void hdf5_array_write(Hdf5Array *array, int64_t offset, const void *values, int64_t count) {
  if (array->id < 0 || !array_move(array, offset, count, values, NULL)) array->file->failed = true;
}

Status hdf5_array_read(void *values, const Hdf5Array *array, int64_t offset, int64_t count) {
  if (offset >= 0 && count >= 0 && count <= array->count - offset && array_move(array, offset, count, NULL, values)) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: an array in it cannot be read", array->file->path);
}

int64_t hdf5_array_place(const Hdf5Array *array) {
  hid_t properties = H5Dget_create_plist(array->id);
  bool contiguous = H5Pget_layout(properties) == H5D_CONTIGUOUS && H5Pget_external_count(properties) == 0;
  H5Pclose(properties);
  haddr_t place = contiguous ? H5Dget_offset(array->id) : HADDR_UNDEF;
  return place == HADDR_UNDEF ? -1 : (int64_t)place;
}

void hdf5_array_close(Hdf5Array *array) {
  if (array->id >= 0 && H5Dclose(array->id) < 0) array->file->failed = true;
  array->id = -1;
}

static void visit_attribute(Hdf5File *file, hsize_t index, Hdf5Visitor visit, void *argument) {
  enum { TEXT_LIMIT = 4096, NAME_LIMIT = 256 };
  char name[NAME_LIMIT] = "", text[TEXT_LIMIT];
  hid_t attribute = H5Aopen_by_idx(file->id, ".", H5_INDEX_NAME, H5_ITER_INC, index, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute < 0) return;
  H5Aget_name(attribute, sizeof name, name);
  H5Aclose(attribute);
  Hdf5Item item = {.name = name, .kind = HDF5_ITEM_OTHER, .text = text};
  if (hdf5_read_integer(&item.integer, file, name) == STATUS_OK) item.kind = HDF5_ITEM_INTEGER;
  else if (hdf5_read_real(&item.real, file, name) == STATUS_OK) item.kind = HDF5_ITEM_REAL;
  else if (hdf5_read_text(text, sizeof text, file, name) == STATUS_OK) item.kind = HDF5_ITEM_TEXT;
  visit(argument, &item);
}

static void visit_object(Hdf5File *file, hsize_t index, Hdf5Visitor visit, void *argument) {
  enum { NAME_LIMIT = 256 };
  char name[NAME_LIMIT] = "";
  if (H5Lget_name_by_idx(file->id, ".", H5_INDEX_NAME, H5_ITER_INC, index, name, sizeof name, H5P_DEFAULT) < 0) return;
  Hdf5Item item = {.name = name, .kind = HDF5_ITEM_OTHER, .place = -1};
  for (int type = HDF5_F32; type <= HDF5_U8; type++) {
    Hdf5Array array;
    if (hdf5_array_open(&array, file, name, (Hdf5Type)type) != STATUS_OK) continue;
    item.kind = HDF5_ITEM_ARRAY;
    item.type = (Hdf5Type)type;
    item.count = array.count;
    item.place = hdf5_array_place(&array);
    hdf5_array_close(&array);
    break;
  }
  visit(argument, &item);
}

void hdf5_visit(Hdf5File *file, Hdf5Visitor visit, void *argument) {
  H5O_info_t root;
  H5G_info_t links;
  if (H5Oget_info(file->id, &root) >= 0)
    for (hsize_t i = 0; i < root.num_attrs; i++) visit_attribute(file, i, visit, argument);
  if (H5Gget_info(file->id, &links) >= 0)
    for (hsize_t i = 0; i < links.nlinks; i++) visit_object(file, i, visit, argument);
}
