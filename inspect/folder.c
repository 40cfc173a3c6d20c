// Safetensors files, the folders of models (config.json, shards, tokenizer) and of PEFT adapters.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/peft_config.h"
#include "core/text.h"
#include "data/tokenizer/tokenizer.h"
#include "inspect/parts.h"

enum { CONFIG_LIMIT = 64 << 20 };

void report_add_safetensors(Report *report, const Safetensors *st) {
  for (int i = 0; i < st->path_count; i++) report_add_file(report, st->paths[i]);
  for (int64_t i = 0; i < st->metadata_count; i++)
    report_add_fact(report, st->metadata_keys[i], "string", report_text(st->metadata_values[i], strlen(st->metadata_values[i])));
  for (int64_t i = 0; i < st->tensor_count; i++) {
    const SafetensorsTensor *tensor = &st->tensors[i];
    ReportTensor *added = report_add_tensor(report, tensor->name, safetensors_type_name(tensor->type), tensor->dimensions, tensor->shape);
    added->bytes = (int64_t)tensor->bytes;
    added->source = (ValueSource){.data = tensor->data, .element = tensor->type, .count = tensor->count};
  }
}

void inspect_safetensors(Report *report, const char *path, Safetensors *st) {
  report->opens = report_status(report, safetensors_examine(st, path));
  report_add_safetensors(report, st);
  if (!st->path_count) report_add_file(report, path);
  bool is_adapter = pairs_are_there(report, false);
  report_set_kind(report,
                  is_adapter           ? "PEFT adapter's weights"
                  : st->path_count > 1 ? "sharded safetensors"
                                       : "safetensors file",
                  "safetensors");
  report_measure(report);
  if (is_adapter && report->opens) pairs_inspect(report, false, NULL, NULL);
}

// The keys of a JSON object that are there, as facts "FILE.KEY".
static void add_facts(Report *report, const json_t *object, const char *prefix, const char *const *keys) {
  for (int i = 0; keys[i]; i++) {
    json_t *value = json_object_get(object, keys[i]);
    if (!value) continue;
    char *key = memory_format("%s.%s", prefix, keys[i]);
    const char *type = json_is_string(value)    ? "string"
                       : json_is_integer(value) ? "integer"
                       : json_is_real(value)    ? "float"
                       : json_is_boolean(value) ? "bool"
                       : json_is_null(value)    ? "null"
                                                : "json";
    report_add_fact(report, key, type, json_incref(value));
    free(key);
  }
}

static void add_config(Report *report, const char *folder) {
  static const char *const keys[] = {"model_type",
                                     "architectures",
                                     "hidden_size",
                                     "intermediate_size",
                                     "num_hidden_layers",
                                     "num_attention_heads",
                                     "num_key_value_heads",
                                     "head_dim",
                                     "vocab_size",
                                     "max_position_embeddings",
                                     "rms_norm_eps",
                                     "rope_theta",
                                     "rope_scaling",
                                     "rope_parameters",
                                     "sliding_window",
                                     "tie_word_embeddings",
                                     "num_local_experts",
                                     "num_experts",
                                     "num_experts_per_tok",
                                     "torch_dtype",
                                     "dtype",
                                     "bos_token_id",
                                     "eos_token_id",
                                     "pad_token_id",
                                     "quantization_config",
                                     "transformers_version",
                                     NULL};
  char *path = path_join(folder, "config.json");
  Buffer text = {0};
  if (file_exists(path) && file_read(&text, path, CONFIG_LIMIT) == STATUS_OK) {
    json_t *root = json_loadb(text.data ? text.data : "", text.length, 0, NULL);
    add_facts(report, root, "config", keys);
    json_decref(root);
  }
  buffer_release(&text);
  free(path);
}

static void check_tokenizer(Report *report, const char *folder) {
  static const char *const names[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
  bool has_any = false;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = path_join(folder, names[i]);
    has_any |= file_exists(path);
    free(path);
  }
  if (!has_any) {
    report_warning(report, NULL, "no tokenizer.json or tokenizer.model: it cannot read or write text");
    return;
  }
  Tokenizer *tokenizer = NULL;
  if (!report_status(report, tokenizer_open(&tokenizer, folder))) return;
  int64_t size = tokenizer_size(tokenizer);
  tokenizer_free(tokenizer);
  report_add_fact(report, "tokenizer.size", "integer", json_integer(size));
  const ReportTensor *embedding = report_find_tensor(report, "model.embed_tokens.weight");
  // An embedding may have more rows than there are tokens: some are padded to a round number.
  if (embedding && embedding->dimensions == 2 && embedding->shape[0] < size)
    report_error(report, embedding->name, "its %lld rows are fewer than the %lld tokens of the vocabulary", (long long)embedding->shape[0],
                 (long long)size);
}

