// A merged model as GGUF. From a GGUF base: its keys and tensors in their order. From a Hugging Face folder: the keys that
// the format demands (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), tensors in the order of llama.cpp's converter,
// rows of q and k permuted for the architectures that interleave them, rope_freqs.weight for llama3 scaling.
#include <stdlib.h>
#include <string.h>

#include "adapters/carried.h"
#include "adapters/merge.h"
#include "adapters/parts.h"
#include "core/log.h"
#include "data/tokenizer/export.h"

// One tensor of the file: a matrix of the model, or bytes as they are.
typedef struct Entry {
  const char *name;
  uint32_t type;
  int dimensions;
  int64_t shape[4];
  const Linear *linear;  // NULL: `data`
  const void *data;
  size_t bytes;
} Entry;

typedef struct Plan {
  const Model *model;
  MergeOptions options;
  Linear embedding;
  Entry *entries;
  int64_t count, capacity;
  Arena arena;
} Plan;

static bool is_vocabulary(const Plan *plan, const Linear *linear) { return linear == &plan->embedding || linear == &plan->model->head; }

// Its type follows when all tensors are known: choose_types.
static void plan_matrix(Plan *plan, const char *name, const Linear *linear) {
  ARRAY_PUSH(plan->entries, plan->count, plan->capacity) =
      (Entry){.name = name, .dimensions = 2, .shape = {linear->weight.columns, linear->weight.rows, 1, 1}, .linear = linear};
}

static void plan_vector(Plan *plan, const char *name, const float *values, int64_t length) {
  ARRAY_PUSH(plan->entries, plan->count, plan->capacity) = (Entry){.name = name,
                                                                   .type = BLOCK_F32,
                                                                   .dimensions = 1,
                                                                   .shape = {length, 1, 1, 1},
                                                                   .data = values,
                                                                   .bytes = (size_t)length * sizeof *values};
}

// ---- From a GGUF base ----

static void plan_other(Plan *plan, const GgufTensor *tensor) {
  const BlockTraits *traits = block_traits((BlockType)tensor->type);
  if (tensor->dimensions == 1 && traits && tensor->type != BLOCK_F32) {
    float *values = arena_new(&plan->arena, (size_t)tensor->shape[0], sizeof *values);
    traits->dequantize(values, tensor->data, tensor->shape[0]);
    plan_vector(plan, tensor->name, values, tensor->shape[0]);
    return;
  }
  Entry *entry = &ARRAY_PUSH(plan->entries, plan->count, plan->capacity);
  *entry =
      (Entry){.name = tensor->name, .type = tensor->type, .dimensions = tensor->dimensions, .data = tensor->data, .bytes = tensor->bytes};
  memcpy(entry->shape, tensor->shape, sizeof entry->shape);
}

static const Linear *find_linear(const Plan *plan, const Map *linears, const char *tensor) {
  const Model *model = plan->model;
  int64_t index;
  if (strcmp(tensor, "token_embd.weight") == 0) return &plan->embedding;
  if (strcmp(tensor, "output.weight") == 0) return &model->head;
  return map_get_string(linears, tensor, &index) ? model->linears[index] : NULL;
}

static void plan_from_gguf(Plan *plan) {
  const Model *model = plan->model;
  Map linears = {0};
  for (int i = 0; i < model->linear_count; i++)
    map_set_string(&linears, arena_format(&plan->arena, "%s.weight", model->linears[i]->gguf_name), i);
  for (int64_t i = 0; i < model->gguf.tensor_count; i++) {
    const GgufTensor *tensor = &model->gguf.tensors[i];
    const Linear *linear = find_linear(plan, &linears, tensor->name);
    if (linear) plan_matrix(plan, tensor->name, linear);
    else plan_other(plan, tensor);
  }
  map_release(&linears);
}

// ---- From a folder ----

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static const char *layer_name(Plan *plan, const char *format, int layer, const char *suffix) {
  char name[128];
  snprintf(name, sizeof name, format, layer);  // the formats are the families' own, each with one %d
  return arena_format(&plan->arena, "%s%s", name, suffix);
}
#pragma GCC diagnostic pop

