// Files: mapped reading, and writing that is seen whole or not at all.
#ifndef CORE_FILE_H
#define CORE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/memory.h"
#include "core/status.h"

// A file mapped read-only. An empty file has size 0 and a non-NULL `data`.
typedef struct FileMap {
  const uint8_t *data;
  size_t size;
} FileMap;

Status file_map(FileMap *map, const char *path);
void file_unmap(FileMap *map);
// The whole pages within these bytes of a mapping leave memory, and are read again when they are next touched.
void file_map_forget(const void *data, size_t bytes);

// Appends the whole file to `buffer`; a gzip file (by its first two bytes) is inflated. At most `limit` bytes.
Status file_read(Buffer *buffer, const char *path, size_t limit);

bool file_exists(const char *path);
bool directory_exists(const char *path);
Status file_sync(const char *path);  // fsync
Status directory_create(const char *path);  // with its parents; no error if it is there
Status directory_remove(const char *path);  // with its contents; no error if it is not there
Status directory_sync(const char *path);  // fsync
char *path_join(const char *folder, const char *name);  // a new string; `name` alone when it is absolute or folder is empty
char *path_parent(const char *path);  // a new string; "." when there is none
const char *path_name(const char *path);  // after the last '/'

// Writes `path` through a temporary file beside it: open, write, then commit (flush, fsync, rename)
// or abandon. After a failed write, commit fails too, and `path` is as it was before.
typedef struct FileWriter {
  FILE *stream;
  char *path, *temporary;
  int error;  // the first errno
  uint64_t offset;  // bytes written so far
} FileWriter;

Status file_writer_open(FileWriter *writer, const char *path);
void file_write(FileWriter *writer, const void *bytes, size_t length);  // errors are kept for commit
void file_write_zeros(FileWriter *writer, size_t length);
Status file_writer_commit(FileWriter *writer);
void file_writer_abandon(FileWriter *writer);
Status file_write_whole(const char *path, const void *bytes, size_t length);

// SHA-256 (FIPS 180-4) as 64 hexadecimal digits and a NUL.
void sha256_bytes(char hex[65], const void *bytes, size_t length);
Status sha256_file(char hex[65], const char *path);

#endif