void inspect_model_folder(Report *report, const char *folder, Safetensors *st) {
  report->opens = report_status(report, safetensors_examine(st, folder));
  add_config(report, folder);
  report_add_safetensors(report, st);
  report_set_kind(report, "Hugging Face model folder", st->path_count > 1 ? "sharded safetensors" : "safetensors");
  report_measure(report);
  check_tokenizer(report, folder);
  const Family *family;
  ModelConfig config;
  int errors = report->errors;
  if (!report_status(report, config_from_folder(&config, &family, folder, &report->arena)) || !report->opens) return;
  names_check(report, family, &config, false);
  Model *model = NULL;
  if (report->errors == errors && report_status(report, model_open(&model, folder, (ModelOptions){0}, report->backend))) model_close(model);
}

static double scale_of(const void *config, const char *module, int64_t rank) { return peft_module_scale(config, module, rank); }

// Each name that target_modules lists adapts at least one module; a single string is a pattern, or "all-linear".
static void check_targets(Report *report, const json_t *config) {
  const json_t *targets = json_object_get(config, "target_modules"),
               *pairs = json_object_get(json_object_get(report->root, "adapter"), "pairs");
  const json_t *target, *pair;
  size_t i, j;
  json_array_foreach(targets, i, target) {
    const char *name = json_string_value(target);
    bool found = false;
    json_array_foreach(pairs, j, pair) {
      const char *module = json_string_value(json_object_get(pair, "module"));
      size_t length = name ? strlen(name) : 0, whole = module ? strlen(module) : 0;
      found |= length && text_ends_with(module, name) && (whole == length || module[whole - length - 1] == '.');
    }
    if (name && !found) report_warning(report, name, "is one of target_modules, and no pair adapts it");
  }
}

static void check_ranks(Report *report, const json_t *config) {
  const json_t *pairs = json_object_get(json_object_get(report->root, "adapter"), "pairs"), *pair;
  json_int_t rank = json_integer_value(json_object_get(config, "r"));
  size_t i;
  if (json_object_size(json_object_get(config, "rank_pattern"))) return;
  json_array_foreach(pairs, i, pair) {
    json_int_t own = json_integer_value(json_object_get(pair, "rank"));
    if (own != rank)
      report_warning(report, json_string_value(json_object_get(pair, "module")), "has rank %lld where adapter_config.json says %lld",
                     (long long)own, (long long)rank);
  }
}

// DoRA's magnitudes stand beside their pairs.
static void check_magnitudes(Report *report, const json_t *config) {
  const json_t *pairs = json_object_get(json_object_get(report->root, "adapter"), "pairs"), *pair;
  size_t i;
  if (!json_is_true(json_object_get(config, "use_dora"))) return;
  json_array_foreach(pairs, i, pair) {
    const char *module = json_string_value(json_object_get(pair, "module"));
    char *name = memory_format("base_model.model.%s.lora_magnitude_vector", module), *other = memory_format("%s.weight", name);
    if (!report_find_tensor(report, name) && !report_find_tensor(report, other))
      report_error(report, module, "use_dora is set, and its lora_magnitude_vector is missing");
    free(name);
    free(other);
  }
}

void inspect_adapter_folder(Report *report, const char *folder, Safetensors *st) {
  static const char *const keys[] = {"peft_type",
                                     "base_model_name_or_path",
                                     "r",
                                     "lora_alpha",
                                     "lora_dropout",
                                     "use_rslora",
                                     "use_dora",
                                     "bias",
                                     "target_modules",
                                     "modules_to_save",
                                     "trainable_token_indices",
                                     "rank_pattern",
                                     "alpha_pattern",
                                     "task_type",
                                     "layers_to_transform",
                                     NULL};
  json_t *config = NULL;
  bool config_opens = report_status(report, peft_config_examine(&config, folder));
  add_facts(report, config, "adapter_config", keys);
  char *path = path_join(folder, "adapter_model.safetensors"), *pickle = path_join(folder, "adapter_model.bin");
  if (!file_exists(path) && file_exists(pickle))
    report_error(report, NULL,
                 "%s: holds only adapter_model.bin, a PyTorch pickle, which can run code and is not read; save it once more with PEFT "
                 "(safe_serialization=True)",
                 folder);
  else report->opens = report_status(report, safetensors_examine(st, path));
  report_add_safetensors(report, st);
  report_set_kind(report, "PEFT adapter folder", "safetensors");
  report_measure(report);
  json_t *adapter = json_object();
  json_object_set(adapter, "rank", json_object_get(config, "r") ? json_object_get(config, "r") : json_null());
  json_object_set(adapter, "alpha", json_object_get(config, "lora_alpha") ? json_object_get(config, "lora_alpha") : json_null());
  json_object_set_new(report->root, "adapter", adapter);
  if (report->opens) {
    pairs_inspect(report, false, config_opens ? scale_of : NULL, config);
    if (config_opens) check_targets(report, config);
    if (config_opens) check_ranks(report, config);
    if (config_opens) check_magnitudes(report, config);
  }
  free(path);
  free(pickle);
  json_decref(config);
}
