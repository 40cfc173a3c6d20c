#define PCRE2_CODE_UNIT_WIDTH 8
#include "adapters/adapter.h"

#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "adapters/trained.h"
#include "core/rng.h"
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

static Status compile_regex(pcre2_code **code, const char *pattern) {
  int error;
  PCRE2_SIZE offset;
  *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &error, &offset, NULL);
  if (*code) return STATUS_OK;
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(error, message, sizeof message);
  return status_fail(STATUS_USAGE, "lora_target_modules: '%s' is no regular expression: %s at character %zu", pattern, (char *)message,
                     offset + 1);
}

static bool matches_regex(const char *name, const pcre2_code *code) {
  pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
  int found = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, match, NULL);
  pcre2_match_data_free(match);
  return found >= 0;
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
}

Status adapter_allocate(Adapter *adapter, bool trainable) {
  Backend *backend = adapter->model->backend;
  int64_t bytes = adapter->size * (int64_t)sizeof(float);
  TRY(backend->allocate((void **)&adapter->data, bytes, "the adapter", backend));
  if (trainable) TRY(backend->allocate((void **)&adapter->gradient, bytes, "the adapter's gradients", backend));
  int64_t offset = 0;
  for (int i = 0; i < adapter->tensor_count; i++) {
    Parameter *parameter = adapter->tensors[i].parameter;
    parameter->data = adapter->data + offset;
    if (trainable) parameter->gradient = adapter->gradient + offset;
    offset += parameter->rows * parameter->columns;
  }
  for (int i = 0; i < adapter->count; i++) adapter->linears[i]->adapter = &adapter->pairs[i];
  if (trainable) backend->kernels->fill(adapter->gradient, 0, adapter->size, backend);
  return trained_place(adapter);
}

double adapter_scale(double alpha, int64_t rank, bool rslora) { return rslora ? alpha / sqrt((double)rank) : alpha / (double)rank; }

static void initialise(Adapter *adapter, uint64_t seed) {
  Backend *backend = adapter->model->backend;
  float *values = memory_new((size_t)adapter->size, sizeof *values);  // B stays zero; of the embedding A does
  for (int i = 0; i < adapter->count; i++) {
    const LowRank *pair = &adapter->pairs[i];
    Rng rng = rng_new(seed, RNG_STREAM_ADAPTER_INIT | (uint64_t)(i + 1) << 8);
    if (adapter->linears[i] == &adapter->model->embedding) {
      float *b = values + (pair->b.data - adapter->data);
      for (int64_t j = 0; j < pair->b.rows * pair->b.columns; j++) b[j] = (float)rng_normal(&rng);
      continue;
    }
    double bound = 1 / sqrt((double)pair->a.columns);
    float *a = values + (pair->a.data - adapter->data);
    for (int64_t j = 0; j < pair->a.rows * pair->a.columns; j++) a[j] = (float)((2 * rng_uniform(&rng) - 1) * bound);
  }
  backend->upload(adapter->data, values, adapter->size * (int64_t)sizeof(float), backend);
  free(values);
}

// A layer that is trained in full has no adapter beside it.
static bool is_target(const Linear *linear, const Model *model, const AdapterSettings *settings, const pcre2_code *regex) {
  if (trained_is_saved(linear->name, settings->modules_to_save, settings->modules_to_save_count)) return false;
  bool is_of_layers = linear != &model->embedding && linear != &model->head;
  return (settings->all_linear && is_of_layers) || matches_list(linear->name, settings) || (regex && matches_regex(linear->name, regex));
}

static Status add_targets(Adapter *adapter, const AdapterSettings *settings) {
  Model *model = adapter->model;
  pcre2_code *regex = NULL;
  TRY(check_targets(model, settings));
  if (settings->target_regex) TRY(compile_regex(&regex, settings->target_regex));
  double scale = adapter_scale(settings->alpha, settings->rank, settings->rslora);
  for (int i = 0; i < model->linear_count; i++)
    if (is_target(model->linears[i], model, settings, regex)) adapter_add_pair(adapter, model->linears[i], settings->rank, scale);
  if (is_target(&model->embedding, model, settings, regex)) adapter_add_pair(adapter, &model->embedding, settings->rank, scale);
  if (is_target(&model->head, model, settings, regex)) adapter_add_pair(adapter, &model->head, settings->rank, scale);
  pcre2_code_free(regex);
  if (adapter->count == 0) return nothing_matches(model);
  TRY(trained_add_modules(adapter, settings->modules_to_save, settings->modules_to_save_count));
  return settings->token_count ? trained_add_tokens(adapter, settings->tokens, settings->token_count) : STATUS_OK;
}

Status adapter_create(Adapter **out, Model *model, const AdapterSettings *settings) {
  Adapter *adapter = *out = adapter_new(model);
  Status status = STATUS_OK;
  if (settings->trains_all) {
    TRY_DONE(trained_add_all(adapter));
  } else {
    adapter->rank = settings->rank;
    adapter->alpha = settings->alpha;
    adapter->dropout = settings->dropout;
    adapter->rslora = settings->rslora;
    TRY_DONE(add_targets(adapter, settings));
  }
  TRY_DONE(adapter_allocate(adapter, true));
  if (adapter->count) initialise(adapter, settings->seed);
  status = trained_begin_at_base(adapter);
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
  trained_remove(adapter);
  if (adapter->data) backend->release(adapter->data, backend);
  if (adapter->gradient) backend->release(adapter->gradient, backend);
  arena_release(&adapter->arena);
  free(adapter->tensors);
  free(adapter);
}

void adapter_set_enabled(Adapter *adapter, bool enabled) {
  for (int i = 0; i < adapter->count; i++) adapter->pairs[i].enabled = enabled;
  trained_enable(adapter, enabled);
}

void adapter_set_dropout(Adapter *adapter, double dropout) {
  for (int i = 0; i < adapter->count; i++) adapter->pairs[i].dropout = (float)dropout;
}
