// RoPE in GGUF: {arch}.rope.freq_base and .rope.scaling.*; llama3 scaling is rope_freqs.weight, longrope is rope_factors_long.weight and
// rope_factors_short.weight. llama.cpp's sine and cosine of YaRN are multiplied by attn_factor (1 + 0.1 log factor), but those of
// deepseek2, whose yarn_log_multiplier is 0.1 mscale_all_dim, by attn_factor alone.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/rope.h"

static bool get(double *value, const Gguf *gguf, const char *architecture, const char *key) {
  char name[128];
  snprintf(name, sizeof name, "%s.rope.%s", architecture, key);
  return gguf_get_float(gguf, name, value);
}

static Status read_tensor(const float **out, const Gguf *gguf, const char *name, int64_t count, Arena *arena) {
  const GgufTensor *tensor = gguf_find_tensor(gguf, name);
  if (!tensor) return STATUS_OK;
  if (tensor->type != BLOCK_F32 || !tensor->data || tensor->dimensions != 1 || tensor->shape[0] != count)
    return status_fail(STATUS_BAD_INPUT, "%s: %s is not of %lld float32 values, one for each rotary pair", gguf->path, name,
                       (long long)count);
  *out = memcpy(arena_new(arena, (size_t)count, sizeof(float)), tensor->data, (size_t)count * sizeof(float));
  return STATUS_OK;
}

static Status read_scaling(Rope *rope, const Gguf *gguf, const char *architecture) {
  char name[128];
  snprintf(name, sizeof name, "%s.rope.scaling.type", architecture);
  GgufString text;
  double dynamic;
  if (rope->long_factors) rope->scaling = ROPE_SCALING_LONGROPE;
  if (get(&dynamic, gguf, architecture, "scaling.dynamic_factor")) {
    rope->scaling = ROPE_SCALING_DYNAMIC;
    rope->factor = dynamic;
  }
  if (!gguf_get_string(gguf, name, &text) || (text.length == 4 && memcmp(text.data, "none", 4) == 0)) return STATUS_OK;
  static const RopeScaling known[] = {ROPE_SCALING_LINEAR, ROPE_SCALING_YARN, ROPE_SCALING_LONGROPE};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    const char *type = rope_scaling_names[known[i]];
    if (text.length == strlen(type) && memcmp(text.data, type, text.length) == 0) {
      rope->scaling = known[i];
      return STATUS_OK;
    }
  }
  return status_fail(STATUS_BAD_INPUT, "%s: RoPE scaling '%.*s' is not built; built are: none, linear, yarn, longrope", gguf->path,
                     (int)(text.length < 63 ? text.length : 63), text.data);
}

static double yarn_growth(double factor) { return factor <= 1 ? 1 : 1 + 0.1 * log(factor); }

Status rope_from_gguf(Rope *rope, Rope *local, const Gguf *gguf, const char *architecture, bool has_local, int64_t context, Arena *arena) {
  *rope = (Rope){.base = 10000, .rotary = rope->rotary, .beta_fast = 32, .beta_slow = 1, .truncates = true};
  *local = (Rope){.base = has_local ? 10000 : 0, .rotary = rope->rotary};
  get(&rope->base, gguf, architecture, "freq_base");
  if (has_local) get(&local->base, gguf, architecture, "freq_base_swa");
  TRY(read_tensor(&rope->divisors, gguf, "rope_freqs.weight", rope->rotary / 2, arena));
  TRY(read_tensor(&rope->long_factors, gguf, "rope_factors_long.weight", rope->rotary / 2, arena));
  TRY(read_tensor(&rope->short_factors, gguf, "rope_factors_short.weight", rope->rotary / 2, arena));
  TRY(read_scaling(rope, gguf, architecture));
  get(&rope->factor, gguf, architecture, "scaling.factor");
  get(&rope->original_context, gguf, architecture, "scaling.original_context_length");
  double attention_factor = 1, log_multiplier = 0;
  bool has_factor = get(&attention_factor, gguf, architecture, "scaling.attn_factor");
  if (rope->scaling == ROPE_SCALING_LONGROPE) {
    rope->factor = rope->original_context > 0 ? (double)context / rope->original_context : 0;
    if (has_factor) rope->attention_factor = attention_factor;
  }
  if (rope->scaling == ROPE_SCALING_YARN) {
    get(&rope->beta_fast, gguf, architecture, "scaling.yarn_beta_fast");
    get(&rope->beta_slow, gguf, architecture, "scaling.yarn_beta_slow");
    if (rope->original_context == 0) rope->original_context = (double)context;
    if (get(&log_multiplier, gguf, architecture, "scaling.yarn_log_multiplier")) rope->mscale = rope->mscale_all_dim = 10 * log_multiplier;
    if (has_factor) rope->attention_factor = attention_factor * (log_multiplier != 0 ? 1 : yarn_growth(rope->factor));
    if (rope->attention_factor != 0 && fabs(rope->attention_factor / yarn_growth(rope->factor) - 1) < 1e-6 && log_multiplier == 0)
      rope->attention_factor = 0;  // what the scaling says in any case
  }
  return STATUS_OK;
}

static void put(GgufWriter *writer, const char *architecture, const char *key, double value) {
  char name[128];
  snprintf(name, sizeof name, "%s.rope.%s", architecture, key);
  gguf_put_float32(writer, name, (float)value);
}

static void put_context(GgufWriter *writer, const char *architecture, const Rope *rope) {
  char name[128];
  snprintf(name, sizeof name, "%s.rope.scaling.original_context_length", architecture);
  gguf_put_uint32(writer, name, (uint32_t)rope->original_context);
}

void rope_to_gguf(GgufWriter *writer, const Rope *rope, const Rope *local, const char *architecture) {
  put(writer, architecture, "freq_base", rope->base);
  if (local->base != 0) put(writer, architecture, "freq_base_swa", local->base);
  if (rope->scaling == ROPE_SCALING_NONE) return;
  if (rope->scaling == ROPE_SCALING_DYNAMIC) {  // a key of our own: readers that do not know it are right up to the model's context
    put(writer, architecture, "scaling.dynamic_factor", rope->factor);
    return;
  }
  if (rope->scaling != ROPE_SCALING_LINEAR) put_context(writer, architecture, rope);
  if (rope->scaling == ROPE_SCALING_LLAMA3) return;  // the rest is rope_freqs.weight
  if (rope->scaling == ROPE_SCALING_LONGROPE) {  // its tensors say that it is; llama.cpp would divide by a factor as well
    put(writer, architecture, "scaling.attn_factor", rope_magnitude(rope));
    return;
  }
  char name[128];
  snprintf(name, sizeof name, "%s.rope.scaling.type", architecture);
  const char *type = rope_scaling_names[rope->scaling];
  gguf_put_string(writer, name, type, strlen(type));
  put(writer, architecture, "scaling.factor", rope->factor);
  if (rope->scaling != ROPE_SCALING_YARN) return;
  put(writer, architecture, "scaling.yarn_beta_fast", rope->beta_fast);
  put(writer, architecture, "scaling.yarn_beta_slow", rope->beta_slow);
  bool is_deepseek = strcmp(architecture, "deepseek2") == 0;
  if (is_deepseek) put(writer, architecture, "scaling.yarn_log_multiplier", 0.1 * rope->mscale_all_dim);
  put(writer, architecture, "scaling.attn_factor",
      rope_magnitude(rope) / (is_deepseek && rope->mscale_all_dim != 0 ? 1 : yarn_growth(rope->factor)));
}
