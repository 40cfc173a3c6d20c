// What is trained in full: weights, biases and norms, and rows of some tokens. Each is a float32 parameter that takes the place of the
// model's own values, in the order of its rows, so that whatever reads the model sees it; those are kept beside it for when it is off.
#include "adapters/trained.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "core/text.h"
#include "models/shards.h"

// Everything of a model that can be trained in full, in the order of a forward pass. Routers and routed experts are not among it.
typedef struct Module {
  const char *name;  // Hugging Face's path
  Linear *linear;  // or
  NormSettings *norm;
} Module;

static Module *list_modules(int *count, Adapter *adapter) {
  Model *model = adapter->model;
  const Family *family = model->family;
  int norms = family_norm_count(family), linears = family_linear_count(family);
  Module *modules = arena_new(&adapter->arena, (size_t)(model->config.layers * (norms + linears) + 3), sizeof *modules), *next = modules;
  *next++ = (Module){model->embedding.name, &model->embedding, NULL};
  for (int layer = 0; layer < model->config.layers; layer++) {
    char *base = (char *)&model->layers[layer];
    for (int i = 0; i < norms; i++)
      if (config_has(&model->config, family->norms[i].presence, layer))
        *next++ = (Module){arena_format(&adapter->arena, "model.layers.%d.%s", layer, family->norms[i].name), NULL,
                           (NormSettings *)(base + family->norms[i].offset)};
    for (int i = 0; i < linears; i++) {
      Linear *linear = (Linear *)(base + family->linears[i].offset);
      if (config_has(&model->config, family->linears[i].presence, layer)) *next++ = (Module){linear->name, linear, NULL};
    }
  }
  *next++ = (Module){"model.norm", NULL, &model->final_norm};
  *next++ = (Module){model->head.name, &model->head, NULL};
  *count = (int)(next - modules);
  return modules;
}

static void add(Adapter *adapter, const char *module, Trained trained) {
  Trained *place = &adapter->trained[adapter->trained_count++];
  *place = trained;
  place->module = module;
  adapter_add_tensor(adapter, module, trained.role, &place->parameter);
}

static void add_linear(Adapter *adapter, Linear *linear) {
  Model *model = adapter->model;
  bool is_embedding = linear == &model->embedding;
  add(adapter, linear->name,
      (Trained){.role = is_embedding ? TENSOR_EMBEDDING : TENSOR_WEIGHT,
                .parameter = {.rows = linear->weight.rows, .columns = linear->weight.columns},
                .linear = linear,
                .tied = adapter->is_full && is_embedding && model->config.tied_embeddings ? &model->head : NULL,
                .base = linear->weight});
  if (!linear->bias) return;
  Parameter bias = {.rows = 1, .columns = linear->weight.rows};
  add(adapter, linear->name, (Trained){.role = TENSOR_BIAS, .parameter = bias, .linear = linear, .base_vector = linear->bias});
}

static void add_norm(Adapter *adapter, const char *module, NormSettings *norm) {
  Parameter vector = {.rows = 1, .columns = norm->columns};
  add(adapter, module, (Trained){.role = TENSOR_NORM, .parameter = vector, .norm = norm, .base_vector = norm->weight});
  if (norm->bias) add(adapter, module, (Trained){.role = TENSOR_BIAS, .parameter = vector, .norm = norm, .base_vector = norm->bias});
}

static void add_module(Adapter *adapter, const Module *module) {
  if (module->linear) add_linear(adapter, module->linear);
  else add_norm(adapter, module->name, module->norm);
}

static void make_room(Adapter *adapter, int modules) {
  if (!adapter->trained) adapter->trained = arena_new(&adapter->arena, 2 * (size_t)modules, sizeof *adapter->trained);
}

static Status check_full(const Model *model) {
  if (model->expert_matrix_count)
    return status_fail(STATUS_USAGE, "adapter: %s has routed experts, which cannot be tuned in full; set adapter: lora or qlora",
                       model->path);
  for (int i = -1; i < model->linear_count; i++) {
    const Linear *linear = i < 0 ? &model->embedding : model->linears[i];
    BlockType type = linear->weight.type;
    if (type == BLOCK_F32 || type == BLOCK_F16 || type == BLOCK_BF16) continue;
    return status_fail(
        STATUS_USAGE,
        "adapter: %s is quantised (%s), and full fine-tuning needs a base in floats (f32, bf16, f16); name such a base_model, "
        "or set adapter: qlora",
        model->path, linear->name);
  }
  return STATUS_OK;
}

