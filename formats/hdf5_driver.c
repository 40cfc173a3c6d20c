// A virtual file driver for HDF5 (the library's "VFL", H5FD_class_t). Addresses are offsets in one POSIX file; bytes beyond
// its end read as zeros. After the first failed write nothing more is written.
#include "formats/hdf5_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h>  // where HDF5 1.14 keeps what drivers need
#endif

#include "core/memory.h"

typedef struct DriverInfo {
  int *error;
} DriverInfo;

typedef struct DriverFile {
  H5FD_t base;  // the library's part, which comes first
  int descriptor;
  int *error;
  haddr_t allocated, end;  // as the library believes them to be
} DriverFile;

static void keep_error(const DriverFile *file, int error) {
  if (*file->error == 0) *file->error = error ? error : EIO;
}

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t most) {
  (void)most;
  const DriverInfo *info = H5Pget_driver_info(access);
  int mode = flags & H5F_ACC_RDWR ? O_RDWR : O_RDONLY;
  if (flags & H5F_ACC_TRUNC) mode |= O_TRUNC;
  if (flags & H5F_ACC_CREAT) mode |= O_CREAT;
  int descriptor = open(name, mode | O_CLOEXEC, 0666);
  struct stat status;
  if (descriptor < 0 || fstat(descriptor, &status) != 0) {
    *info->error = errno;
    if (descriptor >= 0) close(descriptor);
    return NULL;
  }
  DriverFile *file = memory_new(1, sizeof *file);
  file->descriptor = descriptor;
  file->error = info->error;
  file->end = (haddr_t)status.st_size;
  return &file->base;
}

static herr_t driver_close(H5FD_t *base) {
  DriverFile *file = (DriverFile *)base;
  if (close(file->descriptor) != 0) keep_error(file, errno);
  free(file);
  return 0;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *features) {
  (void)base;
  *features = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE | H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

static haddr_t driver_get_allocated(const H5FD_t *base, H5FD_mem_t type) {
  (void)type;
  return ((const DriverFile *)base)->allocated;
}

static herr_t driver_set_allocated(H5FD_t *base, H5FD_mem_t type, haddr_t address) {
  (void)type;
  ((DriverFile *)base)->allocated = address;
  return 0;
}

static haddr_t driver_get_end(const H5FD_t *base, H5FD_mem_t type) {
  (void)type;
  return ((const DriverFile *)base)->end;
}

static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size, void *buffer) {
  (void)type, (void)transfer;
  const DriverFile *file = (const DriverFile *)base;
  char *to = buffer;
  while (size > 0) {
    ssize_t got = pread(file->descriptor, to, size, (off_t)address);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      keep_error(file, errno);
      return -1;
    }
    if (got == 0) {
      memset(to, 0, size);
      break;
    }
    to += got, address += (haddr_t)got, size -= (size_t)got;
  }
  return 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size, const void *buffer) {
  (void)type, (void)transfer;
  DriverFile *file = (DriverFile *)base;
  if (address + size > file->end) file->end = address + size;
  for (const char *from = buffer; size > 0 && *file->error == 0;) {
    ssize_t put = pwrite(file->descriptor, from, size, (off_t)address);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) keep_error(file, put < 0 ? errno : EIO);
    else from += put, address += (haddr_t)put, size -= (size_t)put;
  }
  return 0;
}

static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t closing) {
  (void)transfer, (void)closing;
  DriverFile *file = (DriverFile *)base;
  if (file->end == file->allocated) return 0;
  if (*file->error == 0 && ftruncate(file->descriptor, (off_t)file->allocated) != 0) keep_error(file, errno);
  file->end = file->allocated;
  return 0;
}

int64_t hdf5_driver_access(int *error) {
  static const H5FD_class_t driver = {
#ifdef H5FD_CLASS_VERSION
      .version = H5FD_CLASS_VERSION,
      .value = (H5FD_class_value_t)600,
#endif
      .name = "lora",
      .maxaddr = ((haddr_t)1 << 62),
      .fc_degree = H5F_CLOSE_STRONG,
      .fapl_size = sizeof(DriverInfo),
      .open = driver_open,
      .close = driver_close,
      .query = driver_query,
      .get_eoa = driver_get_allocated,
      .set_eoa = driver_set_allocated,
      .get_eof = driver_get_end,
      .read = driver_read,
      .write = driver_write,
      .truncate = driver_truncate,
  };
  static hid_t registered = -1;
  if (registered < 0) registered = H5FDregister(&driver);
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  DriverInfo info = {.error = error};
  if (registered < 0 || access < 0 || H5Pset_driver(access, registered, &info) < 0) return -1;
  H5Pset_alignment(access, 1, 64);  // so that arrays can be mapped
  // This form has checksums over all that is not array data: the library is not safe against damage that it does not notice.
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  return access;
}