static void plan_bias(Plan *plan, const char *name, const Linear *linear) {
  int64_t rows = linear->weight.rows;
  float *values = arena_new(&plan->arena, (size_t)rows, sizeof *values);
  for (int64_t row = 0; row < rows; row++) values[linear_file_row(row, linear, plan->model, true)] = linear->bias[row];
  plan_vector(plan, name, values, rows);
}

// The divisors of llama3 scaling: what each frequency is divided by.
static void plan_rope_factors(Plan *plan) {
  const ModelConfig *config = &plan->model->config;
  int64_t pairs = config->head_size / 2;
  ModelConfig unscaled = *config;
  unscaled.rope_scaling = ROPE_SCALING_NONE;
  float *factors = arena_new(&plan->arena, (size_t)pairs, sizeof *factors);
  config_rope_frequencies(factors, &unscaled);
  for (int64_t i = 0; i < pairs; i++) factors[i] /= plan->model->rope_frequencies[i];
  plan_vector(plan, "rope_freqs.weight", factors, pairs);
}

static void plan_from_folder(Plan *plan) {
  const Model *model = plan->model;
  const Family *family = model->family;
  plan_matrix(plan, "token_embd.weight", &plan->embedding);
  if (model->config.rope_scaling == ROPE_SCALING_LLAMA3) plan_rope_factors(plan);
  for (int layer = 0; layer < model->config.layers; layer++) {
    for (int i = 0; i < family->norm_count; i++) {
      const float *values = *(const float *const *)((const char *)&model->layers[layer] + family->norms[i].offset);
      plan_vector(plan, layer_name(plan, family->norms[i].gguf, layer, ".weight"), values, model->config.hidden);
    }
    for (int i = 0; i < family->linear_count; i++) {
      const Linear *linear = (const Linear *)((const char *)&model->layers[layer] + family->linears[i].offset);
      plan_matrix(plan, layer_name(plan, family->linears[i].gguf, layer, ".weight"), linear);
      if (linear->bias) plan_bias(plan, layer_name(plan, family->linears[i].gguf, layer, ".bias"), linear);
    }
  }
  plan_vector(plan, "output_norm.weight", model->final_norm, model->config.hidden);
  if (!model->config.tied_embeddings) plan_matrix(plan, "output.weight", &model->head);
}

// ---- What was planned, as a whole ----

static BlockType type_of(const Plan *plan, const QuantizationModel *model, const Entry *entry) {
  BlockType base = entry->linear->weight.type;
  if (plan->options.type) return quantization_type(plan->options.type, model, entry->name, entry->shape[0]);
  return entry->linear->adapter ? quantization_same_type(base) : base;
}

static void choose_types(Plan *plan) {
  const ModelConfig *config = &plan->model->config;
  QuantizationModel model = quantization_model_new(config->layers, config->heads, config->kv_heads, plan->options.importance != NULL);
  for (int64_t i = 0; i < plan->count; i++) quantization_model_note(&model, plan->entries[i].name, plan->entries[i].shape);
  for (int64_t i = 0; i < plan->count; i++) {
    Entry *entry = &plan->entries[i];
    if (!entry->linear) continue;
    entry->type = type_of(plan, &model, entry);
    entry->bytes = (size_t)(entry->shape[1] * entry->shape[2] * block_row_bytes((BlockType)entry->type, entry->shape[0]));
  }
  quantization_model_release(&model);
}

// The type of most weights of the linear layers, and whether any tensor leaves the base's type.
static BlockType main_type(const Plan *plan, bool *changed) {
  int64_t best = -1;
  BlockType type = BLOCK_F32;
  *changed = false;
  for (int64_t i = 0; i < plan->count; i++) {
    const Entry *entry = &plan->entries[i];
    if (!entry->linear) continue;
    *changed |= entry->type != (uint32_t)entry->linear->weight.type;
    if (is_vocabulary(plan, entry->linear)) continue;
    int64_t weights = 0;
    for (int64_t j = 0; j < plan->count; j++)
      if (plan->entries[j].linear && plan->entries[j].type == entry->type && !is_vocabulary(plan, plan->entries[j].linear))
        weights += plan->entries[j].shape[0] * plan->entries[j].shape[1];
    if (weights > best) {
      best = weights;
      type = (BlockType)entry->type;
    }
  }
  return type;
}