Status trained_add_all(Adapter *adapter) {
  TRY(check_full(adapter->model));
  int count;
  const Module *modules = list_modules(&count, adapter);
  make_room(adapter, count);
  adapter->is_full = true;
  for (int i = 0; i < count; i++)
    if (modules[i].linear != &adapter->model->head || !adapter->model->config.tied_embeddings) add_module(adapter, &modules[i]);
  return STATUS_OK;
}

bool trained_is_saved(const char *module, const char *const *names, int count) {
  for (int i = 0; i < count; i++)
    if (text_ends_with(module, names[i])) return true;
  return false;
}

Status trained_add_modules(Adapter *adapter, const char *const *names, int name_count) {
  int count;
  const Module *modules = list_modules(&count, adapter);
  make_room(adapter, count);
  for (int i = 0; i < name_count; i++) {
    bool found = false;
    for (int m = 0; m < count && !found; m++) found = trained_is_saved(modules[m].name, names + i, 1);
    if (!found)
      return status_fail(STATUS_USAGE,
                         "lora_modules_to_save: no module of %s has a name that ends in '%s'; embed_tokens, lm_head, norms and "
                         "linear layers can be trained in full",
                         adapter->model->path, names[i]);
  }
  for (int m = 0; m < count; m++)
    if (trained_is_saved(modules[m].name, names, name_count)) add_module(adapter, &modules[m]);
  return STATUS_OK;
}

void trained_add_module(Adapter *adapter, const char *name) {
  int count;
  const Module *modules = list_modules(&count, adapter);
  make_room(adapter, count);
  for (int m = 0; m < count; m++)
    if (strcmp(modules[m].name, name) == 0) add_module(adapter, &modules[m]);
}

Status trained_add_tokens(Adapter *adapter, const int32_t *ids, int count) {
  const Model *model = adapter->model;
  int32_t *own = arena_new(&adapter->arena, (size_t)count, sizeof *own);
  for (int i = 0; i < count; i++) {
    own[i] = ids[i];
    if (ids[i] < 0 || ids[i] >= model->config.vocabulary)
      return status_fail(STATUS_USAGE, "peft_trainable_token_indices: %d is no token of %s, which has %lld", ids[i], model->path,
                         (long long)model->config.vocabulary);
    for (int j = 0; j < i; j++)
      if (ids[j] == ids[i]) return status_fail(STATUS_USAGE, "peft_trainable_token_indices: %d is there twice", ids[i]);
  }
  if (model->embedding.adapter || trained_is_there(adapter, &model->embedding))
    return status_fail(STATUS_USAGE, "peft_trainable_token_indices: embed_tokens is trained otherwise already; leave one of the two out");
  adapter->tokens = (TokenRows){.rows = {.rows = count, .columns = model->config.hidden}, .ids = own};
  adapter_add_tensor(adapter, model->embedding.name, TENSOR_TOKENS, &adapter->tokens.rows);
  return STATUS_OK;
}

bool trained_is_there(const Adapter *adapter, const Linear *linear) {
  for (int i = 0; i < adapter->trained_count; i++)
    if (adapter->trained[i].linear == linear) return true;
  return false;
}

// ---- Places in the model ----

static void put_matrix(Linear *linear, const Trained *trained, bool on) {
  const Parameter *p = &trained->parameter;
  linear->weight = on ? matrix_f32(p->data, p->rows, p->columns) : trained->base;
  linear->weight_gradient = on ? p->gradient : NULL;
  linear->base = on ? &trained->base : NULL;
}

