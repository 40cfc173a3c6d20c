// Opening a model: every tensor's name, type and shape is checked before it is used; weights stay mapped.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "models/model.h"

// A tensor as either format gives it.
typedef struct Source {
  const void *data;
  BlockType type;
  int64_t rows, columns;  // a vector has one row
} Source;

static Status find_gguf(Source *source, const Model *model, const char *name) {
  const GgufTensor *tensor = gguf_find_tensor(&model->gguf, name);
  if (!tensor) return status_fail(STATUS_BAD_INPUT, "%s: the tensor %s is missing", model->path, name);
  const BlockTraits *traits = block_traits((BlockType)tensor->type);
  if (!traits) {
    char *readable = block_type_names(false);
    Status status = status_fail(STATUS_BAD_INPUT, "%s: %s has the type %s, which is not built; requantise the file to a type that is (%s)",
                                model->path, name, block_type_name_any(tensor->type), readable);
    free(readable);
    return status;
  }
  if (tensor->dimensions > 2)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %d dimensions, not 1 or 2", model->path, name, tensor->dimensions);
  *source = (Source){.data = tensor->data, .type = traits->type, .rows = tensor->shape[1], .columns = tensor->shape[0]};
  return STATUS_OK;
}

// A decoder that was saved without its head has no "model." before its names.
static const SafetensorsTensor *find_in_folder(const Model *model, const char *name) {
  const SafetensorsTensor *tensor = safetensors_find(&model->safetensors, name);
  return tensor || !text_starts_with(name, "model.") ? tensor : safetensors_find(&model->safetensors, name + strlen("model."));
}

static Status find_safetensors(Source *source, const Model *model, const char *name) {
  const SafetensorsTensor *tensor = find_in_folder(model, name);
  if (!tensor) return status_fail(STATUS_BAD_INPUT, "%s: the tensor %s is missing", model->path, name);
  const char *path = model->safetensors.paths[tensor->file];
  BlockType type;
  switch (tensor->type) {
    case ST_F32: type = BLOCK_F32; break;
    case ST_F16: type = BLOCK_F16; break;
    case ST_BF16: type = BLOCK_BF16; break;
    default:
      return status_fail(STATUS_BAD_INPUT, "%s: %s has the type %s; weights may be F32, F16 or BF16", path, name,
                         safetensors_type_name(tensor->type));
  }
  if (tensor->dimensions != 1 && tensor->dimensions != 2)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %d dimensions, not 1 or 2", path, name, tensor->dimensions);
  bool matrix = tensor->dimensions == 2;
  *source = (Source){.data = tensor->data, .type = type, .rows = matrix ? tensor->shape[0] : 1, .columns = tensor->shape[matrix ? 1 : 0]};
  return STATUS_OK;
}

static Status find_tensor(Source *source, const Model *model, const char *name, int64_t rows, int64_t columns) {
  TRY(model->is_gguf ? find_gguf(source, model, name) : find_safetensors(source, model, name));
  if (source->rows != rows || source->columns != columns)
    return status_fail(STATUS_BAD_INPUT, "%s: %s is %lld x %lld, and the model's dimensions say %lld x %lld", model->path, name,
                       (long long)source->rows, (long long)source->columns, (long long)rows, (long long)columns);
  return STATUS_OK;
}

static bool has_tensor(const Model *model, const char *name) {
  return model->is_gguf ? gguf_find_tensor(&model->gguf, name) != NULL : find_in_folder(model, name) != NULL;
}

static Status load_matrix(Matrix *matrix, Model *model, const char *name, int64_t rows, int64_t columns) {
  Source source;
  TRY(find_tensor(&source, model, name, rows, columns));
  int64_t bytes = block_row_bytes(source.type, columns) * rows;
  // A safetensors header of odd length leaves floats unaligned; kernels may rely on alignment.
  if (block_traits(source.type)->elements == 1 && (uintptr_t)source.data % (size_t)block_traits(source.type)->bytes) {
    void *copy = arena_new(&model->arena, (size_t)bytes, 1);
    source.data = memcpy(copy, source.data, (size_t)bytes);
  }
  *matrix = (Matrix){.type = source.type, .rows = rows, .columns = columns, .data = source.data};
  return STATUS_OK;
}

