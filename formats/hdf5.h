// HDF5 files of float32 arrays and scalar attributes at the root, through a file driver of our own: HDF5 cannot
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

// An array [count] f32, written and read in pieces.
typedef struct Hdf5Array {
  Hdf5File *file;
  int64_t id, count;
} Hdf5Array;

void hdf5_array_create(Hdf5Array *array, Hdf5File *file, const char *name, int64_t count);
void hdf5_array_write(Hdf5Array *array, int64_t offset, const float *values, int64_t count);
Status hdf5_array_open(Hdf5Array *array, Hdf5File *file, const char *name);  // sets count
Status hdf5_array_read(float *values, const Hdf5Array *array, int64_t offset, int64_t count);
void hdf5_array_close(Hdf5Array *array);

#endif
