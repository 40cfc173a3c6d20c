// RoPE in config.json: rope_theta and rope_scaling (old), or rope_parameters (new), which say "type" or "rope_type"; Gemma 3 has one
// object for each type of layer.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/rope.h"

static void read_number(double *value, const json_t *object, const char *key) {
  const json_t *item = json_object_get(object, key);
  if (json_is_number(item)) *value = json_number_value(item);
}

static Status read_factors(const float **out, const json_t *rope, const char *key, int64_t count, const char *path, Arena *arena) {
  const json_t *list = json_object_get(rope, key);
  if (!json_is_array(list) || (int64_t)json_array_size(list) != count)
    return status_fail(STATUS_BAD_INPUT, "%s: %s of longrope scaling needs %lld numbers, one for each rotary pair", path, key,
                       (long long)count);
  float *values = arena_new(arena, (size_t)count, sizeof *values);
  for (int64_t i = 0; i < count; i++) {
    const json_t *item = json_array_get(list, (size_t)i);
    if (!json_is_number(item)) return status_fail(STATUS_BAD_INPUT, "%s: %s[%lld] is no number", path, key, (long long)i);
    values[i] = (float)json_number_value(item);
  }
  *out = values;
  return STATUS_OK;
}

static Status read_scaling(RopeScaling *scaling, const json_t *rope, const char *path) {
  const char *type = json_string_value(json_object_get(rope, "rope_type"));
  if (!type) type = json_string_value(json_object_get(rope, "type"));
  if (!type) type = "default";
  if (strcmp(type, "su") == 0) type = "longrope";  // Phi-3's first name for it
  if (strcmp(type, "mrope") == 0) type = "default";
  for (int i = 0; i < ROPE_SCALING_COUNT; i++)
    if (strcmp(type, rope_scaling_names[i]) == 0) {
      *scaling = (RopeScaling)i;
      return STATUS_OK;
    }
  return status_fail(STATUS_BAD_INPUT, "%s: RoPE scaling '%s' is not built; built are: linear, dynamic, llama3, yarn, longrope", path,
                     type);
}

// One object of RoPE parameters; what it leaves out stays.
static Status read_parameters(Rope *rope, const json_t *object, const json_t *root, int64_t context, const char *path, Arena *arena) {
  TRY(read_scaling(&rope->scaling, object, path));
  double partial = 1;
  read_number(&partial, root, "partial_rotary_factor");
  read_number(&partial, object, "partial_rotary_factor");
  if (!(partial > 0 && partial <= 1)) return status_fail(STATUS_BAD_INPUT, "%s: partial_rotary_factor is not above 0 and up to 1", path);
  rope->rotary = (int64_t)((double)rope->rotary * partial);
  read_number(&rope->base, object, "rope_theta");
  read_number(&rope->factor, object, "factor");
  read_number(&rope->low_frequency_factor, object, "low_freq_factor");
  read_number(&rope->high_frequency_factor, object, "high_freq_factor");
  read_number(&rope->beta_fast, object, "beta_fast");
  read_number(&rope->beta_slow, object, "beta_slow");
  read_number(&rope->mscale, object, "mscale");
  read_number(&rope->mscale_all_dim, object, "mscale_all_dim");
  read_number(&rope->attention_factor, object, "attention_factor");
  rope->truncates = !json_is_false(json_object_get(object, "truncate"));
  rope->original_context = (double)context;
  read_number(&rope->original_context, object, "original_max_position_embeddings");
  read_number(&rope->original_context, root, "original_max_position_embeddings");
  bool has_ratio = rope->scaling == ROPE_SCALING_LONGROPE || rope->scaling == ROPE_SCALING_YARN;
  if (has_ratio && !json_is_number(json_object_get(object, "factor"))) rope->factor = (double)context / rope->original_context;
  if (rope->scaling != ROPE_SCALING_LONGROPE) return STATUS_OK;
  TRY(read_factors(&rope->long_factors, object, "long_factor", rope->rotary / 2, path, arena));
  return read_factors(&rope->short_factors, object, "short_factor", rope->rotary / 2, path, arena);
}

Status rope_from_json(Rope *rope, Rope *local, const json_t *root, bool has_local, int64_t context, const char *path, Arena *arena) {
  *rope = (Rope){.base = 10000, .rotary = rope->rotary, .beta_fast = 32, .beta_slow = 1, .truncates = true};
  *local = *rope;
  if (has_local) rope->base = 1e6;
  else local->base = 0;
  read_number(&rope->base, root, "rope_theta");
  if (has_local) read_number(&local->base, root, "rope_local_base_freq");
  const json_t *object = json_object_get(root, "rope_parameters"), *sliding = NULL;
  if (!json_is_object(object)) object = json_object_get(root, "rope_scaling");
  if (json_is_object(json_object_get(object, "full_attention"))) {  // one for each type of layer
    sliding = json_object_get(object, "sliding_attention");
    object = json_object_get(object, "full_attention");
  }
  json_t *none = json_object();
  Status status = read_parameters(rope, json_is_object(object) ? object : none, root, context, path, arena);
  if (status == STATUS_OK && has_local)
    status = read_parameters(local, json_is_object(sliding) ? sliding : none, root, context, path, arena);
  json_decref(none);
  return status;
}

