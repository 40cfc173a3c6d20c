// GGUF adapters: general.type = adapter, adapter.type = lora, NAME.weight.lora_a (ne = [in, rank]) and .lora_b
// (ne = [rank, out]), of token_embd [rank, vocabulary] and [rank, hidden]; the scale is adapter.lora.alpha / rank, so rsLoRA writes alpha * sqrt(rank).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"

static bool string_is(const Gguf *gguf, const char *key, const char *expected) {
  GgufString text;
  return gguf_get_string(gguf, key, &text) && text.length == strlen(expected) && memcmp(text.data, expected, text.length) == 0;
}

static Status read_floats(float **out, Arena *arena, const GgufTensor *tensor, const Gguf *gguf) {
  const BlockTraits *traits = block_traits((BlockType)tensor->type);
  if (!traits) return status_fail(STATUS_BAD_INPUT, "%s: %s has a type that is not built", gguf->path, tensor->name);
  int64_t count = tensor->shape[0] * tensor->shape[1];
  *out = arena_new(arena, (size_t)count, sizeof(float));
  traits->dequantize(*out, tensor->data, count);
  return STATUS_OK;
}

static Status read_pair(AdapterSource *source, const Model *model, Linear *linear, const Gguf *gguf, double alpha, int64_t *used) {
  const GgufTensor *tensors[2];
  char name[128];
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%s.weight.lora_%c", linear->gguf_name, "ab"[i]);
    tensors[i] = gguf_find_tensor(gguf, name);
  }
  const GgufTensor *a = tensors[0], *b = tensors[1];
  if (!a && !b) return STATUS_OK;
  if (!a || !b) return status_fail(STATUS_BAD_INPUT, "%s: %s has only one of lora_a and lora_b", gguf->path, linear->gguf_name);
  bool is_embedding = linear == &model->embedding;
  int64_t rank = b->shape[0], in = is_embedding ? linear->weight.rows : linear->weight.columns,
          out = is_embedding ? linear->weight.columns : linear->weight.rows;
  if (a->dimensions > 2 || b->dimensions > 2 || a->shape[is_embedding] != in || a->shape[!is_embedding] != rank || b->shape[1] != out)
    return status_fail(STATUS_BAD_INPUT, "%s: %s was made for another model: its shapes do not fit %s", gguf->path, linear->gguf_name,
                       model->path);
  PairSource pair = {.linear = linear, .rank = rank, .scale = alpha / (double)rank};
  float *rows = NULL;
  TRY(read_floats(&pair.a, &source->arena, a, gguf));
  TRY(read_floats(&rows, &source->arena, b, gguf));
  pair.b = arena_new(&source->arena, (size_t)(b->shape[0] * b->shape[1]), sizeof(float));
  if (is_embedding) memcpy(pair.b, rows, (size_t)(out * rank) * sizeof *rows);
  else b_rows_from_file(pair.b, rows, linear, model, rank, true);
  source->rank = source->count == 0 || source->rank == pair.rank ? pair.rank : 0;
  ARRAY_PUSH(source->pairs, source->count, source->capacity) = pair;
  *used += 2;
  return STATUS_OK;
}

static Status read_all(AdapterSource *source, const Model *model, const Gguf *gguf) {
  if (!string_is(gguf, "general.type", "adapter") || !string_is(gguf, "adapter.type", "lora"))
    return status_fail(STATUS_BAD_INPUT, "%s: not a LoRA adapter (general.type and adapter.type say otherwise)", gguf->path);
  if (!string_is(gguf, "general.architecture", model->family->gguf))
    return status_fail(STATUS_BAD_INPUT, "%s: made for another architecture than %s (%s)", gguf->path, model->path, model->family->gguf);
  if (!gguf_get_float(gguf, "adapter.lora.alpha", &source->alpha))
    return status_fail(STATUS_BAD_INPUT, "%s: adapter.lora.alpha is missing", gguf->path);
  int64_t used = 0;
  for (int i = 0; i < model->linear_count; i++) TRY(read_pair(source, model, model->linears[i], gguf, source->alpha, &used));
  TRY(read_pair(source, model, (Linear *)(uintptr_t)&model->embedding, gguf, source->alpha, &used));
  TRY(read_pair(source, model, (Linear *)(uintptr_t)&model->head, gguf, source->alpha, &used));
  if (used != gguf->tensor_count)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: %lld of its %lld tensors belong to no adaptable linear layer of %s; it was made for another model", gguf->path,
                       (long long)(gguf->tensor_count - used), (long long)gguf->tensor_count, model->path);
  return STATUS_OK;
}

