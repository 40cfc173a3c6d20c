// The choice among a dataset's files: by data_files, else as Hugging Face's datasets finds the files of a split by their names.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/memory.h"
#include "core/text.h"
#include "hub/glob.h"
#include "hub/select.h"

typedef enum DataKind { DATA_JSON, DATA_CSV, DATA_PARQUET, DATA_TEXT, DATA_KINDS, DATA_NONE } DataKind;

static DataKind data_kind(const char *name) {
  static const struct {
    const char *ending;
    DataKind kind;
  } endings[] = {{".json", DATA_JSON}, {".jsonl", DATA_JSON},  {".json.gz", DATA_JSON},    {".jsonl.gz", DATA_JSON},
                 {".csv", DATA_CSV},   {".tsv", DATA_CSV},     {".csv.gz", DATA_CSV},      {".tsv.gz", DATA_CSV},
                 {".txt", DATA_TEXT},  {".txt.gz", DATA_TEXT}, {".parquet", DATA_PARQUET}, {".arrow", DATA_PARQUET}};
  // What lies beside the rows, as datasets has it.
  static const char *const others[] = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json",
                                       "state.json",  "requirements.txt",  "LICENSE.txt",        NULL};
  const char *last = path_name(name);
  if (last[0] == '.' || last[0] == '_' || name[0] == '.' || word_is_in(others, last)) return DATA_NONE;
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
    if (text_ends_with(name, endings[i].ending)) return endings[i].kind;
  return DATA_NONE;
}

// The kind that most of the files have, as datasets decides it; of equals the first.
static DataKind main_kind(const HubNames *all) {
  int counts[DATA_KINDS] = {0};
  DataKind best = DATA_NONE;
  for (int i = 0; i < all->count; i++)
    if (data_kind(all->items[i]) != DATA_NONE) counts[data_kind(all->items[i])]++;
  for (int kind = 0; kind < DATA_KINDS; kind++)
    if (counts[kind] && (best == DATA_NONE || counts[kind] > counts[best])) best = (DataKind)kind;
  return best;
}

static Status refuse_parquet(const HubNames *all, const HubRequest *request, const char *repository) {
  char *files = hub_names_list(all, hub_names_count(all, ".parquet") ? ".parquet" : ".arrow");
  const char *subset = request->subset;
  Status status =
      status_fail(STATUS_BAD_INPUT,
                  "%s keeps its rows as Parquet or Arrow (%s), which is not read; write them as JSON lines with Python's datasets, "
                  "and give path: rows.jsonl:\n  python3 -c 'from datasets import load_dataset; load_dataset(\"%s\", %s%s%s"
                  "split=\"train\").to_json(\"rows.jsonl\")'",
                  repository, files, repository, subset ? "\"" : "", subset ? subset : "", subset ? "\", " : "");
  free(files);
  return status;
}

// `kind`: "file", "split".
static Status refuse_missing(const HubNames *all, const char *repository, const char *kind, const char *what) {
  char *files = hub_names_list(all, "");
  Status status = status_fail(STATUS_BAD_INPUT, "%s has no %s \"%s\"; its files are: %s", repository, kind, what, files);
  free(files);
  return status;
}

// --- data_files ---

static Status select_patterns(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository) {
  for (int p = 0; p < request->pattern_count; p++) {
    const char *pattern = request->patterns[p];
    bool found = false;
    for (int i = 0; i < all->count; i++) {
      const char *name = all->items[i];
      bool is_named = strcmp(pattern, name) == 0;
      if (!is_named && (data_kind(name) == DATA_NONE || !glob_matches(pattern, name))) continue;
      found = true;
      if (!hub_names_have(chosen, name)) hub_names_add(chosen, name);
    }
    if (!found) return refuse_missing(all, repository, "file", pattern);
  }
  bool only_parquet = true;
  for (int i = 0; i < chosen->count; i++) only_parquet = only_parquet && data_kind(chosen->items[i]) == DATA_PARQUET;
  return only_parquet ? refuse_parquet(chosen, request, repository) : STATUS_OK;
}

// --- splits ---

static const char *const train_words[] = {"train", "training", NULL};
static const char *const validation_words[] = {"validation", "valid", "dev", "val", NULL};
static const char *const test_words[] = {"test", "testing", "eval", "evaluation", NULL};
static const char *const *const known_splits[] = {train_words, validation_words, test_words};
enum { KNOWN_SPLITS = 3 };

static bool is_boundary(const char *part, size_t length, size_t at) { return at >= length || strchr("-._ 0123456789", part[at]) != NULL; }

