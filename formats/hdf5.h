// HDF5 files of one-dimensional arrays and scalar attributes at the root, through a file driver of our own: HDF5 cannot
// close a file that it could not write (a full disk leaves it open until the process ends, with messages of its own), so
// this driver keeps the first error, lets the library believe that all went well, and hdf5_close tells the caller.
// The same content gives the same bytes: no times are stored. Not for several threads at once.
// Format: The HDF Group, "HDF5 File Format Specification", version 3.0.
#ifndef FORMATS_HDF5_H
#define FORMATS_HDF5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct Hdf5File {
  int64_t id;  // the library's
  char *path;
  int error;  // the first errno of a write
  bool failed;  // the library itself refused a call
  bool writing;
} Hdf5File;

// The file must stay where it is in memory until it is closed. Creating replaces what is at `path`.
Status hdf5_create(Hdf5File *file, const char *path);
Status hdf5_open(Hdf5File *file, const char *path);
// Of a created file: STATUS_NO_SPACE or STATUS_FAILED when anything since hdf5_create went wrong. There is no fsync.
Status hdf5_close(Hdf5File *file);

// Writers keep errors for hdf5_close.
void hdf5_write_integer(Hdf5File *file, const char *name, int64_t value);
void hdf5_write_real(Hdf5File *file, const char *name, double value);
void hdf5_write_text(Hdf5File *file, const char *name, const char *value);
// STATUS_BAD_INPUT when the attribute is not there, is of another kind, or does not fit.
Status hdf5_read_integer(int64_t *value, const Hdf5File *file, const char *name);
Status hdf5_read_real(double *value, const Hdf5File *file, const char *name);
Status hdf5_read_text(char *value, size_t capacity, const Hdf5File *file, const char *name);

typedef enum Hdf5Type { HDF5_F32, HDF5_I32, HDF5_I64, HDF5_U8 } Hdf5Type;

// An array [count], contiguous and little-endian in the file, written and read in pieces.
typedef struct Hdf5Array {
  Hdf5File *file;
  Hdf5Type type;
  int64_t id, count;
} Hdf5Array;

void hdf5_array_create(Hdf5Array *array, Hdf5File *file, const char *name, Hdf5Type type, int64_t count);
void hdf5_array_write(Hdf5Array *array, int64_t offset, const void *values, int64_t count);
// Sets count; STATUS_BAD_INPUT when the array is not there or of another type.
Status hdf5_array_open(Hdf5Array *array, Hdf5File *file, const char *name, Hdf5Type type);
Status hdf5_array_read(void *values, const Hdf5Array *array, int64_t offset, int64_t count);
// Where the elements begin in the file, for who maps it; a multiple of 64 in files that are written here. -1: they do not lie in
// one piece, as of an empty array.
int64_t hdf5_array_place(const Hdf5Array *array);
void hdf5_array_close(Hdf5Array *array);

// What is in a file, for who wants to show it: first the attributes of the root, then its arrays, both by name.
typedef struct Hdf5Item {
  const char *name;
  enum { HDF5_ITEM_INTEGER, HDF5_ITEM_REAL, HDF5_ITEM_TEXT, HDF5_ITEM_ARRAY, HDF5_ITEM_OTHER } kind;  // OTHER: a group, or another type
  int64_t integer;  // of an attribute; and so are the next two
  double real;
  const char *text;
  Hdf5Type type;  // of an array
  int64_t count;
  int64_t place;  // as hdf5_array_place
} Hdf5Item;

typedef void (*Hdf5Visitor)(void *argument, const Hdf5Item *item);
void hdf5_visit(Hdf5File *file, Hdf5Visitor visit, void *argument);

#endif