// ---- Writing ----

// The shortest decimal that is this float32: GGUF's 9.99999975e-06 was somebody's 1e-05.
json_t *json_float(double value) {
  char text[32];
  for (int digits = 1; digits <= 9; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtof(text, NULL) == (float)value) break;
  }
  return json_real(strtod(text, NULL));
}

static void put(json_t *object, const char *key, double value) { json_object_set_new(object, key, json_float(value)); }

static void put_context(json_t *object, const Rope *rope) {
  json_object_set_new(object, "original_max_position_embeddings", json_integer((json_int_t)rope->original_context));
}

// llama3 scaling as GGUF keeps it (a divisor for each frequency) in config.json's four numbers. All models that use it were made
// with low 1, high 4 and, where GGUF does not say the original context, with one of 8192; whether these divisors were too is
// checked, not assumed.
static Status llama3_of_divisors(Rope *out, const Rope *rope, const char *path) {
  int64_t pairs = rope->rotary / 2;
  *out = *rope;
  out->divisors = NULL;
  out->scaling = ROPE_SCALING_LLAMA3;
  out->factor = round((double)rope->divisors[pairs - 1] * 1024) / 1024;  // the slowest pair is divided by the whole factor
  out->low_frequency_factor = 1;
  out->high_frequency_factor = 4;
  if (out->original_context <= 0) out->original_context = 8192;
  float *expected = memory_new((size_t)pairs * 2, sizeof *expected), *actual = expected + pairs;
  rope_frequencies(expected, out, 0, 1);
  rope_frequencies(actual, rope, 0, 1);
  bool same = true;
  for (int64_t i = 0; i < pairs; i++) same &= fabsf(expected[i] - actual[i]) <= 1e-6f * expected[i];
  free(expected);
  if (same) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT,
                     "%s: rope_freqs.weight is not that of Llama 3's scaling, which is all that config.json can say; write a GGUF instead",
                     path);
}

static json_t *factors_json(const float *factors, int64_t count) {
  json_t *list = json_array();
  for (int64_t i = 0; i < count; i++) json_array_append_new(list, json_float(factors[i]));
  return list;
}

// Without rope_theta, which the old generation keeps outside.
static json_t *scaling_json(const Rope *rope) {
  json_t *object = json_object();
  json_object_set_new(object, "rope_type", json_string(rope_scaling_names[rope->scaling]));
  if (rope->scaling != ROPE_SCALING_NONE) put(object, "factor", rope->factor);
  if (rope->attention_factor > 0) put(object, "attention_factor", rope->attention_factor);
  switch (rope->scaling) {
    case ROPE_SCALING_NONE:
    case ROPE_SCALING_LINEAR:
    case ROPE_SCALING_DYNAMIC: break;
    case ROPE_SCALING_LLAMA3:
      put(object, "low_freq_factor", rope->low_frequency_factor);
      put(object, "high_freq_factor", rope->high_frequency_factor);
      put_context(object, rope);
      break;
    case ROPE_SCALING_YARN:
      put(object, "beta_fast", rope->beta_fast);
      put(object, "beta_slow", rope->beta_slow);
      if (rope->mscale != 0) put(object, "mscale", rope->mscale);
      if (rope->mscale_all_dim != 0) put(object, "mscale_all_dim", rope->mscale_all_dim);
      if (!rope->truncates) json_object_set_new(object, "truncate", json_false());
      put_context(object, rope);
      break;
    case ROPE_SCALING_LONGROPE:
      json_object_set_new(object, "long_factor", factors_json(rope->long_factors, rope->rotary / 2));
      json_object_set_new(object, "short_factor", factors_json(rope->short_factors, rope->rotary / 2));
      put_context(object, rope);
      break;
    case ROPE_SCALING_COUNT: break;
  }
  return object;
}

static json_t *parameters_json(const Rope *rope, int64_t rotary_of) {
  json_t *object = scaling_json(rope);
  put(object, "rope_theta", rope->base);
  if (rope->rotary != rotary_of) put(object, "partial_rotary_factor", (double)rope->rotary / (double)rotary_of);
  return object;
}

Status rope_to_json(json_t *root, const Rope *rope, const Rope *local, int64_t rotary_of, const char *path) {
  Rope own = *rope;
  if (rope->divisors) TRY(llama3_of_divisors(&own, rope, path));
  put(root, "rope_theta", own.base);
  if (own.rotary != rotary_of) put(root, "partial_rotary_factor", (double)own.rotary / (double)rotary_of);
  bool is_scaled = own.scaling != ROPE_SCALING_NONE;
  json_object_set_new(root, "rope_scaling", is_scaled ? scaling_json(&own) : json_null());
  if (own.scaling == ROPE_SCALING_LONGROPE) put_context(root, &own);
  if (local->base == 0) {
    json_object_set_new(root, "rope_parameters", parameters_json(&own, rotary_of));
    return STATUS_OK;
  }
  put(root, "rope_local_base_freq", local->base);
  json_object_set_new(
      root, "rope_parameters",
      json_pack("{s:o, s:o}", "full_attention", parameters_json(&own, rotary_of), "sliding_attention", parameters_json(local, rotary_of)));
  return STATUS_OK;
}