// Norms, biases and RoPE factors: always float32.
static Status load_vector(const float **vector, Model *model, const char *name, int64_t length) {
  Source source;
  TRY(find_tensor(&source, model, name, 1, length));
  const BlockTraits *traits = block_traits(source.type);
  if (traits->elements != 1)
    return status_fail(STATUS_BAD_INPUT, "%s: %s is quantised (%s), which a vector cannot be", model->path, name, traits->name);
  float *values = arena_new(&model->arena, (size_t)length, sizeof *values);
  char *aligned = memory_new((size_t)length, (size_t)traits->bytes);
  memcpy(aligned, source.data, (size_t)length * (size_t)traits->bytes);
  traits->dequantize(values, aligned, length);
  free(aligned);
  *vector = values;
  return STATUS_OK;
}

static const char *layer_name(Model *model, const char *format, int layer, const char *suffix) {
  char name[128];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  snprintf(name, sizeof name, format, layer);  // the formats are the families' own, each with one %d
#pragma GCC diagnostic pop
  return arena_format(&model->arena, "%s%s", name, suffix);
}

// [out, in] of each linear layer.
static void linear_shape(int64_t *rows, int64_t *columns, const ModelConfig *c, size_t offset) {
  int64_t heads = c->heads * c->head_size, kv_heads = c->kv_heads * c->head_size;
  *rows = *columns = c->hidden;
  if (offset == offsetof(Layer, q)) *rows = heads;
  else if (offset == offsetof(Layer, k) || offset == offsetof(Layer, v)) *rows = kv_heads;
  else if (offset == offsetof(Layer, o)) *columns = heads;
  else if (offset == offsetof(Layer, gate) || offset == offsetof(Layer, up)) *rows = c->feed_forward;
  else if (offset == offsetof(Layer, down)) *columns = c->feed_forward;
}

static Status load_linear(Linear *linear, Model *model, const LinearName *names, int layer) {
  const ModelConfig *config = &model->config;
  int64_t rows, columns;
  linear_shape(&rows, &columns, config, names->offset);
  linear->name = layer_name(model, names->name, layer, "");
  linear->gguf_name = layer_name(model, names->gguf, layer, "");
  if (model->family->gguf_interleaves && names->offset == offsetof(Layer, q)) linear->interleaved_heads = config->heads;
  if (model->family->gguf_interleaves && names->offset == offsetof(Layer, k)) linear->interleaved_heads = config->kv_heads;
  const char *base = model->is_gguf ? linear->gguf_name : linear->name;
  TRY(load_matrix(&linear->weight, model, arena_format(&model->arena, "%s.weight", base), rows, columns));
  const char *bias = arena_format(&model->arena, "%s.bias", base);
  if (has_tensor(model, bias)) TRY(load_vector(&linear->bias, model, bias, rows));
  return STATUS_OK;
}

static Status load_layer(Model *model, int index) {
  Layer *layer = &model->layers[index];
  for (int i = 0; i < model->family->norm_count; i++) {
    const NormName *names = &model->family->norms[i];
    const char *name = layer_name(model, model->is_gguf ? names->gguf : names->name, index, ".weight");
    TRY(load_vector((const float **)((char *)layer + names->offset), model, name, model->config.hidden));
  }
  for (int i = 0; i < model->family->linear_count; i++) {
    Linear *linear = (Linear *)((char *)layer + model->family->linears[i].offset);
    TRY(load_linear(linear, model, &model->family->linears[i], index));
    model->linears[model->linear_count++] = linear;
  }
  return STATUS_OK;
}

static Status load_rope(Model *model) {
  int64_t pairs = model->config.head_size / 2;
  model->rope_frequencies = arena_new(&model->arena, (size_t)pairs, sizeof(float));
  config_rope_frequencies(model->rope_frequencies, &model->config);
  if (!model->is_gguf || !has_tensor(model, "rope_freqs.weight")) return STATUS_OK;
  const float *factors;  // Llama 3.1's scaling, as divisors
  TRY(load_vector(&factors, model, "rope_freqs.weight", pairs));
  for (int64_t i = 0; i < pairs; i++) {
    if (!(factors[i] > 0)) return status_fail(STATUS_BAD_INPUT, "%s: rope_freqs.weight holds a factor that is not positive", model->path);
    model->rope_frequencies[i] /= factors[i];
  }
  return STATUS_OK;
}

