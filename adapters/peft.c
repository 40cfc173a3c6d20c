// PEFT's files: adapter_config.json and adapter_model.safetensors, tensors named
// base_model.model.MODULE.lora_A.weight [rank, in] and .lora_B.weight [out, rank], float32 or a half type; of DoRA also
// base_model.model.MODULE.lora_magnitude_vector [out].
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "adapters/pattern.h"
#include "adapters/peft_config.h"
#include "adapters/peft_trained.h"
#include "core/text.h"

static const char peft_prefix[] = "base_model.model.";

enum { NAME_BYTES = 256 };
// Ends of the tensors' names; two for the magnitude: PEFT writes the first, and calls it by the second in memory.
static const char *const tensor_ends[] = {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "lora_magnitude_vector.weight"};
enum { TENSOR_ENDS = sizeof tensor_ends / sizeof *tensor_ends };

// The embedding's factors are plain tensors, not the weights of layers.
static const char *tensor_name(char name[NAME_BYTES], const Linear *linear, const Model *model, int end) {
  static const char *const of_embedding[] = {"lora_embedding_A", "lora_embedding_B"};
  bool is_plain = linear == &model->embedding && end <= TENSOR_LORA_B;
  snprintf(name, NAME_BYTES, "%s%s.%s", peft_prefix, linear->name, is_plain ? of_embedding[end] : tensor_ends[end]);
  return name;
}

static Status read_json(json_t **root, const char *path) {
  Buffer text = {0};
  Status status = file_read(&text, path, 16 << 20);
  json_error_t error;
  *root = status == STATUS_OK ? json_loadb(text.data, text.length, JSON_REJECT_DUPLICATES, &error) : NULL;
  if (status == STATUS_OK && !json_is_object(*root))
    status = status_fail(STATUS_BAD_INPUT, "%s:%d: not a JSON object: %s", path, *root ? 1 : error.line, *root ? "" : error.text);
  buffer_release(&text);
  if (status != STATUS_OK) json_decref(*root), *root = NULL;
  return status;
}

static bool is_set(const json_t *value) {
  return value && !json_is_null(value) && !json_is_false(value) && !(json_is_array(value) && json_array_size(value) == 0) &&
         !(json_is_object(value) && json_object_size(value) == 0);
}

static Status read_config(AdapterSource *source, const json_t *config, const char *path) {
  const char *type = json_string_value(json_object_get(config, "peft_type"));
  if (!type || strcmp(type, "LORA") != 0)
    return status_fail(STATUS_BAD_INPUT, "%s: peft_type is '%s', and only LORA is built", path, type ? type : "missing");
  static const char *const refused[] = {"target_parameters", "layer_replication", "fan_in_fan_out", "lora_bias", "use_qalora"};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    if (is_set(json_object_get(config, refused[i])))
      return status_fail(STATUS_BAD_INPUT, "%s: %s is set, which is not built yet", path, refused[i]);
  const char *bias = json_string_value(json_object_get(config, "bias"));
  if (bias && strcmp(bias, "none") != 0) return status_fail(STATUS_BAD_INPUT, "%s: bias is '%s', and only none is built", path, bias);
  const json_t *rank = json_object_get(config, "r"), *alpha = json_object_get(config, "lora_alpha");
  if (!json_is_integer(rank) || json_integer_value(rank) <= 0)
    return status_fail(STATUS_BAD_INPUT, "%s: r is missing or not positive", path);
  if (!json_is_number(alpha)) return status_fail(STATUS_BAD_INPUT, "%s: lora_alpha is missing or no number", path);
  source->rank = json_integer_value(rank);
  source->alpha = json_number_value(alpha);
  source->dropout = json_number_value(json_object_get(config, "lora_dropout"));
  source->rslora = json_is_true(json_object_get(config, "use_rslora"));
  source->dora = json_is_true(json_object_get(config, "use_dora"));
  return peft_read_patterns(source, config, path);
}

// The module's own alpha. Patterns are regular expressions by now: peft_read_patterns has compiled them.
static double module_alpha(const AdapterSource *source, const char *module) {
  double alpha = source->alpha;
  (void)pattern_value(&alpha, source->alpha_patterns, source->alpha_pattern_count, source->alpha, module, "alpha_pattern");
  return alpha;
}