// Says which types stand for those that cannot be written.
static void tell_substitutes(const Plan *plan) {
  int64_t counts[BLOCK_GGUF_END] = {0};
  for (int64_t i = 0; i < plan->count; i++) {
    const Entry *entry = &plan->entries[i];
    if (entry->linear && entry->linear->adapter && !plan->options.type && entry->type != (uint32_t)entry->linear->weight.type)
      counts[entry->linear->weight.type]++;
  }
  for (int type = 0; type < BLOCK_GGUF_END; type++)
    if (counts[type])
      log_notice("%lld adapted tensors are %s in the base, which is not written; they become %s", (long long)counts[type],
                 block_traits((BlockType)type)->name, block_traits(quantization_same_type((BlockType)type))->name);
}

// ---- Metadata ----

static bool has_blocks(const Plan *plan) {
  for (int64_t i = 0; i < plan->count; i++)
    if (block_traits((BlockType)plan->entries[i].type)->elements > 1) return true;
  return false;
}

static void put_carried(GgufWriter *writer, const Plan *plan, int file_type, bool changed) {
  const Gguf *gguf = &plan->model->gguf;
  const char *template = plan->options.chat_template;
  for (int64_t i = 0; i < gguf->value_count; i++) {
    bool is_file_type = strcmp(gguf->values[i].key, "general.file_type") == 0;
    if (template && strcmp(gguf->values[i].key, "tokenizer.chat_template") == 0) continue;
    if (is_file_type && (changed || plan->options.type)) gguf_put_uint32(writer, "general.file_type", (uint32_t)file_type);
    else gguf_put_value(writer, &gguf->values[i]);
  }
  if (!gguf_find(gguf, "general.file_type")) gguf_put_uint32(writer, "general.file_type", (uint32_t)file_type);
  if (has_blocks(plan) && !gguf_find(gguf, "general.quantization_version")) gguf_put_uint32(writer, "general.quantization_version", 2);
  if (template) gguf_put_string(writer, "tokenizer.chat_template", template, strlen(template));
}

static void put_dimension(GgufWriter *writer, const Model *model, const char *key, int64_t value) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", model->family->gguf, key);
  gguf_put_uint32(writer, name, (uint32_t)value);
}

static void put_float(GgufWriter *writer, const Model *model, const char *key, double value) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", model->family->gguf, key);
  gguf_put_float32(writer, name, (float)value);
}

// The folder's own name, for people who list models.
static void put_name(GgufWriter *writer, const Model *model) {
  char *path = memory_copy_string(model->path);
  for (size_t length = strlen(path); length > 1 && path[length - 1] == '/';) path[--length] = 0;
  gguf_put_string(writer, "general.name", path_name(path), strlen(path_name(path)));
  free(path);
}

static Status put_made(GgufWriter *writer, const Plan *plan, int file_type) {
  const Model *model = plan->model;
  const ModelConfig *c = &model->config;
  const char *architecture = model->family->gguf;
  gguf_put_string(writer, "general.architecture", architecture, strlen(architecture));
  gguf_put_string(writer, "general.type", "model", 5);
  if (!carried_has(&model->safetensors, "general.name")) put_name(writer, model);
  const struct {
    const char *key;
    int64_t value;
  } dimensions[] = {{"block_count", c->layers},
                    {"context_length", c->context_length},
                    {"embedding_length", c->hidden},
                    {"feed_forward_length", c->feed_forward},
                    {"attention.head_count", c->heads},
                    {"attention.head_count_kv", c->kv_heads},
                    {"attention.key_length", c->head_size},
                    {"attention.value_length", c->head_size},
                    {"rope.dimension_count", c->head_size},
                    {"vocab_size", c->vocabulary}};
  for (size_t i = 0; i < sizeof dimensions / sizeof *dimensions; i++) put_dimension(writer, model, dimensions[i].key, dimensions[i].value);
  put_float(writer, model, "attention.layer_norm_rms_epsilon", c->norm_epsilon);
  put_float(writer, model, "rope.freq_base", c->rope_base);
  if (c->rope_scaling == ROPE_SCALING_LINEAR) {
    char name[128];
    snprintf(name, sizeof name, "%s.rope.scaling.type", architecture);
    gguf_put_string(writer, name, "linear", 6);
    put_float(writer, model, "rope.scaling.factor", c->rope_factor);
  }
  if (c->rope_scaling == ROPE_SCALING_LLAMA3)
    put_dimension(writer, model, "rope.scaling.original_context_length", (int64_t)c->rope_original_context);
  gguf_put_uint32(writer, "general.file_type", (uint32_t)file_type);
  gguf_put_uint32(writer, "general.quantization_version", 2);
  TRY(tokenizer_put_gguf(writer, model->path, c->vocabulary, plan->options.chat_template));
  return carried_to_gguf(writer, &model->safetensors, architecture);
}

