#include "adapters/adapter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "adapters/pattern.h"
#include "adapters/start.h"
#include "adapters/trained.h"
#include "core/text.h"

static bool matches_list(const char *name, const AdapterSettings *settings) {
  for (int i = 0; i < settings->target_count; i++) {
    const char *target = settings->targets[i];
    size_t length = strlen(name), tail = strlen(target);
    if (strcmp(name, target) == 0) return true;
    if (length > tail && name[length - tail - 1] == '.' && text_ends_with(name, target)) return true;
  }
  return false;
}

static Status nothing_matches(const Model *model) {
  Buffer names = {0};
  for (int i = 0; i < family_linear_count(model->family); i++) {
    const LinearName *linear = &model->family->linears[i];
    bool is_there = false;
    for (int layer = 0; layer < model->config.layers && !is_there; layer++) is_there = config_has(&model->config, linear->presence, layer);
    const char *name = strrchr(linear->name, '.') + 1;
    if (is_there && !(names.data && strstr(names.data, name))) buffer_format(&names, "%s%s", names.data ? ", " : "", name);
  }
  Status status = status_fail(STATUS_USAGE, "lora_target_modules: no linear layer of %s matches; a %s model has %s", model->path,
                              model->family->model_type, names.data);
  buffer_release(&names);
  return status;
}

// Every target must name something: a misspelt one would otherwise train less than was asked for.
static Status check_targets(const Model *model, const AdapterSettings *settings) {
  for (int i = 0; i < settings->target_count; i++) {
    AdapterSettings one = {.targets = settings->targets + i, .target_count = 1};
    bool found = false;
    for (int j = 0; j < model->linear_count && !found; j++) found = matches_list(model->linears[j]->name, &one);
    found |= matches_list(model->embedding.name, &one) || matches_list(model->head.name, &one);
    if (found) continue;
    (void)nothing_matches(model);
    return status_context(STATUS_USAGE, "'%s'", settings->targets[i]);
  }
  return STATUS_OK;
}

Adapter *adapter_new(Model *model) {
  Adapter *adapter = memory_new(1, sizeof *adapter);
  adapter->model = model;
  size_t most = (size_t)model->linear_count + 2;  // the embedding and the head
  adapter->pairs = arena_new(&adapter->arena, most, sizeof *adapter->pairs);
  adapter->linears = arena_new(&adapter->arena, most, sizeof *adapter->linears);
  return adapter;
}

void adapter_add_tensor(Adapter *adapter, const char *module, TensorRole role, Parameter *parameter) {
  ARRAY_PUSH(adapter->tensors, adapter->tensor_count, adapter->tensor_capacity) = (AdapterTensor){module, role, parameter};
  adapter->size += parameter->rows * parameter->columns;
}

void adapter_add_pair(Adapter *adapter, Linear *linear, int64_t rank, double scale) {
  LowRank *pair = &adapter->pairs[adapter->count];
  bool is_embedding = linear == &adapter->model->embedding;
  int64_t in = linear->weight.columns, out = linear->weight.rows;
  *pair = (LowRank){.a = {.rows = is_embedding ? out : rank, .columns = is_embedding ? rank : in},
                    .b = {.rows = is_embedding ? in : out, .columns = rank},
                    .scale = (float)scale,
                    .dropout = (float)adapter->dropout,
                    .index = adapter->count,
                    .enabled = true};
  adapter->linears[adapter->count++] = linear;
  adapter_add_tensor(adapter, linear->name, is_embedding ? TENSOR_EMBEDDING_A : TENSOR_LORA_A, &pair->a);
  adapter_add_tensor(adapter, linear->name, is_embedding ? TENSOR_EMBEDDING_B : TENSOR_LORA_B, &pair->b);
  if (!adapter->dora) return;
  pair->magnitude = (Parameter){.rows = linear->weight.rows, .columns = 1};
  adapter_add_tensor(adapter, linear->name, TENSOR_MAGNITUDE, &pair->magnitude);
}

Status adapter_allocate(Adapter *adapter, bool trainable) {
  Backend *backend = adapter->model->backend;
  const Group *group = adapter->model->options.group;
  int64_t floats = group && group->size > 1 ? group->size * group_part(adapter->size, group) : adapter->size;
  int64_t bytes = floats * (int64_t)sizeof(float);
  TRY(backend->allocate((void **)&adapter->data, bytes, "the adapter", backend));
  if (trainable) TRY(backend->allocate((void **)&adapter->gradient, bytes, "the adapter's gradients", backend));
  (void)adapter_set_data(adapter, adapter->data);
  int64_t offset = 0;
  for (int i = 0; trainable && i < adapter->tensor_count; i++) {
    Parameter *parameter = adapter->tensors[i].parameter;
    parameter->gradient = adapter->gradient + offset;
    offset += parameter->rows * parameter->columns;
  }
  for (int i = 0; i < adapter->count; i++) adapter->linears[i]->adapter = &adapter->pairs[i];
  if (trainable) backend->kernels->fill(adapter->gradient, 0, adapter->size, backend);
  return trained_place(adapter);
}

