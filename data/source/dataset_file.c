// Reading of dataset files: finding rows without parsing them, paths of a dataset, slices of a split.
#include "data/source/dataset_file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"

static const size_t FILE_LIMIT = (size_t)1 << 36;

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static void add_row(DatasetFile *file, size_t begin, size_t end, int64_t line) {
  while (end > begin && is_space(file->text.data[end - 1])) end--;
  if (end > begin) ARRAY_PUSH(file->rows, file->count, file->capacity) = (RowPlace){begin, end - begin, line};
}

static void scan_lines(DatasetFile *file, size_t at) {
  const char *text = file->text.data;
  for (int64_t line = 1; at < file->text.length; line++) {
    const char *end = memchr(text + at, '\n', file->text.length - at);
    size_t next = end ? (size_t)(end - text) : file->text.length;
    size_t begin = at;
    while (begin < next && is_space(text[begin])) begin++;
    add_row(file, begin, next, line);
    at = next + 1;
  }
}

// Where the value at `at` ends: at the first ',' or ']' outside of strings and brackets.
static size_t element_end(const char *text, size_t at, size_t length, int64_t *line) {
  int64_t depth = 0;
  bool quoted = false;
  for (; at < length; at++) {
    char c = text[at];
    *line += c == '\n';
    if (quoted) {
      if (c == '\\') at++;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (depth == 0 && (c == ',' || c == ']')) {
      return at;
    } else if (c == '}' || c == ']') {
      depth--;
    }
  }
  return length;
}

static Status scan_array(DatasetFile *file, size_t at) {
  const char *text = file->text.data;
  size_t length = file->text.length;
  int64_t line = 1;
  for (size_t i = 0; i <= at; i++) line += text[i] == '\n';
  for (at++;;) {
    for (; at < length && is_space(text[at]); at++) line += text[at] == '\n';
    if (at < length && text[at] == ']') break;
    int64_t first = line;
    size_t end = element_end(text, at, length, &line);
    if (end >= length)
      return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": the list of rows does not end; the file may be cut short", file->path, first);
    add_row(file, at, end, first);
    if (end == at) return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": a row is missing before ','", file->path, first);
    at = end + (text[end] == ',');
  }
  for (at++; at < length; at++)
    if (!is_space(text[at]))
      return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": something stands behind the list of rows", file->path, line);
  return STATUS_OK;
}