static int64_t base_bytes(const Linear *linear) {
  return linear->weight.rows * block_row_bytes(linear->weight.type, linear->weight.columns);
}

static Status write_entry(GgufWriter *writer, MergeReport *report, const Plan *plan, const Entry *entry) {
  if (!entry->linear) return gguf_write_tensor(writer, entry->data, entry->bytes);
  const ImportanceMatrix *matrix = plan->options.importance;
  const float *importance = NULL;
  if (matrix) TRY(imatrix_find(&importance, matrix, entry->name, entry->shape[0], 0));
  report->without_importance += matrix && !importance && block_traits((BlockType)entry->type)->elements > 1;
  void *block;
  TRY(memory_try(&block, entry->bytes, entry->name));
  Status status = merge_matrix(block, (BlockType)entry->type, importance, entry->linear, plan->model, true);
  if (status == STATUS_OK) status = gguf_write_tensor(writer, block, entry->bytes);
  free(block);
  return status;
}

static Status write_plan(MergeReport *report, const Plan *plan, const char *path) {
  const Model *model = plan->model;
  bool changed;
  *report = (MergeReport){.tensors = plan->count, .main_type = main_type(plan, &changed)};
  int file_type = plan->options.type ? plan->options.type->file_type : block_traits(report->main_type)->file_type;
  GgufWriter writer;
  gguf_writer_new(&writer);
  Status status = STATUS_OK;
  if (model->is_gguf) put_carried(&writer, plan, file_type, changed);
  else TRY_DONE(put_made(&writer, plan, file_type));
  for (int64_t i = 0; i < plan->count; i++)
    gguf_declare_tensor(&writer, plan->entries[i].name, plan->entries[i].type, plan->entries[i].dimensions, plan->entries[i].shape);
  TRY_DONE(gguf_writer_open(&writer, path));
  for (int64_t i = 0; i < plan->count; i++) {
    progress_show(i, plan->count, "%s", plan->entries[i].name);
    const Entry *entry = &plan->entries[i];
    TRY_DONE(write_entry(&writer, report, plan, entry));
    report->bytes += (int64_t)entry->bytes;
    report->base_bytes += entry->linear ? base_bytes(entry->linear) : (int64_t)entry->bytes;
    report->weights += entry->shape[0] * entry->shape[1] * entry->shape[2] * entry->shape[3];
    report->adapted += entry->linear && entry->linear->adapter;
  }
  status = gguf_writer_commit(&writer);
done:
  progress_clear();
  gguf_writer_abandon(&writer);
  return status;
}

Status merge_write_gguf(MergeReport *report, const Model *model, const char *path, MergeOptions options) {
  TRY(merge_check_output(model, path));
  Plan plan = {
      .model = model, .options = options, .embedding = {.weight = model->embedding, .name = "embed_tokens", .gguf_name = "token_embd"}};
  if (model->is_gguf) plan_from_gguf(&plan);
  else plan_from_folder(&plan);
  choose_types(&plan);
  tell_substitutes(&plan);
  Status status = write_plan(report, &plan, path);
  free(plan.entries);
  arena_release(&plan.arena);
  return status;
}
