// From a dataset's `path` and `data_files` to files. Which files of a folder belong to a split is told by words in their names, as
// Hugging Face's datasets does (datasets/data_files.py, "keywords in filename").
#include "data/source/dataset_paths.h"

#include <ctype.h>
#include <dirent.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "data/source/split.h"

enum { FOLDER_DEPTH = 8 };

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

// ---- Names below a folder

typedef struct NameList {
  char **items;
  int64_t count, capacity;
} NameList;

static void name_list_release(NameList *names) {
  for (int64_t i = 0; i < names->count; i++) free(names->items[i]);
  free(names->items);
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// What stands in a folder, sorted, hidden names left out; a folder that cannot be read is empty.
static NameList folder_names(const char *folder) {
  NameList names = {0};
  DIR *stream = opendir(*folder ? folder : ".");
  for (struct dirent *entry; stream && (entry = readdir(stream));)
    if (entry->d_name[0] != '.') ARRAY_PUSH(names.items, names.count, names.capacity) = memory_copy_string(entry->d_name);
  if (stream) closedir(stream);
  if (names.count) qsort(names.items, (size_t)names.count, sizeof *names.items, compare_names);
  return names;
}

// Every file below a folder, by paths that begin with it.
static void list_files(NameList *files, const char *folder, int depth) {
  NameList names = folder_names(folder);
  for (int64_t i = 0; i < names.count; i++) {
    char *path = path_join(folder, names.items[i]);
    if (directory_exists(path)) {
      if (depth < FOLDER_DEPTH) list_files(files, path, depth + 1);
      free(path);
    } else {
      ARRAY_PUSH(files->items, files->count, files->capacity) = path;
    }
  }
  name_list_release(&names);
}

// ---- Patterns: *, ? and [..] within a name, ** for any folders between

static bool is_pattern(const char *path) { return strpbrk(path, "*?[") != NULL; }

static void match_pattern(NameList *found, const char *folder, const char *pattern, int depth) {
  size_t length = strcspn(pattern, "/");
  const char *rest = pattern[length] ? pattern + length + 1 + strspn(pattern + length + 1, "/") : NULL;
  char *part = memory_format("%.*s", (int)length, pattern);
  bool any_depth = strcmp(part, "**") == 0;
  if (any_depth && depth < FOLDER_DEPTH) match_pattern(found, folder, rest ? rest : "*", depth + 1);
  NameList names = folder_names(folder);
  for (int64_t i = 0; i < names.count; i++) {
    if (!any_depth && fnmatch(part, names.items[i], FNM_PERIOD) != 0) continue;
    char *path = path_join(folder, names.items[i]);
    bool inside = directory_exists(path);
    if (inside && (rest || any_depth) && depth < FOLDER_DEPTH) match_pattern(found, path, any_depth ? pattern : rest, depth + 1);
    else if (!inside && !rest && !any_depth) ARRAY_PUSH(found->items, found->count, found->capacity) = memory_copy_string(path);
    free(path);
  }
  name_list_release(&names);
  free(part);
}

static NameList expand_pattern(const char *pattern) {
  NameList found = {0};
  bool rooted = pattern[0] == '/';
  match_pattern(&found, rooted ? "/" : "", pattern + strspn(pattern, "/"), 0);
  if (found.count) qsort(found.items, (size_t)found.count, sizeof *found.items, compare_names);
  return found;
}

// ---- Folders and splits

static const char *const split_words[][5] = {
    {"train", "training"}, {"validation", "valid", "val", "dev"}, {"test", "testing", "eval", "evaluation"}};
enum { FAMILIES = sizeof split_words / sizeof *split_words };

// Whether the word stands in the path with no letter beside it.
static bool has_word(const char *path, const char *word) {
  size_t length = strlen(word);
  for (const char *p = path; (p = strstr(p, word)); p++)
    if ((p == path || !isalpha((unsigned char)p[-1])) && !isalpha((unsigned char)p[length])) return true;
  return false;
}

static bool has_family(const char *path, int family) {
  for (int i = 0; i < 5 && split_words[family][i]; i++)
    if (has_word(path, split_words[family][i])) return true;
  return false;
}

static int split_family(const char *split) {
  for (int family = 0; family < FAMILIES; family++)
    for (int i = 0; i < 5 && split_words[family][i]; i++)
      if (strcmp(split, split_words[family][i]) == 0) return family;
  return -1;
}

typedef enum SplitFit { FIT_NAMED, FIT_UNNAMED, FIT_OTHER } SplitFit;

// What a file's name says of a split: its own, none, or another's.
static SplitFit split_fit(const char *name, const char *split) {
  int family = split_family(split);
  if (family >= 0 ? has_family(name, family) : has_word(name, split)) return FIT_NAMED;
  for (int other = 0; other < FAMILIES; other++)
    if (other != family && has_family(name, other)) return FIT_OTHER;
  return FIT_UNNAMED;
}

static Status split_name(char **name, const char *split) {
  size_t length = split_name_length(split);
  *name = memory_format("%.*s", (int)length, split);
  for (const char *part = split; (part = strchr(part, '+'));) {
    part++;
    if (split_name_length(part) == length && strncmp(part, split, length) == 0) continue;
    free(*name);
    *name = NULL;
    return status_fail(STATUS_USAGE, "split: \"%s\" joins two splits; write a dataset entry for each", split);
  }
  return STATUS_OK;
}

static bool is_data_name(const char *path) {
  static const char *const descriptions[] = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"};
  RowFormat format;
  for (size_t i = 0; i < sizeof descriptions / sizeof *descriptions; i++)
    if (strcmp(path_name(path), descriptions[i]) == 0) return false;
  return ending_format(&format, path);
}

// A README.txt beside other formats is no data: text files count only where there is nothing else.
static bool counts(const char *path, const char *ds_type, bool only_text) {
  RowFormat format;
  if (!is_data_name(path) || !ending_format(&format, path)) return false;
  if (ds_type && strcmp(ds_type, "text") == 0) return format == ROWS_TEXT;
  if (ds_type && strcmp(ds_type, "csv") == 0) return format == ROWS_CSV || format == ROWS_TSV;
  if (ds_type && strcmp(ds_type, "json") == 0) return format == ROWS_JSON;
  return only_text || format != ROWS_TEXT;
}

static Status refuse_folder(const char *folder, const NameList *files) {
  for (int64_t i = 0; i < files->count; i++) {
    RowFormat format;
    TRY(file_format(&format, files->items[i], NULL));  // says how to convert Parquet
  }
  return status_fail(STATUS_BAD_INPUT, "%s: no .json, .jsonl, .csv, .tsv or .txt file is in this folder", folder);
}

static Status add_split(PathList *paths, const char *folder, const NameList *files, const char *split, const DatasetRecipe *dataset) {
  bool only_text = true;
  int64_t fits[3] = {0};
  for (int64_t i = 0; i < files->count; i++) only_text = only_text && !counts(files->items[i], dataset->ds_type, false);
  for (int64_t i = 0; i < files->count; i++)
    if (counts(files->items[i], dataset->ds_type, only_text)) fits[split_fit(files->items[i] + strlen(folder), split)]++;
  if (!fits[FIT_NAMED] && !fits[FIT_UNNAMED] && !fits[FIT_OTHER]) return refuse_folder(folder, files);
  bool unnamed = !fits[FIT_NAMED] && split_family(split) == 0;
  if (!fits[FIT_NAMED] && !(unnamed && fits[FIT_UNNAMED]))
    return status_fail(STATUS_BAD_INPUT, "%s: no file in this folder has \"%s\" in its name, which `split` asks for", folder, split);
  for (int64_t i = 0; i < files->count; i++) {
    if (!counts(files->items[i], dataset->ds_type, only_text)) continue;
    if (split_fit(files->items[i] + strlen(folder), split) == (unnamed ? FIT_UNNAMED : FIT_NAMED))
      TRY(add_file(paths, files->items[i], dataset));
  }
  return STATUS_OK;
}

// A folder's data files; `name`, a configuration of the dataset, is a folder inside.
static Status add_folder(PathList *paths, const char *path, const DatasetRecipe *dataset) {
  char *split, *inside = dataset->name ? path_join(path, dataset->name) : NULL;
  TRY(split_name(&split, dataset->split ? dataset->split : "train"));
  const char *folder = inside && directory_exists(inside) ? inside : path;
  NameList files = {0};
  list_files(&files, folder, 0);
  Status status = add_split(paths, folder, &files, split, dataset);
  name_list_release(&files);
  free(inside);
  free(split);
  return status;
}

// ---- What a recipe names

// Adds what stands at `path`; false when nothing does.
static bool add_existing(Status *status, PathList *paths, const char *path, const DatasetRecipe *dataset) {
  *status = STATUS_OK;
  if (directory_exists(path)) *status = add_folder(paths, path, dataset);
  else if (file_exists(path)) *status = add_file(paths, path, dataset);
  else if (!is_pattern(path)) return false;
  else {
    NameList found = expand_pattern(path);
    for (int64_t i = 0; i < found.count && *status == STATUS_OK; i++) *status = add_file(paths, found.items[i], dataset);
    bool any = found.count > 0;
    name_list_release(&found);
    return any;
  }
  return true;
}

// The same for a path of the current folder, or else of the recipe's.
static bool add_found(Status *status, PathList *paths, const char *path, const DatasetRecipe *dataset, const Recipe *recipe) {
  if (add_existing(status, paths, path, dataset)) return true;
  if (path[0] == '/' || !recipe->path) return false;
  char *folder = path_parent(recipe->path), *beside = path_join(folder, path);
  bool found = add_existing(status, paths, beside, dataset);
  free(folder), free(beside);
  return found;
}

static Status add_path(PathList *paths, const char *path, const DatasetRecipe *dataset, const Recipe *recipe) {
  Status status;
  if (add_found(&status, paths, path, dataset, recipe)) return status;
  if (strstr(path, "://"))
    return status_fail(STATUS_BAD_INPUT, "%s: addresses are not read; download the file first: curl -LO %s", path, path);
  return status_fail(STATUS_BAD_INPUT, "%s: no such file or folder%s", path, is_pattern(path) ? ", and nothing matches it" : "");
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
