// What adapter_config.json says of ranks, alphas and layers: r, lora_alpha, use_rslora, rank_pattern, alpha_pattern, layers_to_transform and
// layers_pattern.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "adapters/pattern.h"
#include "adapters/peft_config.h"

static Status read_values(PatternValue **out, int *count, Arena *arena, const json_t *config, const char *key, const char *path) {
  json_t *mapping = json_object_get(config, key), *value;
  const char *pattern;
  *count = 0;
  if (!mapping || json_is_null(mapping)) return STATUS_OK;
  if (!json_is_object(mapping)) return status_fail(STATUS_BAD_INPUT, "%s: %s is no mapping of names to numbers", path, key);
  *out = arena_new(arena, json_object_size(mapping), sizeof **out);
  json_object_foreach(mapping, pattern, value) {
    if (!json_is_number(value)) return status_fail(STATUS_BAD_INPUT, "%s: %s: '%s' is no number", path, key, pattern);
    PatternValue entry = {arena_copy_string(arena, pattern), json_number_value(value)};
    double unused;
    Status status = pattern_value(&unused, &entry, 1, 0, "", key);
    if (status != STATUS_OK) return status_fail(STATUS_BAD_INPUT, "%s: %s: '%s' is no regular expression", path, key, pattern);
    (*out)[(*count)++] = entry;
  }
  return STATUS_OK;
}

// A list, or one alone.
static size_t item_count(const json_t *value) { return json_is_array(value) ? json_array_size(value) : value && !json_is_null(value); }
static const json_t *item(const json_t *value, size_t index) { return json_is_array(value) ? json_array_get(value, index) : value; }

static Status read_layers(LayerChoice *choice, Arena *arena, const json_t *config, const char *path) {
  const json_t *layers = json_object_get(config, "layers_to_transform"), *patterns = json_object_get(config, "layers_pattern");
  int64_t *numbers = arena_new(arena, item_count(layers), sizeof *numbers);
  const char **names = arena_new(arena, item_count(patterns), sizeof *names);
  *choice = (LayerChoice){.layers = numbers, .patterns = names};
  for (size_t i = 0; i < item_count(layers); i++) {
    if (!json_is_integer(item(layers, i))) return status_fail(STATUS_BAD_INPUT, "%s: layers_to_transform holds no whole numbers", path);
    numbers[choice->count++] = json_integer_value(item(layers, i));
  }
  for (size_t i = 0; i < item_count(patterns); i++) {
    if (!json_is_string(item(patterns, i))) return status_fail(STATUS_BAD_INPUT, "%s: layers_pattern holds no names", path);
    if (*json_string_value(item(patterns, i)))
      names[choice->pattern_count++] = arena_copy_string(arena, json_string_value(item(patterns, i)));
  }
  return STATUS_OK;
}

Status peft_read_patterns(AdapterSource *source, const json_t *config, const char *path) {
  TRY(read_values(&source->rank_patterns, &source->rank_pattern_count, &source->arena, config, "rank_pattern", path));
  TRY(read_values(&source->alpha_patterns, &source->alpha_pattern_count, &source->arena, config, "alpha_pattern", path));
  return read_layers(&source->layers, &source->arena, config, path);
}

// PEFT's numbers are integers wherever they can be.
static json_t *number(double value) {
  double whole = round(value);
  return fabs(value - whole) <= 1e-6 * fabs(value) ? json_integer((json_int_t)whole) : json_real(value);
}

static bool is_near(double a, double b) { return fabs(a - b) <= 1e-6 * fabs(b); }

// Whether the adapter's own numbers and patterns give every pair's rank and scale.
static bool are_told_by_patterns(const Adapter *adapter) {
  if (adapter->initial) return false;  // its ranks in files are twice as large
  for (int i = 0; i < adapter->count; i++) {
    const LowRank *pair = &adapter->pairs[i];
    const char *module = adapter->linears[i]->name;
    double rank, alpha;
    if (pattern_value(&rank, adapter->rank_patterns, adapter->rank_pattern_count, (double)adapter->rank, module, "") != STATUS_OK ||
        pattern_value(&alpha, adapter->alpha_patterns, adapter->alpha_pattern_count, adapter->alpha, module, "") != STATUS_OK)
      return false;
    if (rank != (double)pair->b.columns || !is_near(adapter_scale(alpha, pair->b.columns, adapter->rslora), (double)pair->scale))
      return false;
  }
  return true;
}

static json_t *pattern_values(const PatternValue *patterns, int count) {
  json_t *values = json_object();
  for (int i = 0; i < count; i++) json_object_set_new(values, patterns[i].pattern, number(patterns[i].value));
  return values;
}

static void put_numbers(json_t *config, int64_t rank, double alpha, bool rslora, json_t *ranks, json_t *alphas) {
  json_object_set_new(config, "r", json_integer(rank));
  json_object_set_new(config, "lora_alpha", number(alpha));
  json_object_set_new(config, "use_rslora", json_boolean(rslora));
  json_object_set_new(config, "rank_pattern", ranks);
  json_object_set_new(config, "alpha_pattern", alphas);
}

// By the modules' full names, from the pairs themselves.
static void put_each(json_t *config, const Adapter *adapter) {
  json_t *ranks = json_object(), *alphas = json_object();
  int64_t first = adapter_file_rank(adapter, 0);
  double first_alpha = (double)adapter->pairs[0].scale * (double)first;
  for (int i = 1; i < adapter->count; i++) {
    int64_t rank = adapter_file_rank(adapter, i);
    double alpha = (double)adapter->pairs[i].scale * (double)rank;
    if (rank != first) json_object_set_new(ranks, adapter->linears[i]->name, json_integer(rank));
    if (!is_near(alpha, first_alpha)) json_object_set_new(alphas, adapter->linears[i]->name, number(alpha));
  }
  put_numbers(config, first, first_alpha, false, ranks, alphas);
}

void peft_write_patterns(json_t *config, const Adapter *adapter) {
  if (are_told_by_patterns(adapter))
    put_numbers(config, adapter->rank, adapter->alpha, adapter->rslora, pattern_values(adapter->rank_patterns, adapter->rank_pattern_count),
                pattern_values(adapter->alpha_patterns, adapter->alpha_pattern_count));
  else put_each(config, adapter);
  const LayerChoice *choice = &adapter->layers;
  if (choice->count == 0) return;
  json_t *layers = json_array(), *patterns = json_array();
  for (int i = 0; i < choice->count; i++) json_array_append_new(layers, json_integer(choice->layers[i]));
  for (int i = 0; i < choice->pattern_count; i++) json_array_append_new(patterns, json_string(choice->patterns[i]));
  json_object_set_new(config, "layers_to_transform", layers);
  json_object_set_new(config, "layers_pattern", choice->pattern_count ? json_incref(patterns) : json_null());
  json_decref(patterns);
}
