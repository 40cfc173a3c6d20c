// Opening what a path means: a file, a folder, or model.safetensors.index.json,
//   {"metadata": {..}, "weight_map": {TENSOR: FILE, ..}}
// whose files lie beside it. The index and the files must name the same tensors in the same places.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/safetensors_parts.h"

enum { MAXIMUM_INDEX = 100000000, MAXIMUM_SHARDS = 4096, MAXIMUM_NAME = 1024, MAXIMUM_OTHER = 1 << 20 };

#define INDEX_REMEDY "the index is damaged or of another model: fetch it again together with its files"

static Status open_file(SafetensorsParse *parse, const char *path) {
  FileMap map;
  TRY(file_map(&map, path));
  Status status = safetensors_parse_file(parse, path, map.data, map.size);
  parse->out->maps[parse->out->path_count - 1] = map;
  return status;
}

typedef struct Index {
  const char *path;
  Map files;  // file name -> its number
  Map tensors;  // tensor -> the number of its file
} Index;

static Status open_shard(SafetensorsParse *parse, Index *index, const char *file) {
  // An index must not reach outside its own folder.
  if (strchr(file, '/') || file[0] == '.' || !text_ends_with(file, ".safetensors") || !text_is_printable(file, strlen(file)))
    return status_fail(STATUS_BAD_INPUT, "%s: 'weight_map' names '%.128s', which is no .safetensors file beside it; " INDEX_REMEDY,
                       index->path, file);
  if (index->files.count == MAXIMUM_SHARDS)
    return status_fail(STATUS_BAD_INPUT, "%s: 'weight_map' names more than %d files; " INDEX_REMEDY, index->path, MAXIMUM_SHARDS);
  map_set_string(&index->files, file, (int64_t)index->files.count);
  char *folder = path_parent(index->path), *path = path_join(folder, file);
  Status status = open_file(parse, path);
  free(folder);
  free(path);
  return status_context(status, "%s", index->path);
}

static Status add_index_entry(SafetensorsParse *parse, Index *index, const char *name, const char *file) {
  if (!name || !file)
    return status_fail(STATUS_BAD_INPUT, "%s: 'weight_map' does not map tensor names to file names; " INDEX_REMEDY, index->path);
  if (map_get_string(&index->tensors, name, NULL))
    return status_fail(STATUS_BAD_INPUT, "%s: 'weight_map' names tensor '%.128s' twice; " INDEX_REMEDY, index->path, name);
  int64_t number;
  if (!map_get_string(&index->files, file, &number)) {
    TRY(open_shard(parse, index, file));
    number = parse->out->path_count - 1;
  }
  map_set_string(&index->tensors, name, number);
  const SafetensorsTensor *tensor = safetensors_find(parse->out, name);
  if (!tensor || tensor->file != number)
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%.128s' is not in '%.128s', where 'weight_map' has it; " INDEX_REMEDY, index->path,
                       name, file);
  return STATUS_OK;
}

static Status read_weight_map(SafetensorsParse *parse, Index *index, JsonText object) {
  JsonScan scan = json_scan(object);
  JsonText key, value;
  while (json_scan_next(&scan, &key, &value)) {
    char *name = safetensors_json_string(key, MAXIMUM_NAME + 2), *file = safetensors_json_string(value, MAXIMUM_NAME);
    Status status = add_index_entry(parse, index, name, file);
    free(name);
    free(file);
    TRY(status);
  }
  if (scan.is_malformed) return status_fail(STATUS_BAD_INPUT, "%s: 'weight_map' is no valid JSON object; " INDEX_REMEDY, index->path);
  return STATUS_OK;
}

static Status read_index(SafetensorsParse *parse, Index *index, JsonText text) {
  JsonScan scan = json_scan(text);
  JsonText key, value;
  const char weight_map[] = "\"weight_map\"";
  bool has_map = false;
  while (json_scan_next(&scan, &key, &value)) {
    if (key.length == sizeof weight_map - 1 && memcmp(key.data, weight_map, key.length) == 0) {
      if (has_map) return status_fail(STATUS_BAD_INPUT, "%s: 'weight_map' is there twice; " INDEX_REMEDY, index->path);
      has_map = true;
      TRY(read_weight_map(parse, index, value));
      continue;
    }
    json_t *other = json_text_load(value, MAXIMUM_OTHER);
    if (!other)
      return status_fail(STATUS_BAD_INPUT, "%s: key %.*s is no valid JSON; " INDEX_REMEDY, index->path,
                         (int)(key.length < 64 ? key.length : 64), key.data);
    json_decref(other);
  }
  if (scan.is_malformed) return status_fail(STATUS_BAD_INPUT, "%s: not a valid JSON object; " INDEX_REMEDY, index->path);
  if (index->tensors.count == 0) return status_fail(STATUS_BAD_INPUT, "%s: no 'weight_map' with tensors in it; " INDEX_REMEDY, index->path);
  for (int64_t i = 0; i < parse->out->tensor_count; i++) {
    const SafetensorsTensor *tensor = &parse->out->tensors[i];
    if (!map_get_string(&index->tensors, tensor->name, NULL))
      return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' of '%s' is not in 'weight_map'; " INDEX_REMEDY, index->path, tensor->name,
                         parse->out->paths[tensor->file]);
  }
  return STATUS_OK;
}

static Status open_index(SafetensorsParse *parse, const char *path) {
  FileMap map;
  TRY(file_map(&map, path));
  Index index = {.path = path};
  Status status = map.size > MAXIMUM_INDEX ? status_fail(STATUS_BAD_INPUT, "%s: larger than %d bytes; " INDEX_REMEDY, path, MAXIMUM_INDEX)
                                           : read_index(parse, &index, (JsonText){(const char *)map.data, map.size});
  map_release(&index.files);
  map_release(&index.tensors);
  file_unmap(&map);
  return status;
}

static Status open_folder(SafetensorsParse *parse, const char *folder) {
  static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
  static const char *const refused[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.onnx"};
  for (int i = 0; i < 2; i++) {
    char *path = path_join(folder, names[i]);
    bool is_there = file_exists(path);
    Status status = is_there ? (i == 0 ? open_file : open_index)(parse, path) : STATUS_OK;
    free(path);
    if (is_there) return status;
  }
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    char *path = path_join(folder, refused[i]);
    bool is_there = file_exists(path);
    free(path);
    if (is_there)
      return status_fail(STATUS_BAD_INPUT,
                         "%s: holds only %s, which is not read (a PyTorch checkpoint can run code); convert it to safetensors "
                         "(transformers: model.save_pretrained(FOLDER, safe_serialization=True))",
                         folder, refused[i]);
  }
  return status_fail(STATUS_BAD_INPUT,
                     "%s: holds neither model.safetensors nor model.safetensors.index.json; give the folder of a Hugging Face model",
                     folder);
}

Status safetensors_examine(Safetensors *out, const char *path) {
  *out = (Safetensors){0};
  SafetensorsParse parse = {.out = out};
  return directory_exists(path)                ? open_folder(&parse, path)
         : text_ends_with(path, ".index.json") ? open_index(&parse, path)
                                               : open_file(&parse, path);
}

Status safetensors_open(Safetensors *out, const char *path) {
  Status status = safetensors_examine(out, path);
  if (status != STATUS_OK) safetensors_close(out);
  return status;
}
