// The choice among a model's and an adapter's files, by the names that transformers and PEFT give them.
#include "hub/select.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/file.h"
#include "core/memory.h"
#include "core/shard_name.h"
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

char *hub_names_list(const HubNames *all, const char *ending) {
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

int hub_names_count(const HubNames *all, const char *ending) {
  int count = 0;
  for (int i = 0; i < all->count; i++) count += text_ends_with(all->items[i], ending);
  return count;
}

static void take_wanted(HubNames *chosen, const HubNames *all, HubKind kind) {
  const char *const *wanted = hub_wanted_names(kind);
  for (int i = 0; i < all->count; i++)
    if (word_is_in(wanted, all->items[i])) hub_names_add(chosen, all->items[i]);
}

// --- models ---

static Status refuse_model(const HubNames *all, const char *repository) {
  if (hub_names_count(all, ".gguf")) {
    char *files = hub_names_list(all, ".gguf");
    Status status = status_fail(STATUS_BAD_INPUT, "%s has more than one GGUF file; give one of them, as in %s/FILE.gguf: %s", repository,
                                repository, files);
    free(files);
    return status;
  }
  if (hub_names_count(all, ".bin") || hub_names_count(all, ".pt") || hub_names_count(all, ".pth"))
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

// GGUF models: the files of a split one count as one, by its first.
static bool is_gguf_model(const char *name) {
  ShardName shard;
  return text_ends_with(name, ".gguf") && (!shard_name_parse(&shard, name) || shard.number == 1);
}

static int count_gguf_models(const HubNames *all) {
  int count = 0;
  for (int i = 0; i < all->count; i++) count += is_gguf_model(all->items[i]);
  return count;
}

// One GGUF file; of a split model, whichever part is named, all of them, the first first.
static Status take_gguf(HubNames *chosen, const HubNames *all, const char *name, const char *repository) {
  ShardName shard;
  if (!shard_name_parse(&shard, name)) {
    hub_names_add(chosen, name);
    return STATUS_OK;
  }
  Status status = STATUS_OK;
  for (int i = 1; i <= shard.count && status == STATUS_OK; i++) {
    char *part = shard_name_make(&shard, name, i);
    if (hub_names_have(all, part)) hub_names_add(chosen, part);
    else
      status = status_fail(STATUS_BAD_INPUT, "%s: %s is one of the %d files of a split model, and %s is not there; ask its authors for it",
                           repository, name, shard.count, part);
    free(part);
  }
  return status;
}

static Status select_model(HubNames *chosen, const HubNames *all, HubKind kind, const char *repository) {
  int weights = 0;
  for (int i = 0; i < all->count; i++) weights += is_weight(all->items[i]);
  bool has_index = hub_names_have(all, hub_weight_index), has_single = hub_names_have(all, hub_single_weight);
  if (!weights && count_gguf_models(all) == 1) {
    int only = 0;
    while (!is_gguf_model(all->items[only])) only++;
    return take_gguf(chosen, all, all->items[only], repository);
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

Status hub_select(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository, const char *file) {
  if (file) {
    if (hub_names_have(all, file)) return take_gguf(chosen, all, file, repository);
    char *files = hub_names_list(all, ".gguf");
    Status status =
        status_fail(STATUS_BAD_INPUT, "%s has no file \"%s\"; its GGUF files are: %s", repository, file, *files ? files : "none");
    free(files);
    return status;
  }
  switch (request->kind) {
    case HUB_ADAPTER: return select_adapter(chosen, all, repository);
    case HUB_DATASET: return hub_select_data(chosen, all, request, repository);
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