Status peft_config_examine(json_t **config, const char *folder) {
  AdapterSource source = {0};
  char *path = path_join(folder, "adapter_config.json");
  Status status = read_json(config, path);
  if (status == STATUS_OK) status = read_config(&source, *config, path);
  arena_release(&source.arena);
  free(path);
  return status;
}

double peft_module_scale(const json_t *config, const char *module, int64_t rank) {
  AdapterSource source = {.alpha = json_number_value(json_object_get(config, "lora_alpha")),
                          .rslora = json_is_true(json_object_get(config, "use_rslora"))};
  (void)peft_read_patterns(&source, config, "");
  double scale = adapter_scale(module_alpha(&source, module), rank, source.rslora);
  arena_release(&source.arena);
  return scale;
}

static Status read_magnitude(PairSource *pair, AdapterSource *source, const Model *model, const Safetensors *st, int *used) {
  char name[NAME_BYTES];
  if (pair->linear == &model->embedding || pair->linear == &model->head)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has a DoRA adapter, which is not built yet for the embedding and the head", st->paths[0],
                       pair->linear->name);
  const SafetensorsTensor *tensor = safetensors_find(st, tensor_name(name, pair->linear, model, TENSOR_MAGNITUDE));
  if (!tensor) tensor = safetensors_find(st, tensor_name(name, pair->linear, model, TENSOR_MAGNITUDE + 1));
  const char *path = st->paths[0];
  int64_t out = pair->linear->weight.rows;
  if (!tensor) return status_fail(STATUS_BAD_INPUT, "%s: use_dora is set, and %s has no lora_magnitude_vector", path, pair->linear->name);
  if (tensor->count != out)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %lld values, where %s has %lld outputs", path, tensor->name, (long long)tensor->count,
                       model->path, (long long)out);
  float *file = memory_new((size_t)out, sizeof *file);
  bool floats = safetensors_to_float(file, tensor, 0, out);
  pair->magnitude = arena_new(&source->arena, (size_t)out, sizeof *file);
  if (floats) b_rows_from_file(pair->magnitude, file, pair->linear, model, 1, false);
  free(file);
  *used += 1;
  return floats ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "%s: %s is not in a float type", path, tensor->name);
}

static Status read_pair(AdapterSource *source, const Model *model, Linear *linear, const Safetensors *st, int *used) {
  char name[NAME_BYTES];
  const SafetensorsTensor *tensors[2];
  for (int i = 0; i < 2; i++) tensors[i] = safetensors_find(st, tensor_name(name, linear, model, i));
  const SafetensorsTensor *a = tensors[0], *b = tensors[1];
  if (!a && !b) return STATUS_OK;
  const char *path = st->paths[0];
  if (!a || !b) return status_fail(STATUS_BAD_INPUT, "%s: %s has only one of lora_A and lora_B", path, linear->name);
  bool is_embedding = linear == &model->embedding;
  int64_t in = is_embedding ? linear->weight.rows : linear->weight.columns,
          out = is_embedding ? linear->weight.columns : linear->weight.rows;
  if (a->dimensions != 2 || b->dimensions != 2 || a->shape[1] != in || b->shape[0] != out || a->shape[0] != b->shape[1] || a->shape[0] <= 0)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: %s was made for another model: A is %lld x %lld and B %lld x %lld, where %s has %lld inputs and %lld outputs",
                       path, linear->name, (long long)a->shape[0], (long long)a->shape[1], (long long)b->shape[0], (long long)b->shape[1],
                       model->path, (long long)in, (long long)out);
  int64_t rank = a->shape[0];
  PairSource pair = {.linear = linear, .rank = rank, .scale = adapter_scale(module_alpha(source, linear->name), rank, source->rslora)};
  pair.a = arena_new(&source->arena, (size_t)a->count, sizeof(float));
  pair.b = arena_new(&source->arena, (size_t)b->count, sizeof(float));
  float *file = memory_new((size_t)(a->count > b->count ? a->count : b->count), sizeof(float));
  bool floats = safetensors_to_float(file, a, 0, a->count);
  if (is_embedding) transpose(pair.a, file, rank, in);
  else memcpy(pair.a, file, (size_t)a->count * sizeof *file);
  floats = floats && safetensors_to_float(file, b, 0, b->count);
  if (is_embedding) memcpy(pair.b, file, (size_t)b->count * sizeof *file);
  else b_rows_from_file(pair.b, file, linear, model, rank, false);
  free(file);
  if (!floats) return status_fail(STATUS_BAD_INPUT, "%s: %s is not in a float type", path, linear->name);
  if (source->dora) TRY(read_magnitude(&pair, source, model, st, used));
  ARRAY_PUSH(source->pairs, source->count, source->capacity) = pair;
  *used += 2;
  return STATUS_OK;
}

