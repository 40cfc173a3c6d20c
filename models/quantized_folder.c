// Which of the formats a module's tensors are in, and what the readers of all formats share.
#include "models/quantized_folder.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "models/quantized_parts.h"

Status quantized_folder_open(Model *model) {
  QuantizedFolder *folder = arena_new(&model->arena, 1, sizeof *folder);
  bool found;
  TRY(quant_config_read(&folder->config, &found, model->path, &model->arena));
  if (!found) return STATUS_OK;
  model->quantized = folder;
  model->quantized_float_type = folder->config.float_type;
  return STATUS_OK;
}

// ---- Parts ----

static const SafetensorsTensor *find_part(const Model *model, const char *module, const char *part) {
  char name[512];
  int length = snprintf(name, sizeof name, "%s.%s", module, part);
  if (length < 0 || length >= (int)sizeof name) return NULL;
  const SafetensorsTensor *tensor = safetensors_find(&model->safetensors, name);
  // A decoder that was saved without its head has no "model." before its names.
  return tensor || !text_starts_with(name, "model.") ? tensor : safetensors_find(&model->safetensors, name + strlen("model."));
}

const SafetensorsTensor *quant_find(const QuantModule *module, const char *part) { return find_part(module->model, module->name, part); }

Status quant_fail(const QuantModule *module, const char *part, const char *format, ...) {
  Buffer text = {0};
  va_list arguments;
  va_start(arguments, format);
  char message[512];
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  buffer_append_string(&text, message);
  const SafetensorsTensor *tensor = quant_find(module, part);
  const char *path = tensor ? module->model->safetensors.paths[tensor->file] : module->model->path;
  Status status = status_fail(STATUS_BAD_INPUT, "%s: %s.%s %s", path, module->name, part, text.data);
  buffer_release(&text);
  return status;
}

