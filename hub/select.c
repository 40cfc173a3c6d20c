// The choice, by the names that transformers, PEFT and datasets give their files.
#include "hub/select.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/file.h"
#include "core/memory.h"
#include "core/text.h"
#include "hub/name.h"

const char hub_weight_index[] = "model.safetensors.index.json", hub_single_weight[] = "model.safetensors";

static const char *const tokenizer_names[] = {"config.json",     "generation_config.json",  "tokenizer.json",     "tokenizer_config.json",
                                              "tokenizer.model", "special_tokens_map.json", "added_tokens.json",  "vocab.json",
                                              "merges.txt",      "chat_template.jinja",     "chat_template.json", NULL};
static const char *const adapter_names[] = {"adapter_config.json", "adapter_model.safetensors", NULL};
static const char *const no_names[] = {NULL};

const char *const *hub_wanted_names(HubKind kind) {
  return kind == HUB_ADAPTER ? adapter_names : kind == HUB_DATASET ? no_names : tokenizer_names;
}

static bool word_of(const char *const *words, const char *word) {
  for (; *words; words++)
    if (strcmp(*words, word) == 0) return true;
  return false;
}

// "a, b, c and 4 more" of the names that end so; "" when there is none.
static char *list_endings(const HubNames *all, const char *ending) {
  enum { SHOWN = 5 };
  Buffer text = {0};
  int found = 0;
  buffer_append_string(&text, "");
  for (int i = 0; i < all->count; i++) {
    if (!text_ends_with(all->items[i], ending)) continue;
    if (found < SHOWN) buffer_format(&text, "%s%s", found ? ", " : "", all->items[i]);
    found++;
  }
  if (found > SHOWN) buffer_format(&text, " and %d more", found - SHOWN);
  return text.data;
}

static int count_endings(const HubNames *all, const char *ending) {
  int count = 0;
  for (int i = 0; i < all->count; i++) count += text_ends_with(all->items[i], ending);
  return count;
}

static void take_wanted(HubNames *chosen, const HubNames *all, HubKind kind) {
  const char *const *wanted = hub_wanted_names(kind);
  for (int i = 0; i < all->count; i++)
    if (word_of(wanted, all->items[i])) hub_names_add(chosen, all->items[i]);
}

// --- models ---

static Status refuse_model(const HubNames *all, const char *repository) {
  if (count_endings(all, ".gguf")) {
    char *files = list_endings(all, ".gguf");
    Status status = status_fail(STATUS_BAD_INPUT, "%s has more than one GGUF file; give one of them, as in %s/FILE.gguf: %s", repository,
                                repository, files);
    free(files);
    return status;
  }
  if (count_endings(all, ".bin") || count_endings(all, ".pt") || count_endings(all, ".pth"))
    return status_fail(STATUS_BAD_INPUT,
                       "%s has its weights only as PyTorch pickles, which can run code and are not read; convert it once with Python: "
                       "AutoModelForCausalLM.from_pretrained(\"%s\").save_pretrained(\"FOLDER\", safe_serialization=True), and the "
                       "tokenizer likewise; then give FOLDER",
                       repository, repository);
  return status_fail(STATUS_BAD_INPUT, "%s has no safetensors weights and no GGUF file; is it a language model?", repository);
}

static bool is_weight(const char *name) {
  return text_ends_with(name, ".safetensors") && !strchr(name, '/') && !text_starts_with(name, "adapter_") &&
         !text_starts_with(name, "consolidated");
}

static Status select_model(HubNames *chosen, const HubNames *all, HubKind kind, const char *repository) {
  int weights = 0;
  for (int i = 0; i < all->count; i++) weights += is_weight(all->items[i]);
  bool has_index = hub_names_have(all, hub_weight_index), has_single = hub_names_have(all, hub_single_weight);
  if (!weights && count_endings(all, ".gguf") == 1) {
    for (int i = 0; i < all->count; i++)
      if (text_ends_with(all->items[i], ".gguf")) hub_names_add(chosen, all->items[i]);
    return STATUS_OK;
  }
  if (kind == HUB_MODEL && !weights) return refuse_model(all, repository);
  take_wanted(chosen, all, kind);
  if (kind == HUB_TOKENIZER) return chosen->count ? STATUS_OK : refuse_model(all, repository);
  if (has_index) hub_names_add(chosen, hub_weight_index);
  else if (has_single) hub_names_add(chosen, hub_single_weight);
  for (int i = 0; i < all->count && !has_index && !has_single; i++)
    if (is_weight(all->items[i])) hub_names_add(chosen, all->items[i]);
  return STATUS_OK;
}

static Status select_adapter(HubNames *chosen, const HubNames *all, const char *repository) {
  if (hub_names_have(all, "adapter_config.json") && hub_names_have(all, "adapter_model.safetensors")) {
    take_wanted(chosen, all, HUB_ADAPTER);
    return STATUS_OK;
  }
  if (hub_names_have(all, "adapter_model.bin"))
    return status_fail(STATUS_BAD_INPUT,
                       "%s has its adapter only as adapter_model.bin, a PyTorch pickle, which can run code and is not read; save it "
                       "once more with PEFT: PeftModel.from_pretrained(...).save_pretrained(\"FOLDER\")",
                       repository);
  return status_fail(STATUS_BAD_INPUT, "%s is no PEFT adapter: it has no adapter_config.json with adapter_model.safetensors", repository);
}

