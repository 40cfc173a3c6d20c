// The HDF5 file driver behind formats/hdf5.h: plain POSIX files whose write errors are remembered, not returned.
#ifndef FORMATS_HDF5_DRIVER_H
#define FORMATS_HDF5_DRIVER_H

#include <stdint.h>

// A file access property list (the caller closes it) whose files leave their first errno in *error; negative on failure.
int64_t hdf5_driver_access(int *error);

#endif