static Status load_weights(Model *model) {
  ModelConfig *config = &model->config;
  const char *embedding = model->is_gguf ? "token_embd.weight" : "model.embed_tokens.weight";
  const char *head = model->is_gguf ? "output.weight" : "lm_head.weight";
  if (model->is_gguf) {  // the vocabulary's size is the matrix's own
    Source source;
    TRY(find_gguf(&source, model, embedding));
    config->vocabulary = source.rows;
    config->tied_embeddings = !has_tensor(model, head);
  }
  // Of tied weights a folder may hold either name.
  if (config->tied_embeddings && !has_tensor(model, embedding) && has_tensor(model, head)) embedding = head;
  TRY(load_matrix(&model->embedding, model, embedding, config->vocabulary, config->hidden));
  model->head = (Linear){.weight = model->embedding, .name = "lm_head", .gguf_name = "output"};
  if (!config->tied_embeddings) TRY(load_matrix(&model->head.weight, model, head, config->vocabulary, config->hidden));
  TRY(load_vector(&model->final_norm, model, model->is_gguf ? "output_norm.weight" : "model.norm.weight", config->hidden));
  model->layers = arena_new(&model->arena, (size_t)config->layers, sizeof *model->layers);
  model->linears = arena_new(&model->arena, (size_t)(config->layers * model->family->linear_count), sizeof *model->linears);
  for (int i = 0; i < config->layers; i++) TRY(load_layer(model, i));
  return load_rope(model);
}

typedef struct QuantizeTask {
  Model *model;
  void **storage;  // for each linear layer; NULL: it stays as it is
} QuantizeTask;

static void quantize_linear(void *argument, int64_t task, int thread) {
  (void)thread;
  QuantizeTask *job = argument;
  if (!job->storage[task]) return;
  Matrix *weight = &job->model->linears[task]->weight;
  int64_t count = weight->rows * weight->columns;
  float *values = memory_new((size_t)count, sizeof *values);
  block_traits(weight->type)->dequantize(values, weight->data, count);
  nf4_quantize(&weight->nf4, job->storage[task], values, count);
  // Nothing reads the source again; where load_matrix had to copy it, the copy's pages go.
  file_map_forget(weight->data, (size_t)(block_row_bytes(weight->type, weight->columns) * weight->rows));
  weight->type = BLOCK_NF4;
  weight->data = NULL;
  free(values);
}

// Linear layers in plain floats become NF4; blocks that are quantised stay as they are.
static Status quantize_linears(Model *model) {
  QuantizeTask job = {.model = model, .storage = memory_new((size_t)model->linear_count, sizeof(void *))};
  for (int i = 0; i < model->linear_count; i++) {
    const Matrix *weight = &model->linears[i]->weight;
    if (block_traits(weight->type)->elements != 1) continue;
    int64_t bytes = nf4_bytes(weight->rows * weight->columns);
    job.storage[i] = arena_new(&model->arena, (size_t)bytes, 1);
    model->nf4_bytes += bytes;
  }
  pool_run(model->backend->pool, model->linear_count, quantize_linear, &job);
  free(job.storage);
  return STATUS_OK;
}

static Status check_path(const char *path) {
  bool folder = directory_exists(path);
  if (!folder && !file_exists(path))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: there is no such file or folder; a model is a GGUF file or a Hugging Face folder on this machine", path);
  char *config = folder ? path_join(path, "config.json") : NULL;
  bool known = !config || file_exists(config);
  free(config);
  if (known) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: a folder without config.json; give a Hugging Face folder, or the path of a GGUF file", path);
}

Status model_open(Model **out, const char *path, ModelOptions options, Backend *backend) {
  *out = NULL;
  TRY(check_path(path));
  Model *model = *out = memory_new(1, sizeof *model);
  model->path = memory_copy_string(path);
  model->backend = backend;
  Status status = STATUS_OK;
  if (directory_exists(path)) {
    TRY_DONE(config_from_folder(&model->config, &model->family, path));
    TRY_DONE(safetensors_open(&model->safetensors, path));
  } else {
    model->is_gguf = true;
    TRY_DONE(gguf_open(&model->gguf, path));
    TRY_DONE(config_from_gguf(&model->config, &model->family, &model->gguf));
  }
  TRY_DONE(load_weights(model));
  if (options.quantize_nf4) TRY_DONE(quantize_linears(model));
done:
  if (status != STATUS_OK) {
    model_close(model);
    *out = NULL;
  }
  return status;
}

static int64_t mapped_bytes(const Matrix *matrix) {
  return matrix->type == BLOCK_NF4 ? 0 : block_row_bytes(matrix->type, matrix->columns) * matrix->rows;
}

int64_t model_mapped_bytes(const Model *model) {
  int64_t bytes = mapped_bytes(&model->embedding) + (model->config.tied_embeddings ? 0 : mapped_bytes(&model->head.weight));
  for (int i = 0; i < model->linear_count; i++) bytes += mapped_bytes(&model->linears[i]->weight);
  return bytes;
}

void model_close(Model *model) {
  if (!model) return;
  if (model->is_gguf) gguf_close(&model->gguf);
  else safetensors_close(&model->safetensors);
  arena_release(&model->arena);
  free(model->path);
  free(model);
}