// Names a tensor that no pair took: an adapter of another model or family must not be applied in part.
static Status unused_tensor(const AdapterSource *source, const Safetensors *st, const Model *model) {
  for (int64_t t = 0; t < st->tensor_count; t++) {
    bool used = false;
    char name[NAME_BYTES];
    bool is_pair = strstr(st->tensors[t].name, ".lora_") != NULL;  // the others have their own check
    for (int i = 0; is_pair && i < source->count && !used; i++)
      for (int end = 0; end < (source->dora ? TENSOR_ENDS : 2) && !used; end++)
        used = strcmp(tensor_name(name, source->pairs[i].linear, model, end), st->tensors[t].name) == 0;
    if (!used && (is_pair || !text_starts_with(st->tensors[t].name, peft_prefix)))
      return status_fail(STATUS_BAD_INPUT, "%s: %s belongs to no adaptable linear layer of %s; the adapter was made for another model",
                         st->paths[0], st->tensors[t].name, model->path);
  }
  return STATUS_OK;
}

Status peft_read(AdapterSource *source, const Model *model, const char *folder) {
  char *config_path = path_join(folder, "adapter_config.json"), *path = path_join(folder, "adapter_model.safetensors");
  json_t *config = NULL;
  Safetensors st = {0};
  bool opened = false;
  Status status = STATUS_OK;
  TRY_DONE(read_json(&config, config_path));
  TRY_DONE(read_config(source, config, config_path));
  TRY_DONE(safetensors_open(&st, path));
  opened = true;
  int used = 0;
  for (int i = 0; i < model->linear_count; i++) TRY_DONE(read_pair(source, model, model->linears[i], &st, &used));
  TRY_DONE(read_pair(source, model, (Linear *)(uintptr_t)&model->embedding, &st, &used));
  TRY_DONE(read_pair(source, model, (Linear *)(uintptr_t)&model->head, &st, &used));
  TRY_DONE(peft_read_trained(source, model, &st, config, &used));
  if (used != st.tensor_count) status = unused_tensor(source, &st, model);
done:
  if (opened) safetensors_close(&st);
  json_decref(config);
  free(config_path);
  free(path);
  return status;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static const char *name_end(const Linear *linear) {
  const char *dot = strrchr(linear->name, '.');
  return dot ? dot + 1 : linear->name;
}

// The ends of the adapted modules' names ("q_proj"), each once.
static json_t *target_modules(const Adapter *adapter) {
  const Model *model = adapter->model;
  const char **names = memory_new((size_t)adapter->count, sizeof *names);
  for (int i = 0; i < adapter->count; i++) names[i] = name_end(adapter->linears[i]);
  qsort(names, (size_t)adapter->count, sizeof *names, compare_names);
  // An end that only some layers have adapted would adapt all of them on loading: then full names are listed.
  json_t *ends = json_array(), *full = json_array();
  bool partial = false;
  for (int i = 0; i < adapter->count;) {
    int same = 0, there = 0;
    while (i + same < adapter->count && strcmp(names[i], names[i + same]) == 0) same++;
    for (int j = 0; j < model->linear_count; j++) {
      bool is_chosen = true;  // layers_to_transform leaves the others out
      (void)pattern_layer(&is_chosen, &adapter->layers, model->linears[j]->name);
      there += is_chosen && strcmp(name_end(model->linears[j]), names[i]) == 0;
    }
    if (there == 0) {  // the embedding, or the head: beside layers_to_transform PEFT finds them by their whole names alone
      there = 1;
      partial |= adapter->layers.count > 0;
    }
    partial |= same != there;
    json_array_append_new(ends, json_string(names[i]));
    i += same;
  }
  for (int i = 0; i < adapter->count; i++) json_array_append_new(full, json_string(adapter->linears[i]->name));
  free(names);
  json_decref(partial ? ends : full);
  return partial ? full : ends;
}

static Status write_config(const Adapter *adapter, const char *path, const char *base_model) {
  json_t *config =
      json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:b, s:o}", "peft_type", "LORA", "task_type", "CAUSAL_LM",
                "base_model_name_or_path", base_model, "bias", "none", "inference_mode", 1, "fan_in_fan_out", 0, "init_lora_weights", 1,
                "lora_dropout", adapter->dropout, "use_dora", adapter->dora, "target_modules", target_modules(adapter));
  peft_write_patterns(config, adapter);
  peft_config_trained(config, adapter);
  char *text = json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS);
  Status status = file_write_whole(path, text, strlen(text));
  free(text);
  json_decref(config);
  return status;
}