static void shape_text(char text[64], const SafetensorsTensor *tensor) {
  int length = snprintf(text, 64, "%s [", safetensors_type_name(tensor->type));
  for (int i = 0; i < tensor->dimensions && length < 60; i++)
    length += snprintf(text + length, (size_t)(64 - length), "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
  if (length < 63) snprintf(text + length, (size_t)(64 - length), "]");
}

Status quant_need(const SafetensorsTensor **out, const QuantModule *module, const char *part, SafetensorsType type, int64_t rows,
                  int64_t columns) {
  const SafetensorsTensor *tensor = *out = quant_find(module, part);
  if (!tensor) return quant_fail(module, part, "is missing, without which %s weights mean nothing", module->config->name);
  bool fits = tensor->type == type && tensor->dimensions == (columns ? 2 : 1) && tensor->shape[0] == rows &&
              (columns == 0 || tensor->shape[1] == columns);
  if (fits) return STATUS_OK;
  char own[64];
  shape_text(own, tensor);
  if (columns)
    return quant_fail(module, part, "is %s, and the model's dimensions and the settings of %s say %s [%lld, %lld]", own,
                      module->config->name, safetensors_type_name(type), (long long)rows, (long long)columns);
  return quant_fail(module, part, "is %s, and the model's dimensions and the settings of %s say %s [%lld]", own, module->config->name,
                    safetensors_type_name(type), (long long)rows);
}

void *quant_new(const QuantModule *module, int64_t count, size_t size) {
  module->model->nf4_bytes += count * (int64_t)size;
  return arena_new(&module->model->arena, (size_t)count, size);
}

void quant_count_mapped(const QuantModule *module, int64_t bytes) { module->model->quantized_mapped_bytes += bytes; }

const void *quant_in_place(const QuantModule *module, const SafetensorsTensor *tensor) {
  if ((uintptr_t)tensor->data % (size_t)safetensors_type_bytes(tensor->type) == 0) {
    quant_count_mapped(module, (int64_t)tensor->bytes);
    return tensor->data;
  }
  void *copy = quant_new(module, (int64_t)tensor->bytes, 1);
  memcpy(copy, tensor->data, tensor->bytes);
  file_map_forget(tensor->data, tensor->bytes);
  return copy;
}

Status quant_scale_type(BlockType *type, const QuantModule *module, const char *part, const SafetensorsTensor *tensor) {
  if (tensor->type == ST_F16) *type = BLOCK_F16;
  else if (tensor->type == ST_BF16) *type = BLOCK_BF16;
  else if (tensor->type == ST_F32) *type = BLOCK_F32;
  else return quant_fail(module, part, "has the type %s; scales may be F32, F16 or BF16", safetensors_type_name(tensor->type));
  enum { PIECE = 1024 };
  float values[PIECE];
  for (int64_t first = 0; first < tensor->count; first += PIECE) {
    int64_t n = tensor->count - first < PIECE ? tensor->count - first : PIECE;
    safetensors_to_float(values, tensor, first, n);
    for (int64_t i = 0; i < n; i++)
      if (!isfinite(values[i]))
        return quant_fail(module, part, "holds %g at %lld, which no scale can be", (double)values[i], (long long)(first + i));
  }
  return STATUS_OK;
}

Status quant_read_index(const int32_t **group_of, const QuantModule *module, const SafetensorsTensor *index, const char *part,
                        int64_t groups, int64_t group) {
  *group_of = NULL;
  bool is_contiguous = true;
  for (int64_t i = 0; i < module->columns; i++) {
    int32_t g;
    memcpy(&g, (const char *)index->data + 4 * i, sizeof g);
    if (g < 0 || g >= groups)
      return quant_fail(module, part, "names the group %d for column %lld, and there are %lld groups", g, (long long)i, (long long)groups);
    is_contiguous &= g == i / group;
  }
  if (!is_contiguous) *group_of = memcpy(quant_new(module, module->columns, sizeof **group_of), index->data, (size_t)module->columns * 4);
  return STATUS_OK;
}

Status quant_finish(Matrix *out, const QuantModule *module, const Grouped *grouped) {
  Grouped *own = arena_new(&module->model->arena, 1, sizeof *own);
  *own = *grouped;
  own->columns = module->columns;
  if (own->factor == 0) own->factor = 1;
  if (own->row_group == 0) own->row_group = 1;
  *out = (Matrix){.type = BLOCK_GROUPED, .rows = module->rows, .columns = module->columns, .grouped = own};
  return STATUS_OK;
}

// ---- Modules ----

// A name of modules_to_not_convert: the whole module, its end ("lm_head") or a part of its path.
static bool is_skipped(const QuantConfig *config, const char *module) {
  for (int64_t i = 0; i < config->skipped_count; i++) {
    const char *name = config->skipped[i];
    size_t length = strlen(name);
    if (length == 0 || text_starts_with(name, "re:")) continue;
    for (const char *at = strstr(module, name); at; at = strstr(at + 1, name))
      if ((at == module || at[-1] == '.') && (at[length] == 0 || at[length] == '.')) return true;
  }
  return false;
}

typedef enum Kind { KIND_FLOAT, KIND_PACKED, KIND_COMPRESSED, KIND_SCALED, KIND_BITSANDBYTES } Kind;

// What the tensors say, and the methods that write such.
static Kind kind_of(const QuantModule *module, const SafetensorsTensor *weight) {
  if (quant_find(module, "qweight")) return KIND_PACKED;
  if (quant_find(module, "weight_packed")) return KIND_COMPRESSED;
  if (quant_find(module, "weight.absmax") || quant_find(module, "SCB")) return KIND_BITSANDBYTES;
  if (!weight) return KIND_FLOAT;
  bool is_float = weight->type == ST_F32 || weight->type == ST_F16 || weight->type == ST_BF16;
  if (is_float) return KIND_FLOAT;
  return module->config->method == QUANT_BITSANDBYTES ? KIND_BITSANDBYTES : KIND_SCALED;
}

static bool kind_fits(Kind kind, QuantMethod method) {
  switch (kind) {
    case KIND_FLOAT: return true;
    case KIND_PACKED: return method == QUANT_GPTQ || method == QUANT_AWQ;
    case KIND_COMPRESSED: return method == QUANT_COMPRESSED;
    case KIND_SCALED: return method == QUANT_FP8 || method == QUANT_COMPRESSED;
    case KIND_BITSANDBYTES: return method == QUANT_BITSANDBYTES;
  }
  return false;
}

static Status read_kind(Matrix *out, Kind kind, const QuantModule *module, const SafetensorsTensor *weight) {
  switch (kind) {
    case KIND_PACKED: return quant_read_packed(out, module);
    case KIND_COMPRESSED: return quant_read_compressed(out, module);
    case KIND_BITSANDBYTES: return quant_read_bitsandbytes(out, module, weight);
    default: return quant_read_scaled(out, module, weight);
  }
}

Status quantized_folder_matrix(Matrix *out, bool *is_quantized, Model *model, const char *name, int64_t rows, int64_t columns) {
  *is_quantized = false;
  if (!model->quantized) return STATUS_OK;
  QuantModule module = {.model = model, .config = &model->quantized->config, .name = name, .rows = rows, .columns = columns};
  const SafetensorsTensor *weight = quant_find(&module, "weight");
  Kind kind = kind_of(&module, weight);
  if (kind == KIND_FLOAT) return STATUS_OK;
  if (!kind_fits(kind, module.config->method))
    return status_fail(STATUS_BAD_INPUT, "%s: config.json says that weights are quantised by %s, and %s has tensors of another format",
                       model->path, module.config->name, name);
  if (is_skipped(module.config, name))
    return status_fail(STATUS_BAD_INPUT, "%s: config.json says that %s is not converted, and its tensors are quantised", model->path, name);
  *is_quantized = true;
  TRY(read_kind(out, kind, &module, weight));
  QuantizedFolder *folder = model->quantized;
  Matrix *own = arena_new(&model->arena, 1, sizeof *own);
  *own = *out;
  map_set_string(&folder->matrices, arena_copy_string(&model->arena, name), folder->count);
  ARRAY_PUSH(folder->read, folder->count, folder->capacity) = own;
  return STATUS_OK;
}

void quantized_folder_close(Model *model) {
  if (!model->quantized) return;
  map_release(&model->quantized->matrices);
  free(model->quantized->read);
}

const Matrix *quantized_folder_find(const Model *model, const char *module) {
  int64_t index;
  if (!model->quantized) return NULL;
  if (map_get_string(&model->quantized->matrices, module, &index)) return model->quantized->read[index];
  char name[512];
  snprintf(name, sizeof name, "model.%s", module);
  return map_get_string(&model->quantized->matrices, name, &index) ? model->quantized->read[index] : NULL;
}

int64_t quantized_folder_module(const Model *model, const char *name) {
  static const char *const mains[] = {".qweight", ".weight_packed", ".weight"};
  int64_t length = (int64_t)strlen(name);
  for (size_t i = 0; model->quantized && i < sizeof mains / sizeof *mains; i++)
    if (text_ends_with(name, mains[i])) return length - (int64_t)strlen(mains[i]);
  return -1;
}

bool quantized_folder_is_part(const Model *model, const char *name) {
  static const char *const parts[] = {
      "qzeros",         "scales",       "g_idx",        "weight_scale",     "weight_scale_inv", "weight_zero_point",
      "weight_shape",   "weight_g_idx", "input_scale",  "input_zero_point", "output_scale",     "activation_scale",
      "input_scale_ub", "SCB",          "weight_format"};
  if (!model->quantized) return false;
  const char *last = strrchr(name, '.');
  for (size_t i = 0; last && i < sizeof parts / sizeof *parts; i++)
    if (strcmp(last + 1, parts[i]) == 0) return true;
  const char *weight = strstr(name, ".weight.");  // bitsandbytes' statistics
  return weight != NULL && model->quantized->config.method == QUANT_BITSANDBYTES;
}
