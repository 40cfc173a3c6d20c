// From a dataset's `path` and `data_files` to files.
#include "data/source/dataset_paths.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "hub/dataset_files.h"

// ---- One file

static Status refuse_kind(const char *path, const char *kind) {
  return status_fail(STATUS_BAD_INPUT,
                     "%s: %s files are not read; write the rows as JSON lines, once: python3 -c 'import datasets; "
                     "datasets.load_dataset(\"%s\", data_files=\"%s\", split=\"train\").to_json(\"rows.jsonl\")' (pip install datasets), "
                     "and name rows.jsonl as `path`",
                     path, kind, kind, path);
}

static Status refuse_archive(const char *path, const char *program) {
  return status_fail(STATUS_BAD_INPUT, "%s: this compression is not read, gzip is: unpack it first: %s", path, program);
}

typedef struct NameEnding {
  const char *ending;
  RowFormat format;
} NameEnding;

static const NameEnding endings[] = {{".json", ROWS_JSON}, {".jsonl", ROWS_JSON}, {".ndjson", ROWS_JSON}, {".csv", ROWS_CSV},
                                     {".tsv", ROWS_TSV},   {".txt", ROWS_TEXT},   {".text", ROWS_TEXT}};

// Whether the name's ending is one of the formats' own, .gz behind it or not; JSON where it is not.
static bool ending_format(RowFormat *format, const char *path) {
  *format = ROWS_JSON;
  char *name = memory_copy_string(path_name(path));
  if (text_ends_with(name, ".gz")) name[strlen(name) - 3] = 0;
  bool found = false;
  for (size_t i = 0; i < sizeof endings / sizeof *endings && !found; i++) {
    found = text_ends_with(name, endings[i].ending);
    if (found) *format = endings[i].format;
  }
  free(name);
  return found;
}

static Status file_format(RowFormat *format, const char *path, const char *ds_type) {
  static const char *const columnar[] = {"parquet", "arrow", "feather"};
  for (size_t i = 0; i < sizeof columnar / sizeof *columnar; i++) {
    const char *dot = strrchr(path_name(path), '.');
    if ((dot && strcmp(dot + 1, columnar[i]) == 0) || (ds_type && strcmp(ds_type, columnar[i]) == 0)) return refuse_kind(path, columnar[i]);
  }
  if (text_ends_with(path, ".zst")) return refuse_archive(path, "unzstd FILE");
  if (text_ends_with(path, ".xz")) return refuse_archive(path, "unxz FILE");
  if (text_ends_with(path, ".bz2")) return refuse_archive(path, "bunzip2 FILE");
  if (text_ends_with(path, ".zip")) return refuse_archive(path, "unzip FILE");
  ending_format(format, path);
  if (!ds_type) return STATUS_OK;
  if (strcmp(ds_type, "csv") == 0 && *format != ROWS_TSV) *format = ROWS_CSV;
  else if (strcmp(ds_type, "text") == 0) *format = ROWS_TEXT;
  else if (strcmp(ds_type, "json") == 0) *format = ROWS_JSON;
  return STATUS_OK;
}

static Status add_file(PathList *paths, const char *path, const DatasetRecipe *dataset) {
  RowFormat format = ROWS_JSON;
  TRY(file_format(&format, path, dataset->ds_type));
  ARRAY_PUSH(paths->items, paths->count, paths->capacity) = (DatasetPath){memory_copy_string(path), format};
  return STATUS_OK;
}

// ---- Folders and patterns

// What begins the path of the files that a folder's names are relative to: "" stands for the current one.
static Status add_names(PathList *paths, const char *folder, const HubRequest *request, const DatasetRecipe *dataset) {
  HubNames names = {0};
  Status status = dataset_files_of_folder(&names, *folder ? folder : ".", request);
  for (int i = 0; i < names.count && status == STATUS_OK; i++) {
    char *path = path_join(folder, names.items[i]);
    status = add_file(paths, path, dataset);
    free(path);
  }
  hub_names_release(&names);
  return status;
}

static Status add_folder(PathList *paths, const char *folder, const DatasetRecipe *dataset) {
  HubRequest request = {.kind = HUB_DATASET, .id = folder, .subset = dataset->name, .split = dataset->split};
  return add_names(paths, folder, &request, dataset);
}

static bool is_pattern(const char *path) { return strpbrk(path, "*?[") != NULL; }