Status gguf_adapter_read(AdapterSource *source, const Model *model, const char *path) {
  Gguf gguf;
  TRY(gguf_open(&gguf, path));
  Status status = read_all(source, model, &gguf);
  gguf_close(&gguf);
  return status;
}

// One for the whole file, so that the first pair's scale is alpha / rank as it is; what others differ by goes into their B. A reader
// takes a missing or zero one for no effect at all.
static double file_alpha(const Adapter *adapter) {
  double alpha = (double)adapter->pairs[0].scale * (double)adapter_file_rank(adapter, 0);
  return alpha != 0 ? alpha : 1;
}

static void declare(GgufWriter *writer, const Adapter *adapter) {
  const Model *model = adapter->model;
  gguf_put_string(writer, "general.type", "adapter", 7);
  gguf_put_string(writer, "general.architecture", model->family->gguf, strlen(model->family->gguf));
  gguf_put_string(writer, "adapter.type", "lora", 4);
  gguf_put_float32(writer, "adapter.lora.alpha", (float)file_alpha(adapter));
  gguf_put_uint32(writer, "general.file_type", 0);
  for (int i = 0; i < adapter->count; i++) {
    const Linear *linear = adapter->linears[i];
    bool is_embedding = linear == &model->embedding;
    int64_t rank = adapter_file_rank(adapter, i), in = linear->weight.columns, out = linear->weight.rows;
    char name[128];
    snprintf(name, sizeof name, "%s.weight.lora_a", linear->gguf_name);
    gguf_declare_tensor(writer, name, BLOCK_F32, 2, (int64_t[]){is_embedding ? rank : in, is_embedding ? out : rank});
    snprintf(name, sizeof name, "%s.weight.lora_b", linear->gguf_name);
    gguf_declare_tensor(writer, name, BLOCK_F32, 2, (int64_t[]){rank, is_embedding ? in : out});
  }
}

const char *adapter_gguf_obstacle(const Adapter *adapter) {
  if (adapter->dora) return "it is a DoRA adapter, and the format has no place for magnitudes";
  if (adapter->count == 0 || adapter->trained_count > 0 || adapter->tokens.rows.rows > 0)
    return "the format holds LoRA's pairs alone, and there are modules or tokens trained in full";
  for (int i = 0; i < adapter->count; i++)
    if (adapter->linears[i] == &adapter->model->head && adapter->model->config.tied_embeddings)
      return "the format has no name for a head that is the embedding";
  return NULL;
}

// A reader takes alpha / rank for the scale; what differs from it (patterns, stacked adapters) goes into B.
static Status write_pair(GgufWriter *writer, const Adapter *adapter, int index, double alpha) {
  const Linear *linear = adapter->linears[index];
  PairSource pair = adapter_file_pair(adapter, index);
  int64_t a_count = pair_a_count(&pair, adapter->model), b_count = pair_b_count(&pair, adapter->model);
  float fold = (float)(pair.scale / (alpha / (double)pair.rank)), *b = memory_new((size_t)b_count, sizeof *b);
  if (fabsf(fold - 1) > 1e-6f)
    for (int64_t j = 0; j < b_count; j++) pair.b[j] *= fold;
  if (linear == &adapter->model->embedding) memcpy(b, pair.b, (size_t)b_count * sizeof *b);
  else b_rows_to_file(b, pair.b, linear, adapter->model, pair.rank, true);
  Status status = gguf_write_tensor(writer, pair.a, (size_t)a_count * sizeof *pair.a);
  if (status == STATUS_OK) status = gguf_write_tensor(writer, b, (size_t)b_count * sizeof *b);
  free(b);
  adapter_file_pair_release(&pair);
  return status;
}

Status adapter_save_gguf(const Adapter *adapter, const char *path) {
  const char *obstacle = adapter_gguf_obstacle(adapter);
  if (obstacle)
    return status_fail(STATUS_USAGE, "%s: there is no GGUF adapter of this one: %s; `lora merge` writes it with its base as one GGUF", path,
                       obstacle);
  double alpha = file_alpha(adapter);
  GgufWriter writer;
  gguf_writer_new(&writer);
  declare(&writer, adapter);
  Status status = gguf_writer_open(&writer, path);
  for (int i = 0; status == STATUS_OK && i < adapter->count; i++) status = write_pair(&writer, adapter, i, alpha);
  if (status == STATUS_OK) status = gguf_writer_commit(&writer);
  gguf_writer_abandon(&writer);
  return status;
}
