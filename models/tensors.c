#include "models/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "models/quantized_folder.h"

// A tensor as either format gives it.
typedef struct Source {
  const void *data;
  BlockType type;
  int64_t planes, rows, columns;  // a vector has one row, a matrix one plane
} Source;

const char *tensor_layer_name(Model *model, int layer, const char *name, const char *gguf, const char *suffix) {
  if (model->is_gguf) return arena_format(&model->arena, "blk.%d.%s%s", layer, gguf, suffix);
  return arena_format(&model->arena, "model.layers.%d.%s%s", layer, name, suffix);
}

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
  if (tensor->dimensions > 3)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %d dimensions, not 1 to 3", model->path, name, tensor->dimensions);
  *source = (Source){
      .data = tensor->data, .type = traits->type, .planes = tensor->shape[2], .rows = tensor->shape[1], .columns = tensor->shape[0]};
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
  int dimensions = tensor->dimensions;
  if (dimensions < 1 || dimensions > 3)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %d dimensions, not 1 to 3", path, name, dimensions);
  *source = (Source){.data = tensor->data,
                     .type = type,
                     .planes = dimensions > 2 ? tensor->shape[0] : 1,
                     .rows = dimensions > 1 ? tensor->shape[dimensions - 2] : 1,
                     .columns = tensor->shape[dimensions - 1]};
  return STATUS_OK;
}

static Status find(Source *source, const Model *model, const char *name) {
  return model->is_gguf ? find_gguf(source, model, name) : find_safetensors(source, model, name);
}

static Status find_shaped(Source *source, const Model *model, const char *name, int64_t planes, int64_t rows, int64_t columns) {
  TRY(find(source, model, name));
  if (source->planes == planes && source->rows == rows && source->columns == columns) return STATUS_OK;
  char planes_are[32] = "", planes_should[32] = "";
  if (source->planes > 1) snprintf(planes_are, sizeof planes_are, "%lld x ", (long long)source->planes);
  if (planes > 1) snprintf(planes_should, sizeof planes_should, "%lld x ", (long long)planes);
  return status_fail(STATUS_BAD_INPUT, "%s: %s is %s%lld x %lld, and the model's dimensions say %s%lld x %lld", model->path, name,
                     planes_are, (long long)source->rows, (long long)source->columns, planes_should, (long long)rows, (long long)columns);
}

bool tensor_is_there(const Model *model, const char *name) {
  return model->is_gguf ? gguf_find_tensor(&model->gguf, name) != NULL : find_in_folder(model, name) != NULL;
}

Status tensor_rows(int64_t *rows, Model *model, const char *name) {
  Source source;
  TRY(find(&source, model, name));
  *rows = source.rows;
  return STATUS_OK;
}

Status tensor_matrices(Matrix *matrices, Model *model, const char *name, int64_t count, int64_t rows, int64_t columns) {
  Source source;
  TRY(find_shaped(&source, model, name, count, rows, columns));
  int64_t bytes = block_row_bytes(source.type, columns) * rows;
  // A safetensors header of odd length leaves floats unaligned; kernels may rely on alignment.
  if (block_traits(source.type)->elements == 1 && (uintptr_t)source.data % (size_t)block_traits(source.type)->bytes) {
    void *copy = arena_new(&model->arena, (size_t)(bytes * count), 1);
    source.data = memcpy(copy, source.data, (size_t)(bytes * count));
  }
  for (int64_t i = 0; i < count; i++)
    matrices[i] = (Matrix){.type = source.type, .rows = rows, .columns = columns, .data = (const char *)source.data + i * bytes};
  return STATUS_OK;
}

Status tensor_matrix(Matrix *matrix, Model *model, const char *name, int64_t rows, int64_t columns) {
  if (model->quantized && text_ends_with(name, ".weight")) {
    bool is_quantized;
    const char *module = arena_copy_bytes(&model->arena, name, strlen(name) - strlen(".weight"));
    TRY(quantized_folder_matrix(matrix, &is_quantized, model, module, rows, columns));
    if (is_quantized) return STATUS_OK;
  }
  return tensor_matrices(matrix, model, name, 1, rows, columns);
}

Status tensor_vector(const float **vector, Model *model, const char *name, int64_t length) {
  Source source;
  TRY(find_shaped(&source, model, name, 1, 1, length));
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
