// Split GGUF files, as llama.cpp's gguf-split and gguf-py write them: PREFIX-00001-of-0000N.gguf and so on, each a GGUF file with
//   split.no             its number, from 0
//   split.count          N
//   split.tensors.count  the tensors of all N files together
// All other metadata is in the first file, which may have no tensors of its own.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/shard_name.h"
#include "core/text.h"
#include "formats/gguf_parts.h"

#define FETCH_ALL "fetch all files of the split model again, from one place"

static Status read_split_key(int64_t *value, const Gguf *gguf, const char *key, int64_t maximum) {
  if (gguf_get_integer(gguf, key, value) && *value >= 0 && *value <= maximum) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: key '%s' of a split model is missing or no integer from 0 to %" PRId64 "; " FETCH_ALL,
                     gguf->path, key, maximum);
}

// The keys of one part agree with what the first says, and with its number.
static Status check_part(const Gguf *part, int64_t number, int64_t count, int64_t tensors) {
  int64_t part_number, part_count, part_tensors;
  TRY(read_split_key(&part_number, part, "split.no", SHARDS_MAX - 1));
  TRY(read_split_key(&part_count, part, "split.count", SHARDS_MAX));
  TRY(read_split_key(&part_tensors, part, "split.tensors.count", GGUF_MAXIMUM_TENSORS));
  if (part_number == number && part_count == count && part_tensors == tensors) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT,
                     "%s: says that it is part %" PRId64 " of %" PRId64 " with %" PRId64 " tensors in all, where part %" PRId64
                     " of %" PRId64 " with %" PRId64 " belongs; " FETCH_ALL,
                     part->path, part_number + 1, part_count, part_tensors, number + 1, count, tensors);
}

// `gguf` is what the user gave: it must be the first part, and its name must lead to the others.
static Status check_first(ShardName *shard, const Gguf *gguf, int64_t count) {
  int64_t number;
  TRY(read_split_key(&number, gguf, "split.no", SHARDS_MAX - 1));
  bool is_named = shard_name_parse(shard, gguf->path);
  if (!is_named)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: part %" PRId64 " of a model in %" PRId64 " files, and its name does not end in -%05" PRId64 "-of-%05" PRId64
                       ".gguf, by which the others are found; give the files their names back",
                       gguf->path, number + 1, count, number + 1, count);
  if (shard->number != number + 1 || shard->count != count)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: its name says part %d of %d and its keys part %" PRId64 " of %" PRId64 "; give the file its name back",
                       gguf->path, shard->number, shard->count, number + 1, count);
  if (number == 0) return STATUS_OK;
  char *first = shard_name_make(shard, gguf->path, 1);
  Status status = status_fail(STATUS_BAD_INPUT, "%s: part %" PRId64 " of a model in %" PRId64 " files; give the first: %s", gguf->path,
                              number + 1, count, first);
  free(first);
  return status;
}

// Every missing file by its name, so that one fetch will do.
static Status check_files(char *const *paths, int64_t count) {
  Buffer missing = {0};
  for (int64_t i = 1; i < count; i++)
    if (!file_exists(paths[i])) buffer_format(&missing, "%s%s", missing.length ? ", " : "", path_name(paths[i]));
  Status status = STATUS_OK;
  if (missing.length)
    status = status_fail(STATUS_BAD_INPUT, "%s: a model in %" PRId64 " files, of which these are not beside it: %s; " FETCH_ALL, paths[0],
                         count, missing.data);
  buffer_release(&missing);
  return status;
}

// Appends the part's tensors, whose names the part's arena holds, to the whole's.
static Status take_tensors(Gguf *gguf, const Gguf *part, int64_t tensors) {
  if (part->tensor_count > tensors - gguf->tensor_count)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: with its tensors there are more than the %" PRId64 " of key 'split.tensors.count'; " FETCH_ALL, part->path,
                       tensors);
  for (int64_t i = 0; i < part->tensor_count; i++) {
    GgufTensor tensor = part->tensors[i];
    if (gguf_find_tensor(gguf, tensor.name))
      return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' is in a part before it as well; " FETCH_ALL, part->path, tensor.name);
    tensor.name = arena_copy_string(&gguf->arena, tensor.name);
    map_set_string(&gguf->tensor_index, tensor.name, gguf->tensor_count);
    gguf->tensors[gguf->tensor_count++] = tensor;
  }
  return STATUS_OK;
}

static Status add_part(Gguf *gguf, int number, int64_t count, int64_t tensors) {
  FileMap *map = &gguf->shard_maps[number];
  Gguf part = {.path = memory_copy_string(gguf->shard_paths[number])};
  Status status = file_map(map, part.path);
  if (status == STATUS_OK) status = gguf_parse_header(&part, map->data, map->size);
  if (status == STATUS_OK) status = check_part(&part, number, count, tensors);
  if (status == STATUS_OK) status = take_tensors(gguf, &part, tensors);
  gguf_close(&part);
  return status;
}

static Status add_parts(Gguf *gguf, int64_t count) {
  ShardName shard;
  int64_t tensors;
  TRY(check_first(&shard, gguf, count));
  TRY(read_split_key(&tensors, gguf, "split.tensors.count", GGUF_MAXIMUM_TENSORS));
  gguf->shard_paths = memory_new((size_t)count, sizeof *gguf->shard_paths);
  gguf->shard_maps = memory_new((size_t)count, sizeof *gguf->shard_maps);
  gguf->shard_count = (int)count;
  for (int i = 0; i < gguf->shard_count; i++) gguf->shard_paths[i] = shard_name_make(&shard, gguf->path, i + 1);
  TRY(check_files(gguf->shard_paths, count));
  if (gguf->tensor_count > tensors)
    return status_fail(STATUS_BAD_INPUT, "%s: has more tensors than the %" PRId64 " of key 'split.tensors.count'; " FETCH_ALL, gguf->path,
                       tensors);
  const GgufTensor *own = gguf->tensors;
  gguf->tensors = arena_new(&gguf->arena, (size_t)tensors, sizeof *gguf->tensors);
  if (gguf->tensor_count) memcpy(gguf->tensors, own, (size_t)gguf->tensor_count * sizeof *own);
  for (int i = 1; i < gguf->shard_count; i++) TRY(add_part(gguf, i, count, tensors));
  if (gguf->tensor_count == tensors) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT,
                     "%s: its %" PRId64 " files hold %" PRId64 " tensors, and key 'split.tensors.count' says %" PRId64 "; " FETCH_ALL,
                     gguf->path, count, gguf->tensor_count, tensors);
}

// Who reads or copies the keys sees those of one whole file.
static void forget_split_keys(Gguf *gguf) {
  int64_t kept = 0;
  map_release(&gguf->value_index);
  for (int64_t i = 0; i < gguf->value_count; i++) {
    if (text_starts_with(gguf->values[i].key, "split.")) continue;
    gguf->values[kept] = gguf->values[i];
    map_set_string(&gguf->value_index, gguf->values[kept].key, kept);
    kept++;
  }
  gguf->value_count = kept;
}

Status gguf_add_shards(Gguf *gguf) {
  int64_t count;
  if (!gguf_find(gguf, "split.count")) return STATUS_OK;
  TRY(read_split_key(&count, gguf, "split.count", SHARDS_MAX));
  if (count > 1) TRY(add_parts(gguf, count));  // gguf-split --merge leaves a count of 0
  forget_split_keys(gguf);
  return STATUS_OK;
}
