#define _GNU_SOURCE
#include "core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

Status file_map(FileMap *map, const char *path) {
  *map = (FileMap){0};
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be opened", path);
  struct stat info;
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(file);
    return status_fail(STATUS_BAD_INPUT, "%s: not a regular file", path);
  }
  if (info.st_size == 0) {
    close(file);
    map->data = (const uint8_t *)"";
    return STATUS_OK;
  }
  void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  int error = errno;
  close(file);
  if (data == MAP_FAILED) return status_errno(STATUS_BAD_INPUT, error, "%s: cannot be mapped", path);
  map->data = data;
  map->size = (size_t)info.st_size;
  return STATUS_OK;
}

void file_unmap(FileMap *map) {
  if (map->size) munmap((void *)(uintptr_t)map->data, map->size);
  *map = (FileMap){0};
}

void file_map_forget(const void *data, size_t bytes) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = ((uintptr_t)data + page - 1) / page * page;
  uintptr_t end = ((uintptr_t)data + bytes) / page * page;
  if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

Status file_read(Buffer *buffer, const char *path, size_t limit) {
  struct stat info;
  if (stat(path, &info) != 0) return status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be opened", path);
  if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode) && !S_ISCHR(info.st_mode))
    return status_fail(STATUS_BAD_INPUT, "%s: not a file", path);
  gzFile file = gzopen(path, "rb");  // reads plain files as they are
  if (!file) return status_errno(STATUS_BAD_INPUT, errno ? errno : ENOMEM, "%s: cannot be opened", path);
  gzbuffer(file, 1 << 17);
  Status status = STATUS_OK;
  size_t start = buffer->length;
  for (;;) {
    buffer_reserve(buffer, 1 << 17);
    int got = gzread(file, buffer->data + buffer->length, 1 << 17);
    if (got < 0) {
      int error;
      const char *text = gzerror(file, &error);
      status = status_fail(STATUS_BAD_INPUT, "%s: cannot be read: %s", path, text);
      break;
    }
    buffer->length += (size_t)got;
    buffer->data[buffer->length] = 0;
    if (buffer->length - start > limit) {
      status = status_fail(STATUS_BAD_INPUT, "%s: larger than %zu bytes", path, limit);
      break;
    }
    if (got == 0) break;
  }
  // A gzip stream that ends early reads as its beginning; only closing tells.
  int closed = gzclose_r(file);
  if (status == STATUS_OK && closed != Z_OK) status = status_fail(STATUS_BAD_INPUT, "%s: truncated or damaged gzip data", path);
  return status;
}