double adapter_scale(double alpha, int64_t rank, bool rslora) { return rslora ? alpha / sqrt((double)rank) : alpha / (double)rank; }

static bool is_of_layer(const Linear *linear, const Model *model) { return linear != &model->embedding && linear != &model->head; }

// A layer that is trained in full has no adapter beside it. Choices of layers choose among layers: they leave embedding and head alone.
static Status is_target(bool *out, const Linear *linear, const Model *model, const AdapterSettings *settings) {
  *out = false;
  if (trained_is_saved(linear->name, settings->modules_to_save, settings->modules_to_save_count)) return STATUS_OK;
  *out = (settings->all_linear && is_of_layer(linear, model)) || matches_list(linear->name, settings);
  if (!*out && settings->target_regex) TRY(pattern_matches(out, settings->target_regex, linear->name, "lora_target_modules"));
  bool is_chosen = true;
  if (*out && is_of_layer(linear, model)) TRY(pattern_layer(&is_chosen, &settings->layers, linear->name));
  *out &= is_chosen;
  return STATUS_OK;
}

static Status check_layers(const Model *model, const LayerChoice *layers) {
  for (int i = 0; i < layers->count; i++)
    if (layers->layers[i] < 0 || layers->layers[i] >= model->config.layers)
      return status_fail(STATUS_USAGE, "peft_layers_to_transform: there is no layer %lld; %s has layers 0 to %lld",
                         (long long)layers->layers[i], model->path, (long long)model->config.layers - 1);
  return STATUS_OK;
}

// Every pattern must name something that is adapted, as targets must.
static Status check_patterns(const Adapter *adapter, const PatternValue *patterns, int count, const char *key) {
  for (int i = 0; i < count; i++) {
    double found = 0;
    PatternValue one = {patterns[i].pattern, 1};
    for (int j = 0; j < adapter->count && found == 0; j++) TRY(pattern_value(&found, &one, 1, 0, adapter->linears[j]->name, key));
    if (found == 0)
      return status_fail(STATUS_USAGE, "%s: '%s' names no module that is adapted; such a name is %s", key, patterns[i].pattern,
                         adapter->linears[0]->name);
  }
  return STATUS_OK;
}

static Status check_ranks(const AdapterSettings *settings) {
  for (int i = 0; i < settings->rank_pattern_count; i++) {
    double rank = settings->rank_patterns[i].value;
    if (!(rank >= 1 && rank <= 65536 && rank == floor(rank)))
      return status_fail(STATUS_USAGE, "lora_rank_pattern: '%s': a rank is a whole number from 1 to 65536, not %g",
                         settings->rank_patterns[i].pattern, rank);
  }
  return STATUS_OK;
}

// DoRA and starts that look at weights have no form for these two here.
static Status check_vocabulary(const Linear *linear, const AdapterSettings *settings) {
  if (settings->dora)
    return status_fail(STATUS_USAGE,
                       "peft_use_dora: %s can have no magnitudes in this version; leave it out of lora_target_modules, or train it in "
                       "full by lora_modules_to_save",
                       linear->name);
  if (settings->start >= START_PISSA)
    return status_fail(STATUS_USAGE,
                       "peft_init_lora_weights: the adapter of %s cannot begin by its weights in this version; leave it out of "
                       "lora_target_modules, or use peft_init_lora_weights: true",
                       linear->name);
  return STATUS_OK;
}

static Status add_target(Adapter *adapter, Linear *linear, const AdapterSettings *settings) {
  bool is_it;
  double rank, alpha;
  TRY(is_target(&is_it, linear, adapter->model, settings));
  if (!is_it) return STATUS_OK;
  if (!is_of_layer(linear, adapter->model)) TRY(check_vocabulary(linear, settings));
  TRY(pattern_value(&rank, settings->rank_patterns, settings->rank_pattern_count, (double)settings->rank, linear->name,
                    "lora_rank_pattern"));
  TRY(pattern_value(&alpha, settings->alpha_patterns, settings->alpha_pattern_count, settings->alpha, linear->name, "lora_alpha_pattern"));
  adapter_add_pair(adapter, linear, (int64_t)rank, adapter_scale(alpha, (int64_t)rank, settings->rslora));
  return STATUS_OK;
}

