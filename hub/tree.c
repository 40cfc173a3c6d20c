// Siblings to files, and the file that keeps them.
#include "hub/tree.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/memory.h"
#include "hub/name.h"

enum { FORMAT_VERSION = 1, TREE_LIMIT = 64 << 20 };

static json_t *file_from_sibling(const json_t *sibling) {
  const json_t *size = json_object_get(sibling, "size"), *lfs = json_object_get(sibling, "lfs");
  const char *blob = json_string_value(json_object_get(sibling, "blobId"));
  if (!json_is_integer(size) || !blob) return NULL;
  json_t *file = json_pack("{s:I, s:s}", "size", json_integer_value(size), "blob_id", blob);
  if (!json_is_object(lfs)) return file;
  const char *digest = json_string_value(json_object_get(lfs, "sha256"));
  json_object_set_new(file, "lfs_sha256", digest ? json_string(digest) : json_null());
  json_object_set_new(file, "lfs_size", json_integer(json_integer_value(json_object_get(lfs, "size"))));
  return file;
}

json_t *hub_tree_from_siblings(const json_t *siblings) {
  json_t *files = json_object(), *sibling;
  size_t i;
  json_array_foreach(siblings, i, sibling) {
    const char *name = json_string_value(json_object_get(sibling, "rfilename"));
    json_t *file = name ? file_from_sibling(sibling) : NULL;
    if (!file || json_object_set_new(files, name, file) != 0) {
      json_decref(files);
      return NULL;
    }
  }
  return files;
}

static char *tree_path(const HubCache *cache, const char *commit) { return memory_format("%s/trees/%s.json", cache->folder, commit); }

Status hub_tree_write(const HubCache *cache, const char *commit, json_t *files) {
  char *path = tree_path(cache, commit), *folder = path_parent(path);
  json_t *tree = json_pack("{s:i, s:O}", "format_version", FORMAT_VERSION, "files", files);
  char *text = json_dumps(tree, JSON_INDENT(1));
  Status status = directory_create(folder);
  if (status == STATUS_OK) status = file_write_whole(path, text, strlen(text));
  free(text);
  json_decref(tree);
  free(folder), free(path);
  return status;
}

bool hub_tree_parse(HubNames *names, const char *text, size_t length) {
  json_t *tree = json_loadb(text, length, 0, NULL), *file;
  const json_t *version = json_object_get(tree, "format_version");
  json_t *files = json_object_get(tree, "files");
  bool good = json_is_integer(version) && json_integer_value(version) == FORMAT_VERSION && json_object_size(files) > 0;
  const char *name;
  json_object_foreach(good ? files : NULL, name, file) {
    if (!hub_file_name_is_safe(name)) good = false;
    else hub_names_add(names, name);
  }
  json_decref(tree);
  if (!good) hub_names_release(names);
  return good;
}

bool hub_tree_read(HubNames *names, const HubCache *cache, const char *commit) {
  char *path = tree_path(cache, commit);
  Buffer text = {0};
  bool good =
      file_exists(path) && file_read(&text, path, TREE_LIMIT) == STATUS_OK && text.data && hub_tree_parse(names, text.data, text.length);
  buffer_release(&text);
  free(path);
  return good;
}