// Whether one of the words stands in this part of a name, with no letters beside it.
static bool part_has_word(const char *part, size_t length, const char *const *words) {
  for (; *words; words++) {
    size_t word = strlen(*words);
    for (size_t i = 0; i + word <= length; i++)
      if (memcmp(part + i, *words, word) == 0 && (i == 0 || is_boundary(part, length, i - 1)) && is_boundary(part, length, i + word))
        return true;
  }
  return false;
}

// In the names of its folders, or in its own.
static bool name_has_word(const char *name, bool in_folders, const char *const *words) {
  for (const char *slash; (slash = strchr(name, '/')); name = slash + 1)
    if (in_folders && part_has_word(name, (size_t)(slash - name), words)) return true;
  return !in_folders && part_has_word(name, strlen(name), words);
}

static bool is_shard_of(const char *name, const char *split) {
  char *pattern = memory_format("data/%s-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]*.*", split);
  bool matches = glob_matches(pattern, name);
  free(pattern);
  return matches;
}

static bool any_has_known_word(const HubNames *files, bool in_folders) {
  for (int i = 0; i < files->count; i++)
    for (int s = 0; s < KNOWN_SPLITS; s++)
      if (name_has_word(files->items[i], in_folders, known_splits[s])) return true;
  return false;
}

static bool any_is_shard(const HubNames *files) {
  for (int i = 0; i < files->count; i++)
    if (is_shard_of(files->items[i], "*")) return true;
  return false;
}

// The first way of naming splits that any file follows decides for all: data/SPLIT-00000-of-00001.*, a word in a folder's name, a word in
// the file's. Where none does, all are the training split.
static bool take_split(HubNames *chosen, const HubNames *files, const char *split) {
  const char *const own[] = {split, NULL}, *const *words = own;
  for (int s = 0; s < KNOWN_SPLITS; s++)
    if (strcmp(split, known_splits[s][0]) == 0) words = known_splits[s];
  bool sharded = any_is_shard(files), in_folders = any_has_known_word(files, true);
  bool all = !sharded && !in_folders && strcmp(split, "train") == 0 && !any_has_known_word(files, false), found = false;
  for (int i = 0; i < files->count; i++) {
    const char *name = files->items[i];
    bool is_of_split = all || (sharded ? is_shard_of(name, split) : name_has_word(name, in_folders, words));
    found = found || is_of_split;
    if (is_of_split && !hub_names_have(chosen, name)) hub_names_add(chosen, name);
  }
  return found;
}

// `split` as a recipe has it: "train", "train[:5%]", "train+test".
static Status select_splits(HubNames *chosen, const HubNames *files, const char *split, const char *repository) {
  for (const char *p = split ? split : "train"; *p;) {
    char *name = memory_format("%.*s", (int)strcspn(p, "[+"), p);
    Status status = take_split(chosen, files, name) ? STATUS_OK : refuse_missing(files, repository, "files of the split", name);
    free(name);
    TRY(status);
    p += strcspn(p, "+");
    p += *p == '+';
  }
  return STATUS_OK;
}

// --- without data_files ---

// Whether one of the folders in the file's name is called so.
static bool is_in_folder(const char *name, const char *folder) {
  size_t length = strlen(folder);
  for (const char *slash; (slash = strchr(name, '/')); name = slash + 1)
    if ((size_t)(slash - name) == length && memcmp(name, folder, length) == 0) return true;
  return false;
}

static Status select_kind(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository) {
  DataKind kind = main_kind(all);
  if (kind == DATA_PARQUET) return refuse_parquet(all, request, repository);
  HubNames files = {0};
  for (int i = 0; i < all->count && kind != DATA_NONE; i++)
    if (data_kind(all->items[i]) == kind) hub_names_add(&files, all->items[i]);
  Status status = files.count ? select_splits(chosen, &files, request->split, repository)
                              : refuse_missing(all, repository, "data files", ".json, .jsonl, .csv, .tsv, .txt");
  hub_names_release(&files);
  return status;
}

Status hub_select_data(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository) {
  if (request->pattern_count) return select_patterns(chosen, all, request, repository);
  if (!request->subset || strcmp(request->subset, "default") == 0) return select_kind(chosen, all, request, repository);
  HubNames inside = {0};
  for (int i = 0; i < all->count; i++)
    if (is_in_folder(all->items[i], request->subset)) hub_names_add(&inside, all->items[i]);
  Status status = inside.count ? select_kind(chosen, &inside, request, repository)
                               : refuse_missing(all, repository, "configuration and no folder", request->subset);
  hub_names_release(&inside);
  return status;
}
