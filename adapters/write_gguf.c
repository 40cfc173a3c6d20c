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
  const Linear *linear;  // a matrix of the model; else
  const Matrix *experts;  // [shape[2]], one after another; else
  const void *data;
  size_t bytes;
} Entry;

// float32 values of a folder that GGUF's own, with the norm's offset, cannot give back to the last bit.
typedef struct Exact {
  const char *name;
  const float *values;
  int64_t length;
} Exact;

typedef struct Plan {
  const Model *model;
  MergeOptions options;
  Entry *entries;
  int64_t count, capacity;
  Exact *exact;
  int64_t exact_count, exact_capacity;
  Arena arena;
} Plan;

static bool is_vocabulary(const Plan *plan, const Linear *linear) {
  return linear == &plan->model->embedding || linear == &plan->model->head;
}

// Its type follows when all tensors are known: choose_types.
static void plan_matrix(Plan *plan, const char *name, const Linear *linear) {
  ARRAY_PUSH(plan->entries, plan->count, plan->capacity) =
      (Entry){.name = name, .dimensions = 2, .shape = {linear->weight.columns, linear->weight.rows, 1, 1}, .linear = linear};
}

static void plan_experts(Plan *plan, const char *name, const Matrix *experts) {
  ARRAY_PUSH(plan->entries, plan->count, plan->capacity) = (Entry){
      .name = name, .dimensions = 3, .shape = {experts[0].columns, experts[0].rows, plan->model->config.experts, 1}, .experts = experts};
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

// What the model made of the base's tensors, by their names.
typedef struct Names {
  Map linears, experts;  // experts: layer * EXPERT_KINDS + kind
  Map biases, norms, norm_biases;  // of linears; layer * FAMILY_NORMS + norm, -1: the last norm
} Names;

static void collect_names(Names *names, Plan *plan) {
  const Model *model = plan->model;
  for (int i = 0; i < model->linear_count; i++) {
    map_set_string(&names->linears, arena_format(&plan->arena, "%s.weight", model->linears[i]->gguf_name), i);
    map_set_string(&names->biases, arena_format(&plan->arena, "%s.bias", model->linears[i]->gguf_name), i);
  }
  map_set_string(&names->norms, "output_norm.weight", -1);
  map_set_string(&names->norm_biases, "output_norm.bias", -1);
  for (int layer = 0; layer < model->config.layers; layer++)
    for (int i = 0; i < family_norm_count(model->family); i++) {
      const NormName *norm = &model->family->norms[i];
      if (!config_has(&model->config, norm->presence, layer)) continue;
      map_set_string(&names->norms, arena_format(&plan->arena, "blk.%d.%s.weight", layer, norm->gguf), layer * FAMILY_NORMS + i);
      map_set_string(&names->norm_biases, arena_format(&plan->arena, "blk.%d.%s.bias", layer, norm->gguf), layer * FAMILY_NORMS + i);
    }
  for (int layer = 0; layer < model->config.layers; layer++)
    for (int kind = 0; kind < EXPERT_KINDS && model->layers[layer].kind->is_sparse; kind++)
      map_set_string(&names->experts, arena_format(&plan->arena, "blk.%d.%s.weight", layer, expert_gguf_names[kind]),
                     layer * EXPERT_KINDS + kind);
}

static const Linear *find_linear(const Plan *plan, const Names *names, const char *tensor) {
  const Model *model = plan->model;
  int64_t index;
  if (strcmp(tensor, "token_embd.weight") == 0) return &model->embedding;
  if (strcmp(tensor, "output.weight") == 0) return &model->head;
  return map_get_string(&names->linears, tensor, &index) ? model->linears[index] : NULL;
}

static const NormSettings *norm_at(const Model *model, int64_t index) {
  if (index < 0) return &model->final_norm;
  return layer_norm(&model->layers[index / FAMILY_NORMS], &model->family->norms[index % FAMILY_NORMS]);
}

// Norms and biases are the model's, which may have been trained; where they were not, these are the file's own.
static bool plan_own_vector(Plan *plan, const Names *names, const char *tensor) {
  const Model *model = plan->model;
  int64_t index;
  if (map_get_string(&names->biases, tensor, &index) && model->linears[index]->bias)
    plan_vector(plan, tensor, model->linears[index]->bias, model->linears[index]->weight.rows);
  else if (map_get_string(&names->norms, tensor, &index))
    plan_vector(plan, tensor, norm_at(model, index)->weight, norm_at(model, index)->columns);
  else if (map_get_string(&names->norm_biases, tensor, &index) && norm_at(model, index)->bias)
    plan_vector(plan, tensor, norm_at(model, index)->bias, norm_at(model, index)->columns);
  else return false;
  return true;
}

// An adapted layer that the file keeps in another form would lose its adapter.
static Status check_adapted(const Plan *plan) {
  const Model *model = plan->model;
  for (int i = 0; i < model->linear_count; i++) {
    const Linear *linear = model->linears[i];
    bool is_planned = !linear_is_changed(linear);
    for (int64_t j = 0; j < plan->count && !is_planned; j++) is_planned = plan->entries[j].linear == linear;
    if (!is_planned)
      return status_fail(STATUS_BAD_INPUT, "%s: the file keeps %s in parts, to which its adapter cannot be added; write a folder instead",
                         model->path, linear->gguf_name);
  }
  return STATUS_OK;
}

static Status plan_from_gguf(Plan *plan) {
  const Model *model = plan->model;
  Names names = {0};
  collect_names(&names, plan);
  for (int64_t i = 0; i < model->gguf.tensor_count; i++) {
    const GgufTensor *tensor = &model->gguf.tensors[i];
    const Linear *linear = find_linear(plan, &names, tensor->name);
    int64_t index;
    if (linear) plan_matrix(plan, tensor->name, linear);
    else if (map_get_string(&names.experts, tensor->name, &index))
      plan_experts(plan, tensor->name, expert_matrices(&model->layers[index / EXPERT_KINDS].experts.matrices, (int)(index % EXPERT_KINDS)));
    else if (!plan_own_vector(plan, &names, tensor->name)) plan_other(plan, tensor);
  }
  if (merge_unties(model)) plan_matrix(plan, "output.weight", &model->head);
  map_release(&names.linears);
  map_release(&names.experts);
  map_release(&names.biases);
  map_release(&names.norms);
  map_release(&names.norm_biases);
  return check_adapted(plan);
}

// ---- From a folder ----

static void plan_bias(Plan *plan, const char *name, const Linear *linear) {
  int64_t rows = linear->weight.rows;
  float *values = arena_new(&plan->arena, (size_t)rows, sizeof *values);
  for (int64_t row = 0; row < rows; row++) values[linear_file_row(row, linear, plan->model, true)] = linear->bias[row];
  plan_vector(plan, name, values, rows);
}

// GGUF has the offset in the weight.
static void plan_norm(Plan *plan, const char *module, const NormSettings *norm) {
  const char *name = arena_format(&plan->arena, "%s.weight", module);
  const float *values = norm->weight;
  if (norm->offset != 0) {
    float *sums = arena_new(&plan->arena, (size_t)norm->columns, sizeof *sums);
    bool is_exact = true;
    for (int64_t i = 0; i < norm->columns; i++) {
      sums[i] = norm->weight[i] + norm->offset;
      is_exact &= sums[i] - norm->offset == norm->weight[i];
    }
    if (!is_exact) ARRAY_PUSH(plan->exact, plan->exact_count, plan->exact_capacity) = (Exact){name, norm->weight, norm->columns};
    values = sums;
  }
  plan_vector(plan, name, values, norm->columns);
  if (norm->bias) plan_vector(plan, arena_format(&plan->arena, "%s.bias", module), norm->bias, norm->columns);
}

// What GGUF keeps of RoPE in tensors: llama3's divisors, and longrope's.
static void plan_rope_factors(Plan *plan) {
  const ModelConfig *config = &plan->model->config;
  const Rope *rope = &config->rope;
  int64_t pairs = rope->rotary / 2;
  if (rope->scaling == ROPE_SCALING_LONGROPE) {
    plan_vector(plan, "rope_factors_long.weight", rope->long_factors, pairs);
    plan_vector(plan, "rope_factors_short.weight", rope->short_factors, pairs);
  }
  if (rope->scaling != ROPE_SCALING_LLAMA3) return;
  Rope unscaled = *rope;
  unscaled.scaling = ROPE_SCALING_NONE;
  float *factors = arena_new(&plan->arena, (size_t)pairs * 2, sizeof *factors), *scaled = factors + pairs;
  rope_frequencies(factors, &unscaled, 0, config->context_length);
  rope_frequencies(scaled, rope, 0, config->context_length);
  for (int64_t i = 0; i < pairs; i++) factors[i] /= scaled[i];
  plan_vector(plan, "rope_freqs.weight", factors, pairs);
}

static void plan_layer_experts(Plan *plan, int index) {
  const ExpertLayer *experts = &plan->model->layers[index].experts;
  Linear *router = arena_new(&plan->arena, 1, sizeof *router);
  *router = (Linear){.weight = experts->router, .name = "the router"};
  const Matrix *weight = &router->weight;
  ARRAY_PUSH(plan->entries, plan->count, plan->capacity) = (Entry){.name = arena_format(&plan->arena, "blk.%d.ffn_gate_inp.weight", index),
                                                                   .type = BLOCK_F32,
                                                                   .dimensions = 2,
                                                                   .shape = {weight->columns, weight->rows, 1, 1},
                                                                   .linear = router,
                                                                   .bytes = (size_t)(weight->rows * weight->columns) * sizeof(float)};
  if (experts->settings.bias)
    plan_vector(plan, arena_format(&plan->arena, "blk.%d.exp_probs_b.bias", index), experts->settings.bias, experts->settings.experts);
  for (int kind = 0; kind < EXPERT_KINDS; kind++)
    plan_experts(plan, arena_format(&plan->arena, "blk.%d.%s.weight", index, expert_gguf_names[kind]),
                 expert_matrices(&experts->matrices, kind));
}

static void plan_layer(Plan *plan, int index) {
  const Model *model = plan->model;
  const Family *family = model->family;
  const Layer *layer = &model->layers[index];
  for (int i = 0; i < family_norm_count(family); i++)
    if (config_has(&model->config, family->norms[i].presence, index))
      plan_norm(plan, arena_format(&plan->arena, "blk.%d.%s", index, family->norms[i].gguf), layer_norm(layer, &family->norms[i]));
  for (int i = 0; i < family_linear_count(family); i++) {
    if (!config_has(&model->config, family->linears[i].presence, index)) continue;
    const Linear *linear = layer_linear(layer, &family->linears[i]);
    plan_matrix(plan, arena_format(&plan->arena, "%s.weight", linear->gguf_name), linear);
    if (linear->bias) plan_bias(plan, arena_format(&plan->arena, "%s.bias", linear->gguf_name), linear);
  }
  if (layer->kind->is_sparse) plan_layer_experts(plan, index);
}

static void plan_from_folder(Plan *plan) {
  const Model *model = plan->model;
  plan_matrix(plan, "token_embd.weight", &model->embedding);
  plan_rope_factors(plan);
  for (int layer = 0; layer < model->config.layers; layer++) plan_layer(plan, layer);
  plan_norm(plan, "output_norm", &model->final_norm);
  if (!model->config.tied_embeddings || merge_unties(model)) plan_matrix(plan, "output.weight", &model->head);
}

// ---- What was planned, as a whole ----

// The first of an entry's matrices, as the base has it; NULL of bytes that are carried over.
static const Matrix *matrix_of(const Entry *entry) { return entry->linear ? linear_base(entry->linear) : entry->experts; }

static BlockType type_of(const Plan *plan, const QuantizationModel *model, const Entry *entry) {
  BlockType base = merge_base_type(plan->model, matrix_of(entry));
  if (plan->options.type) return quantization_type(plan->options.type, model, entry->name, entry->shape[0]);
  return entry->linear && linear_is_changed(entry->linear) ? quantization_same_type(base) : base;
}

static void choose_types(Plan *plan) {
  const ModelConfig *config = &plan->model->config;
  QuantizationModel model = quantization_model_new(config->layers, config->heads, config->kv_heads, plan->options.importance != NULL);
  for (int64_t i = 0; i < plan->count; i++) quantization_model_note(&model, plan->entries[i].name, plan->entries[i].shape);
  for (int64_t i = 0; i < plan->count; i++) {
    Entry *entry = &plan->entries[i];
    if (!matrix_of(entry)) continue;
    entry->type = type_of(plan, &model, entry);
    entry->bytes = (size_t)(entry->shape[1] * entry->shape[2] * block_row_bytes((BlockType)entry->type, entry->shape[0]));
  }
  quantization_model_release(&model);
}

static int64_t weights_of_type(const Plan *plan, uint32_t type) {
  int64_t weights = 0;
  for (int64_t i = 0; i < plan->count; i++) {
    const Entry *entry = &plan->entries[i];
    if (matrix_of(entry) && entry->type == type && !is_vocabulary(plan, entry->linear))
      weights += entry->shape[0] * entry->shape[1] * entry->shape[2];
  }
  return weights;
}

// The type of most weights of the layers, and whether any tensor leaves the base's type.
static BlockType main_type(const Plan *plan, bool *changed) {
  int64_t best = -1;
  BlockType type = BLOCK_F32;
  *changed = false;
  for (int64_t i = 0; i < plan->count; i++) {
    const Entry *entry = &plan->entries[i];
    if (!matrix_of(entry)) continue;
    *changed |= entry->type != (uint32_t)matrix_of(entry)->type;
    if (is_vocabulary(plan, entry->linear)) continue;
    int64_t weights = weights_of_type(plan, entry->type);
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
  for (int64_t i = 0; i < plan->count && !plan->options.type; i++) {
    const Entry *entry = &plan->entries[i];
    if (!entry->linear || !linear_is_changed(entry->linear)) continue;
    BlockType base = merge_base_type(plan->model, matrix_of(entry));
    if (entry->type != (uint32_t)base && (int)base < BLOCK_GGUF_END) counts[base]++;
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

// The folder's own name, for people who list models.
static void put_name(GgufWriter *writer, const Model *model) {
  char *path = memory_copy_string(model->path);
  for (size_t length = strlen(path); length > 1 && path[length - 1] == '/';) path[--length] = 0;
  gguf_put_string(writer, "general.name", path_name(path), strlen(path_name(path)));
  free(path);
}

static Status put_made(GgufWriter *writer, const Plan *plan, int file_type) {
  const Model *model = plan->model;
  const char *architecture = model->family->gguf;
  gguf_put_string(writer, "general.architecture", architecture, strlen(architecture));
  gguf_put_string(writer, "general.type", "model", 5);
  if (!carried_has(&model->safetensors, "general.name")) put_name(writer, model);
  config_to_gguf(writer, &model->config, model->family);
  gguf_put_uint32(writer, "general.file_type", (uint32_t)file_type);
  gguf_put_uint32(writer, "general.quantization_version", 2);
  const char *tokenizer = plan->options.tokenizer ? plan->options.tokenizer : model->path;
  TRY(tokenizer_put_gguf(writer, tokenizer, model->config.vocabulary, plan->options.chat_template));
  for (int64_t i = 0; i < plan->exact_count; i++) {
    char key[128];
    snprintf(key, sizeof key, MERGE_EXACT_KEY "%s", plan->exact[i].name);
    gguf_put_array(writer, key, GGUF_FLOAT32, plan->exact[i].values, (uint64_t)plan->exact[i].length);
  }
  return carried_to_gguf(writer, &model->safetensors, architecture);
}

static int64_t matrix_base_bytes(const Model *model, const Matrix *weight) {
  return weight->rows * block_row_bytes(merge_base_type(model, weight), weight->columns);
}

// Of the base's tensor, in the base's type: that which stands for it where GGUF does not know it.
static int64_t base_bytes(const Plan *plan, const Entry *entry) {
  return matrix_of(entry) ? entry->shape[2] * matrix_base_bytes(plan->model, matrix_of(entry)) : (int64_t)entry->bytes;
}

// *importance: of expert e of an entry's matrices, NULL where none is known.
static Status find_importance(const float **importance, bool *missing, const Plan *plan, const Entry *entry, int64_t e) {
  const ImportanceMatrix *matrix = plan->options.importance;
  *importance = NULL;
  if (!matrix) return STATUS_OK;
  TRY(imatrix_find(importance, matrix, entry->name, entry->shape[0], e));
  *missing |= !*importance && block_traits((BlockType)entry->type)->elements > 1;
  return STATUS_OK;
}

static Status fill_entry(char *block, bool *missing, const Plan *plan, const Entry *entry) {
  int64_t bytes = (int64_t)entry->bytes / entry->shape[2];
  for (int64_t e = 0; e < entry->shape[2]; e++) {
    const float *importance;
    Linear expert = {.name = entry->name};
    if (entry->experts) expert.weight = entry->experts[e];
    TRY(find_importance(&importance, missing, plan, entry, e));
    TRY(merge_matrix(block + e * bytes, (BlockType)entry->type, importance, entry->linear ? entry->linear : &expert, plan->model, true));
  }
  return STATUS_OK;
}

static Status write_entry(GgufWriter *writer, MergeReport *report, const Plan *plan, const Entry *entry) {
  if (!entry->linear && !entry->experts) return gguf_write_tensor(writer, entry->data, entry->bytes);
  void *block;
  bool missing = false;
  TRY(memory_try(&block, entry->bytes, entry->name));
  Status status = fill_entry(block, &missing, plan, entry);
  report->without_importance += missing;
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
    report->base_bytes += base_bytes(plan, entry);
    report->weights += entry->shape[0] * entry->shape[1] * entry->shape[2] * entry->shape[3];
    report->adapted += entry->linear && linear_is_changed(entry->linear);
  }
  status = gguf_writer_commit(&writer);
done:
  progress_clear();
  gguf_writer_abandon(&writer);
  return status;
}

Status merge_write_gguf(MergeReport *report, const Model *model, const char *path, MergeOptions options) {
  TRY(merge_check_output(model, path));
  Plan plan = {.model = model, .options = options};
  Status status = STATUS_OK;
  if (model->is_gguf) status = plan_from_gguf(&plan);
  else plan_from_folder(&plan);
  if (status == STATUS_OK) {
    choose_types(&plan);
    tell_substitutes(&plan);
    status = write_plan(report, &plan, path);
  }
  free(plan.entries);
  free(plan.exact);
  arena_release(&plan.arena);
  return status;
}