static Status add_targets(Adapter *adapter, const AdapterSettings *settings) {
  Model *model = adapter->model;
  TRY(check_targets(model, settings));
  TRY(check_layers(model, &settings->layers));
  TRY(check_ranks(settings));
  for (int i = 0; i < model->linear_count; i++) TRY(add_target(adapter, model->linears[i], settings));
  TRY(add_target(adapter, &model->embedding, settings));
  TRY(add_target(adapter, &model->head, settings));
  if (adapter->count == 0) return nothing_matches(model);
  TRY(check_patterns(adapter, settings->rank_patterns, settings->rank_pattern_count, "lora_rank_pattern"));
  TRY(check_patterns(adapter, settings->alpha_patterns, settings->alpha_pattern_count, "lora_alpha_pattern"));
  TRY(trained_add_modules(adapter, settings->modules_to_save, settings->modules_to_save_count));
  return settings->token_count ? trained_add_tokens(adapter, settings->tokens, settings->token_count) : STATUS_OK;
}

PatternValue *patterns_copy(Arena *arena, const PatternValue *patterns, int count) {
  PatternValue *copy = arena_new(arena, (size_t)count, sizeof *copy);
  for (int i = 0; i < count; i++) copy[i] = (PatternValue){arena_copy_string(arena, patterns[i].pattern), patterns[i].value};
  return copy;
}

LayerChoice layers_copy(Arena *arena, const LayerChoice *choice) {
  int64_t *layers = arena_new(arena, (size_t)choice->count, sizeof *layers);
  const char **patterns = arena_new(arena, (size_t)choice->pattern_count, sizeof *patterns);
  for (int i = 0; i < choice->count; i++) layers[i] = choice->layers[i];
  for (int i = 0; i < choice->pattern_count; i++) patterns[i] = arena_copy_string(arena, choice->patterns[i]);
  return (LayerChoice){layers, choice->count, patterns, choice->pattern_count};
}

static void record(Adapter *adapter, const AdapterSettings *settings) {
  adapter->rank = settings->rank;
  adapter->alpha = settings->alpha;
  adapter->dropout = settings->dropout;
  adapter->rslora = settings->rslora;
  adapter->dora = settings->dora;
  adapter->rank_patterns = patterns_copy(&adapter->arena, settings->rank_patterns, settings->rank_pattern_count);
  adapter->alpha_patterns = patterns_copy(&adapter->arena, settings->alpha_patterns, settings->alpha_pattern_count);
  adapter->rank_pattern_count = settings->rank_pattern_count;
  adapter->alpha_pattern_count = settings->alpha_pattern_count;
  adapter->layers = layers_copy(&adapter->arena, &settings->layers);
}

Status adapter_create(Adapter **out, Model *model, const AdapterSettings *settings) {
  Adapter *adapter = *out = adapter_new(model);
  Status status = STATUS_OK;
  if (!settings->trains_all) record(adapter, settings);
  TRY_DONE(settings->trains_all ? trained_add_all(adapter) : add_targets(adapter, settings));
  TRY_DONE(adapter_allocate(adapter, true));
  if (adapter->count) TRY_DONE(adapter_start(adapter, settings));
  TRY_DONE(trained_begin_at_base(adapter));
  if (adapter->dora) TRY_DONE(adapter_open_magnitudes(adapter, true, false));
done:
  if (status == STATUS_OK) return status;
  adapter_close(adapter);
  *out = NULL;
  return status;
}

void adapter_close(Adapter *adapter) {
  if (!adapter) return;
  Backend *backend = adapter->model->backend;
  for (int i = 0; i < adapter->count; i++) adapter->linears[i]->adapter = NULL;
  adapter_return_bases(adapter);
  trained_remove(adapter);
  if (adapter->data) backend->release(adapter->data, backend);
  if (adapter->gradient) backend->release(adapter->gradient, backend);
  if (adapter->norms) backend->release(adapter->norms, backend);
  arena_release(&adapter->arena);
  free(adapter->tensors);
  free(adapter);
}

void adapter_set_enabled(Adapter *adapter, bool enabled) {
  for (int i = 0; i < adapter->count; i++) {
    adapter->pairs[i].enabled = enabled;
    const AdapterResidual *residual = adapter->residuals ? &adapter->residuals[i] : NULL;
    if (residual) adapter->linears[i]->weight = enabled ? residual->own : residual->base;
  }
  trained_enable(adapter, enabled);
}

float *adapter_set_data(Adapter *adapter, float *data) {
  float *before = adapter->tensor_count ? adapter->tensors[0].parameter->data : NULL;
  int64_t offset = 0;
  for (int i = 0; i < adapter->tensor_count; i++) {
    Parameter *parameter = adapter->tensors[i].parameter;
    parameter->data = data + offset;
    offset += parameter->rows * parameter->columns;
  }
  trained_enable(adapter, true);  // the model's places of what is trained in full
  return before;
}

void adapter_set_dropout(Adapter *adapter, double dropout) {
  for (int i = 0; i < adapter->count; i++) adapter->pairs[i].dropout = (float)dropout;
}