static void declare_pair(SafetensorsWriter *writer, const Adapter *adapter, int index) {
  const Linear *linear = adapter->linears[index];
  const Model *model = adapter->model;
  bool is_embedding = linear == &model->embedding;  // x W: its inputs are W's rows
  int64_t rank = adapter_file_rank(adapter, index), in = linear->weight.columns, out = linear->weight.rows;
  char name[NAME_BYTES];
  safetensors_declare(writer, tensor_name(name, linear, model, TENSOR_LORA_A), ST_F32, 2, (int64_t[]){rank, is_embedding ? out : in});
  safetensors_declare(writer, tensor_name(name, linear, model, TENSOR_LORA_B), ST_F32, 2, (int64_t[]){is_embedding ? in : out, rank});
  if (adapter->dora) safetensors_declare(writer, tensor_name(name, linear, model, TENSOR_MAGNITUDE), ST_F32, 1, &out);
}

static void write_pair(SafetensorsWriter *writer, const Adapter *adapter, int index) {
  const Model *model = adapter->model;
  const Linear *linear = adapter->linears[index];
  PairSource pair = adapter_file_pair(adapter, index);
  bool is_embedding = linear == &model->embedding;
  int64_t a_count = pair_a_count(&pair, model), b_count = pair_b_count(&pair, model), out = linear->weight.rows;
  float *ordered = memory_new((size_t)(is_embedding ? a_count : b_count), sizeof *ordered);  // as the file has it
  if (is_embedding) transpose(ordered, pair.a, out, pair.rank);
  else b_rows_to_file(ordered, pair.b, linear, model, pair.rank, false);
  safetensors_write(writer, is_embedding ? ordered : pair.a, (size_t)a_count * sizeof *ordered);
  safetensors_write(writer, is_embedding ? pair.b : ordered, (size_t)b_count * sizeof *ordered);
  if (pair.magnitude) {
    b_rows_to_file(ordered, pair.magnitude, linear, model, 1, false);
    safetensors_write(writer, ordered, (size_t)out * sizeof *ordered);
  }
  free(ordered);
  adapter_file_pair_release(&pair);
}

static Status write_tensors(const Adapter *adapter, const char *path) {
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  safetensors_put_metadata(&writer, "format", "pt");
  for (int i = 0; i < adapter->count; i++) declare_pair(&writer, adapter, i);
  peft_declare_trained(&writer, adapter);
  Status status = safetensors_writer_open(&writer, path);
  for (int i = 0; status == STATUS_OK && i < adapter->count; i++) write_pair(&writer, adapter, i);
  if (status == STATUS_OK) status = peft_write_trained(&writer, adapter);
  if (status == STATUS_OK) return safetensors_writer_commit(&writer);
  safetensors_writer_abandon(&writer);
  return status;
}

Status adapter_save_peft(const Adapter *adapter, const char *folder, const char *base_model) {
  TRY(directory_create(folder));
  char *config = path_join(folder, "adapter_config.json"), *tensors = path_join(folder, "adapter_model.safetensors");
  Status status = write_tensors(adapter, tensors);
  if (status == STATUS_OK) status = write_config(adapter, config, base_model);
  free(config);
  free(tensors);
  return status;
}
