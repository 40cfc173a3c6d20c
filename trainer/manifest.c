// {"format": "lora.c checkpoint", "version": 1, "files": {NAME: {"size": BYTES, "sha256": HEX}, ...}}, names in byte order,
// one line a file. Verifying reads it as JSON, prints what it read canonically, and compares that with the file's bytes.
#include "trainer/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/memory.h"

enum { MANIFEST_VERSION = 1, MANIFEST_LIMIT = 1 << 20 };
static const char manifest_format[] = "lora.c checkpoint";
static const char manifest_name[] = "manifest.json";

typedef struct ManifestFile {
  char *name;
  int64_t size;
  char sha256[65];
} ManifestFile;

typedef struct Manifest {
  ManifestFile *files;
  int count, capacity;
} Manifest;

static void manifest_release(Manifest *manifest) {
  for (int i = 0; i < manifest->count; i++) free(manifest->files[i].name);
  free(manifest->files);
}

static int compare_names(const void *a, const void *b) { return strcmp(((const ManifestFile *)a)->name, ((const ManifestFile *)b)->name); }

// What needs no escape in JSON, and cannot leave the folder.
static bool name_is_plain(const char *name) {
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.";
  return name[0] != '.' && name[0] && name[strspn(name, letters)] == 0;
}

static void manifest_print(Buffer *out, Manifest *manifest) {
  if (manifest->count) qsort(manifest->files, (size_t)manifest->count, sizeof *manifest->files, compare_names);
  buffer_format(out, "{\n  \"format\": \"%s\",\n  \"version\": %d,\n  \"files\": {", manifest_format, MANIFEST_VERSION);
  for (int i = 0; i < manifest->count; i++) {
    const ManifestFile *file = &manifest->files[i];
    buffer_format(out, "%s\n    \"%s\": {\"size\": %lld, \"sha256\": \"%s\"}", i ? "," : "", file->name, (long long)file->size,
                  file->sha256);
  }
  buffer_append_string(out, "\n  }\n}\n");
}

// Its name is the caller's until all else is known.
static Status file_measure(ManifestFile *file, const char *path) {
  struct stat info;
  if (lstat(path, &info) != 0) return status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be read", path);
  if (!S_ISREG(info.st_mode)) return status_fail(STATUS_BAD_INPUT, "%s: not a regular file", path);
  file->size = info.st_size;
  return sha256_file(file->sha256, path);
}

static Status folder_measure(Manifest *manifest, const char *folder) {
  DIR *listing = opendir(folder);
  if (!listing) return status_errno(STATUS_FAILED, errno, "%s: cannot be read", folder);
  Status status = STATUS_OK;
  for (struct dirent *entry; status == STATUS_OK && (entry = readdir(listing));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    char *path = path_join(folder, entry->d_name);
    ManifestFile file = {0};
    if (!name_is_plain(entry->d_name)) status = status_fail(STATUS_FAILED, "%s: a checkpoint cannot hold a file of that name", path);
    else status = file_sync(path);
    if (status == STATUS_OK) status = file_measure(&file, path);
    free(path);
    if (status != STATUS_OK) break;
    file.name = memory_copy_string(entry->d_name);
    ARRAY_PUSH(manifest->files, manifest->count, manifest->capacity) = file;
  }
  closedir(listing);
  return status;
}

Status manifest_write(const char *folder) {
  Manifest manifest = {0};
  Buffer text = {0};
  char *path = path_join(folder, manifest_name);
  Status status = folder_measure(&manifest, folder);
  if (status == STATUS_OK) {
    manifest_print(&text, &manifest);
    status = file_write_whole(path, text.data, text.length);
  }
  free(path);
  buffer_release(&text);
  manifest_release(&manifest);
  return status;
}

static Status manifest_parse(Manifest *manifest, const Buffer *text, const char *path) {
  json_t *root = json_loadb(text->data ? text->data : "", text->length, JSON_REJECT_DUPLICATES, NULL);
  const char *format = json_string_value(json_object_get(root, "format")), *name;
  json_t *version = json_object_get(root, "version"), *files = json_object_get(root, "files"), *entry;
  Status status = STATUS_OK;
  if (!format || strcmp(format, manifest_format) != 0 || !json_is_object(files)) {
    status = status_fail(STATUS_BAD_INPUT, "%s: damaged, or not the manifest of a checkpoint", path);
  } else if (json_integer_value(version) != MANIFEST_VERSION) {
    status = status_fail(STATUS_BAD_INPUT, "%s: a checkpoint of format version %lld; this program reads version %d", path,
                         (long long)json_integer_value(version), MANIFEST_VERSION);
  } else {
    json_object_foreach(files, name, entry) {
      const char *hash = json_string_value(json_object_get(entry, "sha256"));
      if (!name_is_plain(name) || !hash || strlen(hash) != 64) {
        status = status_fail(STATUS_BAD_INPUT, "%s: damaged", path);
        break;
      }
      ManifestFile file = {.name = memory_copy_string(name), .size = json_integer_value(json_object_get(entry, "size"))};
      memcpy(file.sha256, hash, sizeof file.sha256);
      ARRAY_PUSH(manifest->files, manifest->count, manifest->capacity) = file;
    }
  }
  json_decref(root);
  return status;
}

static Status manifest_read(Manifest *manifest, const char *folder) {
  char *path = path_join(folder, manifest_name);
  Buffer text = {0}, canonical = {0};
  Status status;
  if (!file_exists(path)) status = status_fail(STATUS_BAD_INPUT, "%s: missing, so the checkpoint was never finished", path);
  else status = file_read(&text, path, MANIFEST_LIMIT);
  if (status == STATUS_OK) status = manifest_parse(manifest, &text, path);
  if (status == STATUS_OK) {
    manifest_print(&canonical, manifest);
    if (canonical.length != text.length || memcmp(canonical.data, text.data, text.length) != 0)
      status = status_fail(STATUS_BAD_INPUT, "%s: damaged", path);
  }
  buffer_release(&text);
  buffer_release(&canonical);
  free(path);
  return status;
}

static Status file_verify(const ManifestFile *expected, const char *folder) {
  ManifestFile actual = {0};
  char *path = path_join(folder, expected->name);
  Status status = file_measure(&actual, path);
  if (status == STATUS_OK && actual.size != expected->size)
    status =
        status_fail(STATUS_BAD_INPUT, "%s: %lld bytes where %lld were written", path, (long long)actual.size, (long long)expected->size);
  else if (status == STATUS_OK && strcmp(actual.sha256, expected->sha256) != 0)
    status = status_fail(STATUS_BAD_INPUT, "%s: damaged (its SHA-256 is not the manifest's)", path);
  free(path);
  return status;
}

Status manifest_verify(const char *folder, bool *has_state) {
  Manifest manifest = {0};
  if (has_state) *has_state = false;
  Status status = manifest_read(&manifest, folder);
  for (int i = 0; status == STATUS_OK && i < manifest.count; i++) {
    status = file_verify(&manifest.files[i], folder);
    if (has_state && strcmp(manifest.files[i].name, "state.h5") == 0) *has_state = true;
  }
  manifest_release(&manifest);
  return status;
}