static void put(const Trained *trained, bool on) {
  const Parameter *p = &trained->parameter;
  const float *values = on ? p->data : trained->base_vector;
  float *gradient = on ? p->gradient : NULL;
  bool is_bias = trained->role == TENSOR_BIAS;
  if (trained->norm && is_bias) trained->norm->bias = values, trained->norm->bias_gradient = gradient;
  else if (trained->norm) trained->norm->weight = values, trained->norm->weight_gradient = gradient;
  else if (is_bias) trained->linear->bias = values, trained->linear->bias_gradient = gradient;
  else put_matrix(trained->linear, trained, on);
  if (trained->tied) put_matrix(trained->tied, trained, on);
}

void trained_enable(Adapter *adapter, bool on) {
  for (int i = 0; i < adapter->trained_count; i++) put(&adapter->trained[i], on);
  adapter->tokens.enabled = on;
}

// The device's table of tokens, and both matrices' slots for them.
static Status place_tokens(Adapter *adapter) {
  Model *model = adapter->model;
  Backend *backend = model->backend;
  int64_t vocabulary = model->config.vocabulary;
  int32_t *numbers = memory_new((size_t)vocabulary, sizeof *numbers);
  memset(numbers, -1, (size_t)vocabulary * sizeof *numbers);
  for (int32_t i = 0; i < adapter->tokens.rows.rows; i++) numbers[adapter->tokens.ids[i]] = i;
  Status status = backend->allocate(&adapter->token_numbers, vocabulary * (int64_t)sizeof *numbers, "the adapter", backend);
  if (status == STATUS_OK) backend->upload(adapter->token_numbers, numbers, vocabulary * (int64_t)sizeof *numbers, backend);
  free(numbers);
  adapter->tokens.numbers = adapter->token_numbers;
  model->embedding.tokens = &adapter->tokens;
  if (model->config.tied_embeddings) model->head.tokens = &adapter->tokens;
  return status;
}

Status trained_place(Adapter *adapter) {
  if (adapter->tokens.rows.rows) TRY(place_tokens(adapter));
  trained_enable(adapter, true);
  return STATUS_OK;
}

void trained_remove(Adapter *adapter) {
  Model *model = adapter->model;
  for (int i = 0; i < adapter->trained_count; i++)
    if (adapter->trained[i].parameter.data) put(&adapter->trained[i], false);
  if (model->embedding.tokens == &adapter->tokens) model->embedding.tokens = NULL;
  if (model->head.tokens == &adapter->tokens) model->head.tokens = NULL;
  if (adapter->token_numbers) model->backend->release(adapter->token_numbers, model->backend);
}

// ---- Values ----

// Rows of a matrix of any type as floats, on the device: what an embedding reads.
static Status rows_to_floats(float *out, const Matrix *matrix, const int32_t *ids, int64_t count, Backend *backend) {
  void *device;
  TRY(backend->allocate(&device, count * (int64_t)sizeof *ids, "the adapter", backend));
  backend->upload(device, ids, count * (int64_t)sizeof *ids, backend);
  backend->kernels->embedding_forward(out, device, matrix, count, 1, backend);
  Status status = backend->check(backend);  // waits: the ids are given back
  backend->release(device, backend);
  return status;
}

Status trained_begin_at_base(Adapter *adapter) {
  Backend *backend = adapter->model->backend;
  int64_t most = 0;
  for (int i = 0; i < adapter->trained_count; i++)
    if (adapter->trained[i].parameter.rows > most) most = adapter->trained[i].parameter.rows;
  int32_t *ids = memory_new((size_t)most + 1, sizeof *ids);
  for (int64_t i = 0; i < most; i++) ids[i] = (int32_t)i;
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < adapter->trained_count; i++) {
    const Trained *trained = &adapter->trained[i];
    const Parameter *p = &trained->parameter;
    if (trained->base_vector) backend->kernels->copy(p->data, trained->base_vector, p->columns, backend);
    else {
      if (trained->linear) shards_hold(adapter->model, trained->linear);
      status = rows_to_floats(p->data, &trained->base, ids, p->rows, backend);
    }
  }
  free(ids);
  const Parameter *tokens = &adapter->tokens.rows;
  if (status == STATUS_OK && tokens->rows)
    status = rows_to_floats(tokens->data, &adapter->model->embedding.weight, adapter->tokens.ids, tokens->rows, backend);
  return status;
}