// --- datasets ---

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
  if (last[0] == '.' || last[0] == '_' || name[0] == '.' || word_of(others, last)) return DATA_NONE;
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

static Status refuse_parquet(const HubNames *all, const char *repository) {
  char *files = list_endings(all, count_endings(all, ".parquet") ? ".parquet" : ".arrow");
  Status status =
      status_fail(STATUS_BAD_INPUT,
                  "%s keeps its rows as Parquet or Arrow (%s), which is not read; write them as JSON lines with Python's datasets, and "
                  "give path: rows.jsonl:\n  python3 -c 'from datasets import load_dataset; load_dataset(\"%s\", "
                  "split=\"train\").to_json(\"rows.jsonl\")'",
                  repository, files, repository);
  free(files);
  return status;
}

// A pattern as people write them for datasets: '*' crosses '/', and "**/" may stand for no folder at all.
static bool pattern_matches(const char *pattern, const char *name) {
  if (fnmatch(pattern, name, 0) == 0) return true;
  return text_starts_with(pattern, "**/") && fnmatch(pattern + 3, name, 0) == 0;
}

static Status select_patterns(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository) {
  for (int p = 0; p < request->pattern_count; p++) {
    bool found = false;
    for (int i = 0; i < all->count; i++) {
      if (!pattern_matches(request->patterns[p], all->items[i])) continue;
      found = true;
      if (!hub_names_have(chosen, all->items[i])) hub_names_add(chosen, all->items[i]);
    }
    if (found) continue;
    char *files = list_endings(all, "");
    Status status = status_fail(STATUS_BAD_INPUT, "%s has no file \"%s\"; its files are: %s", repository, request->patterns[p], files);
    free(files);
    return status;
  }
  return STATUS_OK;
}

// Whether one of the folders in the file's name is called so.
static bool is_in_folder(const char *name, const char *folder) {
  size_t length = strlen(folder);
  for (const char *slash; (slash = strchr(name, '/')); name = slash + 1)
    if ((size_t)(slash - name) == length && memcmp(name, folder, length) == 0) return true;
  return false;
}

static Status select_kind(HubNames *chosen, const HubNames *all, const char *repository) {
  DataKind kind = main_kind(all);
  if (kind == DATA_PARQUET) return refuse_parquet(all, repository);
  for (int i = 0; i < all->count && kind != DATA_NONE; i++)
    if (data_kind(all->items[i]) == kind) hub_names_add(chosen, all->items[i]);
  if (chosen->count) return STATUS_OK;
  char *files = list_endings(all, "");
  Status status =
      status_fail(STATUS_BAD_INPUT, "%s has no data files (.json, .jsonl, .csv, .tsv, .txt); its files are: %s", repository, files);
  free(files);
  return status;
}

static Status select_data(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository) {
  if (request->pattern_count) {
    TRY(select_patterns(chosen, all, request, repository));
    bool only_parquet = true;
    for (int i = 0; i < chosen->count; i++) only_parquet = only_parquet && data_kind(chosen->items[i]) == DATA_PARQUET;
    return only_parquet ? refuse_parquet(chosen, repository) : STATUS_OK;
  }
  if (!request->subset || strcmp(request->subset, "default") == 0) return select_kind(chosen, all, repository);
  HubNames inside = {0};
  for (int i = 0; i < all->count; i++)
    if (is_in_folder(all->items[i], request->subset)) hub_names_add(&inside, all->items[i]);
  Status status = select_kind(chosen, &inside, repository);
  if (inside.count == 0) {
    char *files = list_endings(all, "");
    status = status_fail(STATUS_BAD_INPUT, "%s has no folder \"%s\" (name); name its files with data_files; they are: %s", repository,
                         request->subset, files);
    free(files);
  }
  hub_names_release(&inside);
  return status;
}

Status hub_select(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository, const char *file) {
  if (file) {
    if (hub_names_have(all, file)) {
      hub_names_add(chosen, file);
      return STATUS_OK;
    }
    char *files = list_endings(all, ".gguf");
    Status status =
        status_fail(STATUS_BAD_INPUT, "%s has no file \"%s\"; its GGUF files are: %s", repository, file, *files ? files : "none");
    free(files);
    return status;
  }
  switch (request->kind) {
    case HUB_ADAPTER: return select_adapter(chosen, all, repository);
    case HUB_DATASET: return select_data(chosen, all, request, repository);
    default: return select_model(chosen, all, request->kind, repository);
  }
}

Status hub_select_shards(HubNames *shards, const char *path, const char *text, size_t length) {
  json_error_t error;
  json_t *index = json_loadb(text, length, 0, &error);
  if (!index) return status_fail(STATUS_BAD_INPUT, "%s:%d: is not JSON; remove it to have it downloaded again", path, error.line);
  Status status = STATUS_OK;
  const char *key, *last = "";
  json_t *value;
  json_object_foreach(json_object_get(index, "weight_map"), key, value) {
    const char *name = json_string_value(value);
    if (!name || !hub_file_name_is_safe(name)) {
      status = status_fail(STATUS_BAD_INPUT, "%s: weight_map: \"%s\" lies in no file", path, key);
      break;
    }
    if (strcmp(name, last) != 0 && !hub_names_have(shards, name)) hub_names_add(shards, name);
    last = name;  // neighbours mostly share a file
  }
  if (status == STATUS_OK && !shards->count) status = status_fail(STATUS_BAD_INPUT, "%s: has no weight_map", path);
  json_decref(index);
  return status;
}