static Status dataset_file_scan(DatasetFile *file) {
  size_t at = file->text.length >= 3 && memcmp(file->text.data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
  size_t first = at;
  while (first < file->text.length && is_space(file->text.data[first])) first++;
  if (first < file->text.length && file->text.data[first] == '[') return scan_array(file, first);
  scan_lines(file, at);
  return STATUS_OK;
}

Status dataset_file_open(DatasetFile *file, const char *path) {
  *file = (DatasetFile){.path = memory_copy_string(path)};
  buffer_reserve(&file->text, 0);
  Status status = file_read(&file->text, path, FILE_LIMIT);
  if (status == STATUS_OK) status = dataset_file_scan(file);
  if (status != STATUS_OK) dataset_file_release(file);
  return status;
}

Status dataset_file_parse(DatasetFile *file, const char *path, const char *text, size_t length) {
  *file = (DatasetFile){.path = memory_copy_string(path)};
  buffer_append(&file->text, text, length);
  Status status = dataset_file_scan(file);
  if (status != STATUS_OK) dataset_file_release(file);
  return status;
}

void dataset_file_release(DatasetFile *file) {
  free(file->path);
  buffer_release(&file->text);
  free(file->rows);
  *file = (DatasetFile){0};
}

Status dataset_file_row(json_t **row, const DatasetFile *file, int64_t index) {
  const RowPlace *place = &file->rows[index];
  json_error_t error;
  *row = json_loadb(file->text.data + place->begin, place->length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
  if (*row) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "not JSON: %s", error.text);
}

// ---- Paths

static int compare_paths(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char *resolve_path(const char *path, const Recipe *recipe) {
  if (path[0] == '/' || file_exists(path) || directory_exists(path) || !recipe->path) return memory_copy_string(path);
  char *folder = path_parent(recipe->path), *beside = path_join(folder, path);
  free(folder);
  if (file_exists(beside) || directory_exists(beside)) return beside;
  free(beside);
  return memory_copy_string(path);
}

static bool is_data_name(const char *name) {
  static const char *const endings[] = {".json", ".jsonl", ".json.gz", ".jsonl.gz"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
    if (text_ends_with(name, endings[i])) return name[0] != '.';
  return false;
}

static Status refuse_kind(const char *path, const char *kind) {
  return status_fail(STATUS_BAD_INPUT,
                     "%s: %s files are not read; write its rows as JSON lines, as Python's `datasets` does: "
                     "load_dataset(\"%s\", data_files=\"%s\")[\"train\"].to_json(\"rows.jsonl\")",
                     path, kind, kind, path);
}

static Status check_kind(const char *path, const DatasetRecipe *dataset) {
  static const char *const kinds[] = {"parquet", "arrow", "csv", "text"};
  static const char *const endings[] = {".parquet", ".arrow", ".csv", ".txt"};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (text_ends_with(path, endings[i]) || (dataset->ds_type && strcmp(dataset->ds_type, kinds[i]) == 0))
      return refuse_kind(path, kinds[i]);
  return STATUS_OK;
}

// The name of a split without its slice: "train" of "train[:5%]".
static size_t split_name_length(const char *split) { return strcspn(split, "[+"); }

// A folder's files; where some bear the split's name, only those.
static Status folder_paths(PathList *paths, const char *folder, const DatasetRecipe *dataset) {
  const char *split = dataset->split ? dataset->split : "train";
  char *name = memory_format("%.*s", (int)split_name_length(split), split);
  DIR *stream = opendir(folder);
  if (!stream) {
    free(name);
    return status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be opened", folder);
  }
  int64_t first = paths->count, named = 0;
  for (struct dirent *entry; (entry = readdir(stream));) {
    if (!is_data_name(entry->d_name)) continue;
    ARRAY_PUSH(paths->items, paths->count, paths->capacity) = path_join(folder, entry->d_name);
    named += strstr(entry->d_name, name) != NULL;
  }
  closedir(stream);
  qsort(paths->items + first, (size_t)(paths->count - first), sizeof *paths->items, compare_paths);
  Status status = STATUS_OK;
  if (paths->count == first) {
    status = status_fail(STATUS_BAD_INPUT, "%s: no .json or .jsonl file is in this folder", folder);
  } else if (named) {
    int64_t kept = first;
    for (int64_t i = first; i < paths->count; i++) {
      if (strstr(path_name(paths->items[i]), name)) paths->items[kept++] = paths->items[i];
      else free(paths->items[i]);
    }
    paths->count = kept;
  } else if (strcmp(name, "train") != 0) {
    status = status_fail(STATUS_BAD_INPUT, "%s: no file in this folder has \"%s\" in its name, which `split` asks for", folder, name);
  }
  free(name);
  return status;
}

static Status add_path(PathList *paths, const char *path, const DatasetRecipe *dataset) {
  if (directory_exists(path)) return folder_paths(paths, path, dataset);
  if (!file_exists(path)) {
    return status_fail(STATUS_BAD_INPUT, "%s: no such file or folder; a dataset of the Hub has to be downloaded first", path);
  }
  TRY(check_kind(path, dataset));
  ARRAY_PUSH(paths->items, paths->count, paths->capacity) = memory_copy_string(path);
  return STATUS_OK;
}

Status dataset_paths(PathList *paths, const DatasetRecipe *dataset, const Recipe *recipe) {
  *paths = (PathList){0};
  char *base = resolve_path(dataset->path, recipe);
  Status status = STATUS_OK;
  if (dataset->data_files.count == 0) status = add_path(paths, base, dataset);
  for (int i = 0; i < dataset->data_files.count && status == STATUS_OK; i++) {
    char *inside = path_join(base, dataset->data_files.items[i]);
    char *path =
        directory_exists(base) && file_exists(inside) ? memory_copy_string(inside) : resolve_path(dataset->data_files.items[i], recipe);
    status = add_path(paths, path, dataset);
    free(path);
    free(inside);
  }
  free(base);
  if (status != STATUS_OK) path_list_release(paths);
  return status;
}

void path_list_release(PathList *paths) {
  for (int64_t i = 0; i < paths->count; i++) free(paths->items[i]);
  free(paths->items);
  *paths = (PathList){0};
}

// ---- Splits

// One end of a slice: "", "10", "-10", "5%".
static bool read_bound(int64_t *bound, const char **p, int64_t count, int64_t otherwise) {
  *bound = otherwise;
  if (**p != '-' && !isdigit((unsigned char)**p)) return true;
  char *end;
  errno = 0;
  long long value = strtoll(*p, &end, 10);
  if (errno || end == *p) return false;
  bool percent = *end == '%';
  if (percent && (value > 100 || value < -100)) return false;
  *bound = percent ? (int64_t)rint((double)value * (double)count / 100.0) : value;
  if (*bound < 0) *bound = *bound + count < 0 ? 0 : *bound + count;
  if (*bound > count) *bound = count;
  *p = end + percent;
  return true;
}

Status split_parse(RowRanges *ranges, const char *split, int64_t count) {
  *ranges = (RowRanges){0};
  const char *p = split && *split ? split : "train";
  for (;; p++) {
    RowRange range = {0, count};
    p += split_name_length(p);
    if (*p == '[') {
      p++;
      bool good = read_bound(&range.begin, &p, count, 0) && *p == ':';
      if (good) p++;
      good = good && read_bound(&range.end, &p, count, count) && *p == ']';
      if (!good) {
        free(ranges->items);
        *ranges = (RowRanges){0};
        return status_fail(STATUS_USAGE, "split: \"%s\" cannot be read; write it as train[:5%%] or train[10:20]", split);
      }
      p++;
    }
    if (range.begin < range.end) ARRAY_PUSH(ranges->items, ranges->count, ranges->capacity) = range;
    if (*p != '+') break;
  }
  if (*p) {
    free(ranges->items);
    *ranges = (RowRanges){0};
    return status_fail(STATUS_USAGE, "split: \"%s\" cannot be read; write it as train[:5%%] or train[10:20]", split);
  }
  return STATUS_OK;
}
