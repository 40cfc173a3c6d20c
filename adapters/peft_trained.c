// What PEFT keeps beside LoRA's pairs: modules_to_save in full, base_model.model.MODULE.weight and .bias, and rows of tokens,
// base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta (which are the rows themselves, not differences). What it saves of
// the base beside an adapted embedding or head (MODULE.base_layer.weight) is the base's own.
#include "adapters/peft_trained.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "adapters/peft_config.h"
#include "adapters/trained.h"
#include "core/text.h"

static const char prefix[] = "base_model.model.", delta[] = ".token_adapter.trainable_tokens_delta";

// ---- Reading ----

static Status read_values(float **values, AdapterSource *source, const SafetensorsTensor *tensor, const char *path) {
  *values = arena_new(&source->arena, (size_t)tensor->count, sizeof **values);
  if (safetensors_to_float(*values, tensor, 0, tensor->count)) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: %s is not in a float type", path, tensor->name);
}

// trainable_token_indices: a list, or {embed_tokens: list}.
static Status read_indices(AdapterSource *source, const json_t *config, const char *path) {
  const json_t *given = json_object_get(config, "trainable_token_indices"), *list = given;
  if (json_is_object(given)) list = json_object_get(given, "embed_tokens");
  if (!json_is_array(list) || (json_is_object(given) && json_object_size(given) != 1))
    return status_fail(STATUS_BAD_INPUT, "%s: trainable_token_indices is no list of token ids of embed_tokens, and only that is built",
                       path);
  source->token_count = (int)json_array_size(list);
  source->tokens = arena_new(&source->arena, (size_t)source->token_count + 1, sizeof *source->tokens);
  for (int i = 0; i < source->token_count; i++) source->tokens[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
  return STATUS_OK;
}

static Status read_tokens(AdapterSource *source, const Model *model, const SafetensorsTensor *tensor, const json_t *config,
                          const char *path) {
  TRY(read_indices(source, config, path));
  if (tensor->dimensions != 2 || tensor->shape[0] != source->token_count || tensor->shape[1] != model->config.hidden)
    return status_fail(STATUS_BAD_INPUT, "%s: %s was made for another model: it is not %d x %lld", path, tensor->name, source->token_count,
                       (long long)model->config.hidden);
  return read_values(&source->token_rows, source, tensor, path);
}

Status peft_read_trained(AdapterSource *source, const Model *model, const Safetensors *st, const json_t *config, int *used) {
  char *tokens = memory_format("%s%s%s", prefix, model->embedding.name, delta);
  Status status = STATUS_OK;
  for (int64_t i = 0; status == STATUS_OK && i < st->tensor_count; i++) {
    const SafetensorsTensor *tensor = &st->tensors[i];
    const char *name = tensor->name + strlen(prefix);
    bool is_bias = text_ends_with(tensor->name, ".bias");
    if (!text_starts_with(tensor->name, prefix) || strstr(name, ".lora_")) continue;
    if (strcmp(tensor->name, tokens) == 0) {
      status = read_tokens(source, model, tensor, config, st->paths[0]);
      ++*used;
    } else if (text_ends_with(name, ".base_layer.weight")) {
      ++*used;
    } else if (is_bias || text_ends_with(name, ".weight")) {
      TrainedSource *trained = &ARRAY_PUSH(source->trained, source->trained_count, source->trained_capacity);
      *trained = (TrainedSource){.is_bias = is_bias, .count = tensor->count};
      trained->module = arena_copy_bytes(&source->arena, name, strlen(name) - strlen(is_bias ? ".bias" : ".weight"));
      status = read_values(&trained->values, source, tensor, st->paths[0]);
      ++*used;
    }
  }
  free(tokens);
  return status;
}

static Trained *find_trained(const Adapter *adapter, const TrainedSource *source) {
  for (int i = 0; i < adapter->trained_count; i++) {
    Trained *trained = &adapter->trained[i];
    if (strcmp(trained->module, source->module) == 0 && (trained->role == TENSOR_BIAS) == source->is_bias) return trained;
  }
  return NULL;
}

Status peft_add_trained(Adapter *adapter, const AdapterSource *source, const char *path) {
  for (int i = 0; i < source->trained_count; i++) {
    const TrainedSource *trained = &source->trained[i];
    // A module brings its weight and its bias.
    if (!find_trained(adapter, trained)) trained_add_module(adapter, trained->module);
    if (!find_trained(adapter, trained))
      return status_fail(STATUS_BAD_INPUT, "%s: %s%s.%s belongs to no module of %s; the adapter was made for another model", path, prefix,
                         trained->module, trained->is_bias ? "bias" : "weight", adapter->model->path);
    const Parameter *parameter = &find_trained(adapter, trained)->parameter;
    if (parameter->rows * parameter->columns != trained->count)
      return status_fail(STATUS_BAD_INPUT, "%s: %s was made for another model: it has %lld values, where %s has %lld x %lld", path,
                         trained->module, (long long)trained->count, adapter->model->path, (long long)parameter->rows,
                         (long long)parameter->columns);
  }
  return source->token_count ? status_context(trained_add_tokens(adapter, source->tokens, source->token_count), "%s", path) : STATUS_OK;
}

// Between the order of the file and the model's: rows of a matrix, or elements of a bias, and the offset of norms.
static void reorder(float *out, const float *in, const Trained *trained, const Model *model, bool to_file) {
  const Parameter *p = &trained->parameter;
  int64_t count = p->rows * p->columns, width = trained->role == TENSOR_BIAS ? 1 : p->columns;
  if (trained->linear) {
    (to_file ? b_rows_to_file : b_rows_from_file)(out, in, trained->linear, model, width, false);
    return;
  }
  // A GGUF file has the offset in the weight, as the model then has it, and PEFT has not.
  float offset = model->is_gguf && trained->role == TENSOR_NORM ? model->family->norm_offset : 0;
  for (int64_t i = 0; i < count; i++) out[i] = in[i] + (to_file ? -offset : offset);
}

void peft_put_trained(Adapter *adapter, const AdapterSource *source) {
  Backend *backend = adapter->model->backend;
  for (int i = 0; i < source->trained_count; i++) {
    const Trained *trained = find_trained(adapter, &source->trained[i]);
    float *values = memory_new((size_t)source->trained[i].count, sizeof *values);
    reorder(values, source->trained[i].values, trained, adapter->model, false);
    backend->upload(trained->parameter.data, values, source->trained[i].count * (int64_t)sizeof *values, backend);
    free(values);
  }
  const Parameter *tokens = &adapter->tokens.rows;
  if (tokens->rows) backend->upload(tokens->data, source->token_rows, tokens->rows * tokens->columns * (int64_t)sizeof(float), backend);
}

Status adapter_vocabulary(int64_t *rows, const char *path) {
  *rows = 0;
  if (!directory_exists(path)) return STATUS_OK;
  AdapterSource source = {0};
  json_t *config = NULL;
  Safetensors st;
  char *file = path_join(path, "adapter_model.safetensors");
  Status status = safetensors_open(&st, file);
  free(file);
  if (status != STATUS_OK) return status;
  for (int64_t i = 0; i < st.tensor_count; i++) {
    const SafetensorsTensor *tensor = &st.tensors[i];
    bool is_matrix = text_ends_with(tensor->name, ".embed_tokens.weight") || text_ends_with(tensor->name, ".lm_head.weight");
    if (is_matrix && tensor->dimensions == 2 && tensor->shape[0] > *rows) *rows = tensor->shape[0];
  }
  status = peft_config_examine(&config, path);
  if (status == STATUS_OK && json_object_get(config, "trainable_token_indices") &&
      !json_is_null(json_object_get(config, "trainable_token_indices")))
    status = read_indices(&source, config, path);
  for (int i = 0; i < source.token_count; i++)
    if (source.tokens[i] >= *rows) *rows = source.tokens[i] + 1;
  arena_release(&source.arena);
  json_decref(config);
  safetensors_close(&st);
  return status;
}

// ---- Writing ----

void peft_declare_trained(SafetensorsWriter *writer, const Adapter *adapter) {
  for (int i = 0; i < adapter->trained_count; i++) {
    const Trained *trained = &adapter->trained[i];
    const Parameter *p = &trained->parameter;
    bool is_vector = trained->role == TENSOR_BIAS || trained->role == TENSOR_NORM;
    char *name = memory_format("%s%s.%s", prefix, trained->module, trained->role == TENSOR_BIAS ? "bias" : "weight");
    safetensors_declare(writer, name, ST_F32, is_vector ? 1 : 2, is_vector ? &p->columns : (int64_t[]){p->rows, p->columns});
    free(name);
  }
  if (!adapter->tokens.rows.rows) return;
  char *name = memory_format("%s%s%s", prefix, adapter->model->embedding.name, delta);
  safetensors_declare(writer, name, ST_F32, 2, (int64_t[]){adapter->tokens.rows.rows, adapter->tokens.rows.columns});
  free(name);
}

static Status write_parameter(SafetensorsWriter *writer, const Adapter *adapter, const Parameter *parameter, const Trained *trained) {
  Backend *backend = adapter->model->backend;
  size_t bytes = (size_t)(parameter->rows * parameter->columns) * sizeof(float);
  void *values, *ordered = NULL;
  TRY(memory_try(&values, bytes, "a trained tensor"));
  Status status = trained ? memory_try(&ordered, bytes, "a trained tensor") : STATUS_OK;
  if (status == STATUS_OK) {
    backend->download(values, parameter->data, (int64_t)bytes, backend);
    if (trained) reorder(ordered, values, trained, adapter->model, true);
    safetensors_write(writer, trained ? ordered : values, bytes);
  }
  free(values);
  free(ordered);
  return status;
}

Status peft_write_trained(SafetensorsWriter *writer, const Adapter *adapter) {
  for (int i = 0; i < adapter->trained_count; i++)
    TRY(write_parameter(writer, adapter, &adapter->trained[i].parameter, &adapter->trained[i]));
  return adapter->tokens.rows.rows ? write_parameter(writer, adapter, &adapter->tokens.rows, NULL) : STATUS_OK;
}

void peft_config_trained(json_t *config, const Adapter *adapter) {
  if (adapter->trained_count) {
    json_t *names = json_array();
    for (int i = 0; i < adapter->trained_count; i++) {
      if (adapter->trained[i].role == TENSOR_BIAS) continue;  // goes with its weight
      const char *module = adapter->trained[i].module;
      json_array_append_new(names, json_string(adapter->trained[i].role == TENSOR_EMBEDDING ? "embed_tokens" : module));
    }
    json_object_set_new(config, "modules_to_save", names);
  }
  if (!adapter->tokens.rows.rows) return;
  json_t *ids = json_array();
  for (int64_t i = 0; i < adapter->tokens.rows.rows; i++) json_array_append_new(ids, json_integer(adapter->tokens.ids[i]));
  json_object_set_new(config, "trainable_token_indices", ids);
}
