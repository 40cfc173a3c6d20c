#define PCRE2_CODE_UNIT_WIDTH 8
#include "adapters/adapter.h"

#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
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
    if (found) continue;
    if (strcmp(settings->targets[i], "lm_head") == 0 || strcmp(settings->targets[i], "embed_tokens") == 0)
      return status_fail(STATUS_USAGE, "lora_target_modules: an adapter on %s is not built yet; leave it out", settings->targets[i]);
    (void)nothing_matches(model);
    return status_context(STATUS_USAGE, "'%s'", settings->targets[i]);
  }
  return STATUS_OK;
}

Adapter *adapter_new(Model *model) {
  Adapter *adapter = memory_new(1, sizeof *adapter);
  adapter->model = model;
  adapter->pairs = arena_new(&adapter->arena, (size_t)model->linear_count, sizeof *adapter->pairs);
  adapter->linears = arena_new(&adapter->arena, (size_t)model->linear_count, sizeof *adapter->linears);
  return adapter;
}

void adapter_add_tensor(Adapter *adapter, const char *module, TensorRole role, Parameter *parameter) {
  ARRAY_PUSH(adapter->tensors, adapter->tensor_count, adapter->tensor_capacity) = (AdapterTensor){module, role, parameter};
  adapter->size += parameter->rows * parameter->columns;
}

void adapter_add_pair(Adapter *adapter, Linear *linear, int64_t rank, double scale) {
  LowRank *pair = &adapter->pairs[adapter->count];
  *pair = (LowRank){.a = {.rows = rank, .columns = linear->weight.columns},
                    .b = {.rows = linear->weight.rows, .columns = rank},
                    .scale = (float)scale,
                    .dropout = (float)adapter->dropout,
                    .index = adapter->count,
                    .enabled = true};
  adapter->linears[adapter->count++] = linear;
  adapter_add_tensor(adapter, linear->name, TENSOR_LORA_A, &pair->a);
  adapter_add_tensor(adapter, linear->name, TENSOR_LORA_B, &pair->b);
}

Status adapter_allocate(Adapter *adapter, bool trainable) {
  Backend *backend = adapter->model->backend;
  int64_t bytes = adapter->size * (int64_t)sizeof(float);
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
  return STATUS_OK;
}

double adapter_scale(double alpha, int64_t rank, bool rslora) { return rslora ? alpha / sqrt((double)rank) : alpha / (double)rank; }

static void initialise(Adapter *adapter, uint64_t seed) {
  Backend *backend = adapter->model->backend;
  float *values = memory_new((size_t)adapter->size, sizeof *values);  // B stays zero
  for (int i = 0; i < adapter->count; i++) {
    const LowRank *pair = &adapter->pairs[i];
    Rng rng = rng_new(seed, RNG_STREAM_ADAPTER_INIT | (uint64_t)(i + 1) << 8);
    double bound = 1 / sqrt((double)pair->a.columns);
    float *a = values + (pair->a.data - adapter->data);
    for (int64_t j = 0; j < pair->a.rows * pair->a.columns; j++) a[j] = (float)((2 * rng_uniform(&rng) - 1) * bound);
  }
  backend->upload(adapter->data, values, adapter->size * (int64_t)sizeof(float), backend);
  free(values);
}

Status adapter_create(Adapter **out, Model *model, const AdapterSettings *settings) {
  Adapter *adapter = *out = adapter_new(model);
  adapter->rank = settings->rank;
  adapter->alpha = settings->alpha;
  adapter->dropout = settings->dropout;
  adapter->rslora = settings->rslora;
  pcre2_code *regex = NULL;
  Status status = check_targets(model, settings);
  if (status == STATUS_OK && settings->target_regex) status = compile_regex(&regex, settings->target_regex);
  for (int i = 0; status == STATUS_OK && i < model->linear_count; i++) {
    Linear *linear = model->linears[i];
    if (settings->all_linear || matches_list(linear->name, settings) || (regex && matches_regex(linear->name, regex)))
      adapter_add_pair(adapter, linear, settings->rank, adapter_scale(settings->alpha, settings->rank, settings->rslora));
  }
  pcre2_code_free(regex);
  if (status == STATUS_OK && adapter->count == 0) status = nothing_matches(model);
  if (status == STATUS_OK) status = adapter_allocate(adapter, true);
  if (status == STATUS_OK) {
    initialise(adapter, settings->seed);
  } else {
    adapter_close(adapter);
    *out = NULL;
  }
  return status;
}

void adapter_close(Adapter *adapter) {
  if (!adapter) return;
  Backend *backend = adapter->model->backend;
  for (int i = 0; i < adapter->count; i++) adapter->linears[i]->adapter = NULL;
  if (adapter->data) backend->release(adapter->data, backend);
  if (adapter->gradient) backend->release(adapter->gradient, backend);
  arena_release(&adapter->arena);
  free(adapter->tensors);
  free(adapter);
}

void adapter_set_enabled(Adapter *adapter, bool enabled) {
  for (int i = 0; i < adapter->count; i++) adapter->pairs[i].enabled = enabled;
}

float *adapter_set_data(Adapter *adapter, float *data) {
  float *before = adapter->tensor_count ? adapter->tensors[0].parameter->data : NULL;
  int64_t offset = 0;
  for (int i = 0; i < adapter->tensor_count; i++) {
    Parameter *parameter = adapter->tensors[i].parameter;
    parameter->data = data + offset;
    offset += parameter->rows * parameter->columns;
  }
  return before;
}

void adapter_set_dropout(Adapter *adapter, double dropout) {
  for (int i = 0; i < adapter->count; i++) adapter->pairs[i].dropout = (float)dropout;
}