bool file_exists(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool directory_exists(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

Status directory_create(const char *path) {
  char *partial = memory_copy_string(path);
  Status status = STATUS_OK;
  for (char *p = partial + 1; status == STATUS_OK && *partial; p++) {
    if (*p != '/' && *p != 0) continue;
    bool last = *p == 0;
    *p = 0;
    if (mkdir(partial, 0777) != 0 && !(errno == EEXIST && directory_exists(partial)))
      status = status_errno(STATUS_FAILED, errno, "%s: cannot create the folder", partial);
    if (last) break;
    *p = '/';
  }
  free(partial);
  return status;
}

Status directory_remove(const char *path) {
  DIR *folder = opendir(path);
  if (!folder) {
    if (errno == ENOENT) return STATUS_OK;
    return status_errno(STATUS_FAILED, errno, "%s: cannot be removed", path);
  }
  Status status = STATUS_OK;
  for (struct dirent *entry; status == STATUS_OK && (entry = readdir(folder));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    char *child = path_join(path, entry->d_name);
    struct stat info;
    if (lstat(child, &info) == 0 && S_ISDIR(info.st_mode)) status = directory_remove(child);
    else if (unlink(child) != 0) status = status_errno(STATUS_FAILED, errno, "%s: cannot be removed", child);
    free(child);
  }
  closedir(folder);
  if (status == STATUS_OK && rmdir(path) != 0) status = status_errno(STATUS_FAILED, errno, "%s: cannot be removed", path);
  return status;
}

Status file_sync(const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return status_errno(STATUS_FAILED, errno, "%s: cannot be opened", path);
  int failed = fsync(file);
  int error = errno;
  close(file);
  return failed ? status_errno(STATUS_FAILED, error, "%s: fsync", path) : STATUS_OK;
}

Status directory_sync(const char *path) {
  int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return status_errno(STATUS_FAILED, errno, "%s: cannot be opened", path);
  int failed = fsync(folder);
  int error = errno;
  close(folder);
  // Some file systems do not know fsync of a folder; there is nothing better to ask them for.
  if (failed && error != EINVAL && error != EROFS) return status_errno(STATUS_FAILED, error, "%s: fsync", path);
  return STATUS_OK;
}

char *path_join(const char *folder, const char *name) {
  if (name[0] == '/' || !folder || !folder[0]) return memory_copy_string(name);
  size_t length = strlen(folder);
  return memory_format(folder[length - 1] == '/' ? "%s%s" : "%s/%s", folder, name);
}

char *path_parent(const char *path) {
  const char *slash = strrchr(path, '/');
  if (!slash) return memory_copy_string(".");
  if (slash == path) return memory_copy_string("/");
  return memory_format("%.*s", (int)(slash - path), path);
}

const char *path_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

Status file_writer_open(FileWriter *writer, const char *path) {
  *writer = (FileWriter){.path = memory_copy_string(path), .temporary = memory_format("%s.partial-%ld", path, (long)getpid())};
  writer->stream = fopen(writer->temporary, "wbe");
  if (writer->stream) return STATUS_OK;
  Status status = status_errno(STATUS_FAILED, errno, "%s: cannot be written", path);
  free(writer->path);
  free(writer->temporary);
  *writer = (FileWriter){0};
  return status;
}

void file_write(FileWriter *writer, const void *bytes, size_t length) {
  writer->offset += length;
  if (writer->error || length == 0) return;
  if (fwrite(bytes, 1, length, writer->stream) != length) writer->error = errno ? errno : EIO;
}

void file_write_zeros(FileWriter *writer, size_t length) {
  static const char zeros[4096];
  for (; length > sizeof zeros; length -= sizeof zeros) file_write(writer, zeros, sizeof zeros);
  file_write(writer, zeros, length);
}

static void file_writer_close(FileWriter *writer) {
  if (writer->stream && fclose(writer->stream) != 0 && !writer->error) writer->error = errno;
  writer->stream = NULL;
}

void file_writer_abandon(FileWriter *writer) {
  if (!writer->path) return;
  file_writer_close(writer);
  unlink(writer->temporary);
  free(writer->path);
  free(writer->temporary);
  *writer = (FileWriter){0};
}

Status file_writer_commit(FileWriter *writer) {
  if (!writer->error && (fflush(writer->stream) != 0 || fsync(fileno(writer->stream)) != 0)) writer->error = errno;
  file_writer_close(writer);
  if (!writer->error && rename(writer->temporary, writer->path) != 0) writer->error = errno;
  Status status = STATUS_OK;
  if (writer->error)
    status = status_errno(STATUS_FAILED, writer->error, "%s: cannot be written (what was there before is untouched)", writer->path);
  file_writer_abandon(writer);  // after a rename there is no temporary file left to remove
  return status;
}

Status file_write_whole(const char *path, const void *bytes, size_t length) {
  FileWriter writer;
  TRY(file_writer_open(&writer, path));
  file_write(&writer, bytes, length);
  return file_writer_commit(&writer);
}

static void digest_print(char hex[65], const unsigned char digest[32]) {
  for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void sha256_bytes(char hex[65], const void *bytes, size_t length) {
  unsigned char digest[32];
  EVP_Digest(bytes, length, digest, NULL, EVP_sha256(), NULL);
  digest_print(hex, digest);
}

// Read in pieces: a mapped file would count as this process's memory.
Status sha256_file(char hex[65], const char *path) {
  FILE *file = fopen(path, "rbe");
  if (!file) return status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be opened", path);
  EVP_MD_CTX *digester = EVP_MD_CTX_new();
  EVP_DigestInit_ex(digester, EVP_sha256(), NULL);
  enum { PIECE = 1 << 18 };
  void *piece = memory_new(1, PIECE);
  for (size_t got; (got = fread(piece, 1, PIECE, file)) > 0;) EVP_DigestUpdate(digester, piece, got);
  Status status = STATUS_OK;
  if (ferror(file)) status = status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be read", path);
  unsigned char digest[32];
  EVP_DigestFinal_ex(digester, digest, NULL);
  digest_print(hex, digest);
  EVP_MD_CTX_free(digester);
  free(piece);
  fclose(file);
  return status;
}