// The part of a pattern before its first folder that is one; a new string.
static char *fixed_folder(const char *pattern) {
  size_t length = strcspn(pattern, "*?[");
  while (length && pattern[length - 1] != '/') length--;
  return memory_format("%.*s", (int)length, pattern);
}

static Status add_pattern(PathList *paths, const char *pattern, const DatasetRecipe *dataset) {
  char *folder = fixed_folder(pattern);
  const char *rest = pattern + strlen(folder);
  HubRequest request = {.kind = HUB_DATASET, .id = pattern, .patterns = &rest, .pattern_count = 1};
  Status status = add_names(paths, folder, &request, dataset);
  free(folder);
  return status;
}

static bool pattern_folder_exists(const char *pattern) {
  char *folder = fixed_folder(pattern);
  bool exists = !*folder || directory_exists(folder);
  free(folder);
  return exists;
}

// ---- What a recipe names

// Adds what stands at `path`; false when nothing does.
static bool add_existing(Status *status, PathList *paths, const char *path, const DatasetRecipe *dataset) {
  if (directory_exists(path)) *status = add_folder(paths, path, dataset);
  else if (file_exists(path)) *status = add_file(paths, path, dataset);
  else if (is_pattern(path) && pattern_folder_exists(path)) *status = add_pattern(paths, path, dataset);
  else return false;
  return true;
}

// The same for a path of the current folder, or else of the recipe's.
static bool add_found(Status *status, PathList *paths, const char *path, const DatasetRecipe *dataset, const Recipe *recipe) {
  bool found = add_existing(status, paths, path, dataset);
  if ((found && (*status == STATUS_OK || !is_pattern(path))) || path[0] == '/' || !recipe->path) return found;
  char *folder = path_parent(recipe->path), *beside = path_join(folder, path);
  found = add_existing(status, paths, beside, dataset) || found;
  free(folder), free(beside);
  return found;
}

static Status add_path(PathList *paths, const char *path, const DatasetRecipe *dataset, const Recipe *recipe) {
  Status status;
  if (add_found(&status, paths, path, dataset, recipe)) return status;
  if (strstr(path, "://"))
    return status_fail(STATUS_BAD_INPUT, "%s: addresses are not read; download the file first: curl -LO %s", path, path);
  return status_fail(STATUS_BAD_INPUT, "%s: no such file or folder", path);
}

// Hugging Face's names of formats, which stand for a path where data_files name the files.
static bool is_format_name(const char *path) {
  static const char *const names[] = {"json", "csv", "text", "parquet", "arrow"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (path && strcmp(path, names[i]) == 0) return !file_exists(path) && !directory_exists(path);
  return false;
}

// A data file stands in the dataset's folder, or for itself.
static Status add_data_file(PathList *paths, const char *name, const DatasetRecipe *dataset, const Recipe *recipe) {
  Status status;
  char *inside = path_join(dataset->path, name);
  bool found = dataset->path && !is_format_name(dataset->path) && add_found(&status, paths, inside, dataset, recipe);
  free(inside);
  return found ? status : add_path(paths, name, dataset, recipe);
}

Status dataset_paths(PathList *paths, const DatasetRecipe *dataset, const Recipe *recipe) {
  *paths = (PathList){0};
  DatasetRecipe asked = *dataset;
  if (dataset->data_files.count && is_format_name(dataset->path) && !dataset->ds_type) asked.ds_type = dataset->path;
  Status status = STATUS_OK;
  if (dataset->data_files.count == 0) status = add_path(paths, dataset->path, &asked, recipe);
  for (int i = 0; i < dataset->data_files.count && status == STATUS_OK; i++)
    status = add_data_file(paths, dataset->data_files.items[i], &asked, recipe);
  if (status != STATUS_OK) path_list_release(paths);
  return status;
}

bool dataset_is_on_disk(const DatasetRecipe *dataset, const Recipe *recipe) {
  PathList paths = {0};
  Status status;
  if (!dataset->path || (dataset->data_files.count && is_format_name(dataset->path))) return true;
  bool found = add_found(&status, &paths, dataset->path, dataset, recipe);
  path_list_release(&paths);
  return found;
}

void path_list_release(PathList *paths) {
  for (int64_t i = 0; i < paths->count; i++) free(paths->items[i].path);
  free(paths->items);
  *paths = (PathList){0};
}
