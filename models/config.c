// Reading and writing of a model's dimensions by the table of config_keys.c, and what no table can say.
#include "models/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "models/config_keys.h"

// ---- What both formats share ----

static void *field(ModelConfig *config, const ConfigKey *key) { return (char *)config + key->offset; }

static void set_number(ModelConfig *config, const ConfigKey *key, double value) {
  if (key->kind == KEY_INTEGER) *(int64_t *)field(config, key) = (int64_t)value;
  else if (key->kind == KEY_REAL) *(double *)field(config, key) = value;
  else *(bool *)field(config, key) = value != 0;
}

static const ConfigKey *next_key(const ConfigKey *key, const Family *family) {
  while ((key->name || key->gguf) && !(key->families & (unsigned)family->bit)) key++;
  return key->name || key->gguf ? key : NULL;
}

#define FOR_KEYS(key, family) for (const ConfigKey *key = next_key(config_keys, family); key; key = next_key(key + 1, family))

static Status check_sizes(const ModelConfig *c, const char *path) {
  const struct {
    const char *name;
    int64_t value, limit;
  } sizes[] = {{"layers", c->layers, 1 << 12},
               {"hidden size", c->hidden, 1 << 20},
               {"attention heads", c->heads, 1 << 12},
               {"KV heads", c->kv_heads, 1 << 12},
               {"head size", c->head_size, 1 << 12},
               {"value size", c->value_size, 1 << 12},
               {"feed-forward size", c->feed_forward, 1 << 22},
               {"context length", c->context_length, 1ll << 32}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (sizes[i].value <= 0 || sizes[i].value > sizes[i].limit)
      return status_fail(STATUS_BAD_INPUT, "%s: %lld is no sane number of %s", path, (long long)sizes[i].value, sizes[i].name);
  if (c->heads % c->kv_heads)
    return status_fail(STATUS_BAD_INPUT, "%s: %lld attention heads are not a multiple of %lld KV heads", path, (long long)c->heads,
                       (long long)c->kv_heads);
  if (c->head_size % 2)
    return status_fail(STATUS_BAD_INPUT, "%s: a head size of %lld is odd, and rotary positions need pairs", path, (long long)c->head_size);
  if (!(c->norm_epsilon >= 0 && c->norm_epsilon < 1)) return status_fail(STATUS_BAD_INPUT, "%s: the norm's epsilon is not sane", path);
  if (c->window < 0) return status_fail(STATUS_BAD_INPUT, "%s: a sliding window of %lld is not sane", path, (long long)c->window);
  const double reals[] = {c->attention_softcap, c->final_softcap, c->query_scalar, c->routed_scale};
  for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
    if (!(reals[i] >= 0 && reals[i] < 1e30))
      return status_fail(STATUS_BAD_INPUT, "%s: a soft-cap or scale of %g is not sane", path, reals[i]);
  return STATUS_OK;
}

static Status check_latent(const ModelConfig *c, const char *path) {
  if (c->kv_latent == 0) return STATUS_OK;
  if (c->kv_latent < 0 || c->kv_latent > 1 << 20 || c->q_latent < 0 || c->q_latent > 1 << 20 || c->rope_size <= 0 ||
      c->rope_size >= c->head_size)
    return status_fail(STATUS_BAD_INPUT, "%s: latent attention with ranks of %lld and %lld and %lld rotary dimensions of %lld is not sane",
                       path, (long long)c->q_latent, (long long)c->kv_latent, (long long)c->rope_size, (long long)c->head_size);
  return STATUS_OK;
}

static Status check_experts(const ModelConfig *c, const char *path) {
  if (c->experts == 0) return STATUS_OK;
  if (c->experts < 1 || c->experts > 4096 || c->experts_used < 1 || c->experts_used > c->experts || c->expert_feed_forward < 1 ||
      c->expert_feed_forward > 1 << 22 || c->shared_experts < 0 || c->shared_experts > 1024 || c->dense_layers < 0)
    return status_fail(STATUS_BAD_INPUT, "%s: %lld of %lld experts of size %lld for each token are not sane", path,
                       (long long)c->experts_used, (long long)c->experts, (long long)c->expert_feed_forward);
  if (c->groups <= 1) return STATUS_OK;
  if (c->groups > 256 || c->groups > c->experts || c->experts % c->groups || c->groups_used < 1 || c->groups_used > c->groups ||
      c->experts_used > c->experts / c->groups * c->groups_used || (c->is_sigmoid_routed && c->experts / c->groups < 2))
    return status_fail(STATUS_BAD_INPUT, "%s: %lld experts in %lld of %lld groups are not sane", path, (long long)c->experts,
                       (long long)c->groups_used, (long long)c->groups);
  return STATUS_OK;
}

static Status check_config(const ModelConfig *config, const char *path) {
  TRY(check_sizes(config, path));
  TRY(check_latent(config, path));
  TRY(check_experts(config, path));
  TRY(rope_check(&config->rope, path));
  TRY(rope_check(&config->local_rope, path));
  if (config->rope.rotary <= config->head_size) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: %lld rotary dimensions are more than a head has", path, (long long)config->rope.rotary);
}

static Status unknown_family(const char *path, const char *key, const char *name) {
  char *names = family_names();
  Status status = status_fail(STATUS_BAD_INPUT, "%s: %s '%s' is not built; built are: %s", path, key, name, names);
  free(names);
  return status;
}

static void set_defaults(ModelConfig *config, const Family *family) {
  if (config->kv_heads == 0 || config->kv_latent) config->kv_heads = config->heads;
  if (config->head_size == 0) config->head_size = config->heads > 0 ? config->hidden / config->heads : 0;
  if (config->value_size == 0) config->value_size = config->head_size;
  if (config->experts > 0 && config->expert_feed_forward == 0) config->expert_feed_forward = config->feed_forward;
  if (config->experts > 0 && config->routed_scale == 0) config->routed_scale = 1;
  if (family->bit == FAMILY_MIXTRAL) config->normalizes_experts = true;
  config->is_sigmoid_routed = family->bit == FAMILY_DEEPSEEK_V3;
  config->rope.rotary = config->kv_latent ? config->rope_size : config->head_size;
}

// Kinds of the family's own pattern, `period` and `first` being its numbers.
static LayerKind *new_kinds(ModelConfig *config, const Family *family, int64_t window_period, int64_t first_windowed, Arena *arena) {
  LayerKind *kinds = arena_new(arena, (size_t)config->layers, sizeof *kinds);
  for (int64_t i = 0; i < config->layers; i++) {
    bool in_window = family->window_rule == WINDOW_IN_ALL_LAYERS         ? true
                     : family->window_rule == WINDOW_IN_ALL_BUT_EACH_NTH ? window_period > 0 && (i + 1) % window_period != 0
                                                                         : i >= first_windowed;
    kinds[i] = (LayerKind){.is_windowed = config->window > 0 && in_window, .has_rope = true, .is_sparse = config->experts > 0};
    if (i < config->dense_layers) kinds[i].is_sparse = false;
  }
  config->kinds = kinds;
  return kinds;
}

int64_t config_dimension(const ModelConfig *c, Dimension dimension) {
  int64_t key = c->kv_heads * c->head_size, value = c->kv_heads * c->value_size;
  switch (dimension) {
    case DIMENSION_HIDDEN: return c->hidden;
    case DIMENSION_QUERY: return c->heads * c->head_size;
    case DIMENSION_KEY: return key;
    case DIMENSION_VALUE: return value;
    case DIMENSION_QKV: return c->heads * c->head_size + key + value;
    case DIMENSION_OUTPUT: return c->heads * c->value_size;
    case DIMENSION_HEAD: return c->head_size;
    case DIMENSION_FEED_FORWARD: return c->feed_forward;
    case DIMENSION_GATE_UP: return 2 * c->feed_forward;
    case DIMENSION_SHARED: return c->shared_experts * c->expert_feed_forward;
    case DIMENSION_Q_LATENT: return c->q_latent;
    case DIMENSION_KV_LATENT: return c->kv_latent;
    case DIMENSION_KV_LATENT_ROPE: return c->kv_latent + c->rope_size;
    case DIMENSION_KV_UNPACKED: return c->heads * (c->head_size - c->rope_size + c->value_size);
  }
  return 0;
}

bool config_has(const ModelConfig *config, Presence presence, int layer) {
  switch (presence) {
    case IN_ALL: return true;
    case IN_DENSE: return !config->kinds[layer].is_sparse;
    case WITH_SHARED: return config->kinds[layer].is_sparse && config->shared_experts > 0;
    case WITH_Q_LATENT: return config->q_latent > 0;
    case WITHOUT_Q_LATENT: return config->q_latent == 0;
  }
  return false;
}

static double attention_scale(const ModelConfig *config) {
  double size = config->query_scalar > 0 ? config->query_scalar : (double)config->head_size;
  return (config->kv_latent ? rope_score_factor(&config->rope) : 1) / sqrt(size);
}

AttentionShape config_attention_shape(const ModelConfig *config, bool is_windowed) {
  return (AttentionShape){.heads = config->heads,
                          .kv_heads = config->kv_heads,
                          .head_size = config->head_size,
                          .value_size = config->value_size,
                          .scale = (float)attention_scale(config),
                          .window = is_windowed ? config->window : 0,
                          .softcap = (float)config->attention_softcap};
}

// ---- GGUF ----

static const GgufValue *find(const Gguf *gguf, const Family *family, const char *key) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  return gguf_find(gguf, name);
}

static bool get_integer(int64_t *value, const Gguf *gguf, const char *architecture, const char *key) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", architecture, key);
  return gguf_get_integer(gguf, name, value);
}

// An array of one number again and again.
static bool same_for_all_layers(int64_t *out, const GgufValue *value) {
  if (value->type != GGUF_ARRAY || value->count == 0 || !gguf_array_integer(value, 0, out)) return false;
  for (uint64_t i = 1; i < value->count; i++) {
    int64_t other;
    if (!gguf_array_integer(value, i, &other) || other != *out) return false;
  }
  return true;
}

static Status read_gguf_key(ModelConfig *config, const ConfigKey *key, const Gguf *gguf, const Family *family) {
  const GgufValue *value = find(gguf, family, key->gguf);
  if (!value) {
    if (!key->is_needed) return STATUS_OK;
    return status_fail(STATUS_BAD_INPUT, "%s: the key %s.%s is missing or no number", gguf->path, family->gguf, key->gguf);
  }
  int64_t integer;
  double real;
  bool truth;
  if (key->kind == KEY_INTEGER && same_for_all_layers(&integer, value)) *(int64_t *)field(config, key) = integer;
  else if (key->kind == KEY_INTEGER && gguf_get_integer(gguf, value->key, &integer)) *(int64_t *)field(config, key) = integer;
  else if (key->kind == KEY_REAL && gguf_get_float(gguf, value->key, &real)) *(double *)field(config, key) = real;
  else if (key->kind == KEY_BOOL && gguf_get_bool(gguf, value->key, &truth)) *(bool *)field(config, key) = truth;
  else
    return status_fail(STATUS_BAD_INPUT, "%s: the key %s is missing or no number%s", gguf->path, value->key,
                       value->type == GGUF_ARRAY ? "; another number for each layer is not built" : "");
  return STATUS_OK;
}

// Several families share an architecture: the last one whose marks the file has.
static const Family *find_family(const Gguf *gguf, const char *architecture) {
  int64_t experts = 0, window = 0, gating = 0;
  get_integer(&experts, gguf, architecture, "expert_count");
  get_integer(&window, gguf, architecture, "attention.sliding_window");
  get_integer(&gating, gguf, architecture, "expert_gating_func");
  const Family *found = NULL;
  for (int i = 0; family_at(i); i++) {
    const Family *family = family_at(i);
    if (strcmp(family->gguf, architecture) != 0 || (family->marked_by_experts && experts <= 0) ||
        (family->marked_by_window && (window <= 0 || experts > 0)) || (family->marked_by_sigmoid && gating != 2))
      continue;
    found = family;
  }
  return found;
}

// Keys and values of latent attention by the names of files that keep a head's keys apart from its values (attn_k_b, attn_v_b).
static void read_latent(ModelConfig *config, const Gguf *gguf, const Family *family) {
  if (config->kv_latent == 0) return;
  get_integer(&config->head_size, gguf, family->gguf, "attention.key_length_mla");
  get_integer(&config->value_size, gguf, family->gguf, "attention.value_length_mla");
}

// What GGUF has no key for, as llama.cpp's loader has it: Gemma's 27B models alone divide scores by another root than that of the head.
static void read_query_scalar(ModelConfig *config, const Gguf *gguf, const Family *family) {
  double scale;
  char name[128];
  snprintf(name, sizeof name, "%s.attention.scale", family->gguf);
  if (gguf_get_float(gguf, name, &scale) && scale > 0) config->query_scalar = round(1 / (scale * scale) * 1024) / 1024;
  else if ((family->bit == FAMILY_GEMMA2 && config->layers == 46) || (family->bit == FAMILY_GEMMA3 && config->layers == 62))
    config->query_scalar = (double)config->hidden / (double)config->heads;
}

// An array of a truth for each layer, where the key has one.
static Status read_truths(LayerKind *kinds, size_t offset, const ModelConfig *config, const Gguf *gguf, const GgufValue *value) {
  if (!value || value->type != GGUF_ARRAY) return STATUS_OK;
  if (value->count != (uint64_t)config->layers)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %llu elements for %lld layers", gguf->path, value->key,
                       (unsigned long long)value->count, (long long)config->layers);
  for (int64_t i = 0; i < config->layers; i++) {
    int64_t truth = value->element == GGUF_BOOL ? value->data[i] : 0;
    if (value->element != GGUF_BOOL && !gguf_array_integer(value, (uint64_t)i, &truth))
      return status_fail(STATUS_BAD_INPUT, "%s: %s is no array of truths", gguf->path, value->key);
    *(bool *)((char *)&kinds[i] + offset) = truth != 0;
  }
  return STATUS_OK;
}

// attention.sliding_window_pattern: a period, or a truth for each layer.
static Status read_gguf_kinds(ModelConfig *config, const Gguf *gguf, const Family *family, Arena *arena) {
  const GgufValue *pattern = find(gguf, family, "attention.sliding_window_pattern");
  int64_t period = family->window_period;
  if (pattern && pattern->type != GGUF_ARRAY) gguf_get_integer(gguf, pattern->key, &period);
  LayerKind *kinds = new_kinds(config, family, period, 0, arena);
  for (int64_t i = 0; family->bit == FAMILY_SMOLLM3 && i < config->layers; i++) kinds[i].has_rope = (i + 1) % 4 != 0;
  for (int64_t i = 0; config->experts > 0 && i < config->layers; i++) {
    char router[64];
    snprintf(router, sizeof router, "blk.%lld.ffn_gate_inp.weight", (long long)i);
    if (family->bit == FAMILY_QWEN3_MOE) kinds[i].is_sparse = gguf_find_tensor(gguf, router) != NULL;
  }
  if (config->window > 0) TRY(read_truths(kinds, offsetof(LayerKind, is_windowed), config, gguf, pattern));
  return read_truths(kinds, offsetof(LayerKind, has_rope), config, gguf, find(gguf, family, "rope.layers"));
}

static Status find_gguf_family(const Family **family, const Gguf *gguf) {
  GgufString text, type;
  if (!gguf_get_string(gguf, "general.architecture", &text))
    return status_fail(STATUS_BAD_INPUT, "%s: general.architecture is missing", gguf->path);
  if (gguf_get_string(gguf, "general.type", &type) && !(type.length == 5 && memcmp(type.data, "model", 5) == 0))
    return status_fail(STATUS_BAD_INPUT, "%s: general.type is '%.*s', not a model; give it as --adapter if it is one", gguf->path,
                       (int)(type.length < 63 ? type.length : 63), type.data);
  char name[64];
  snprintf(name, sizeof name, "%.*s", (int)(text.length < 63 ? text.length : 63), text.data);
  *family = find_family(gguf, name);
  return *family ? STATUS_OK : unknown_family(gguf->path, "architecture", name);
}

// What llama.cpp takes where a file does not say.
static void set_gguf_defaults(ModelConfig *config, const Family *family) {
  config->normalizes_experts = family->bit == FAMILY_QWEN3_MOE;
  if (family->bit != FAMILY_GEMMA2) return;
  config->window = 4096;
  config->attention_softcap = 50;
  config->final_softcap = 30;
}

Status config_from_gguf(ModelConfig *config, const Family **out_family, const Gguf *gguf, Arena *arena) {
  *config = (ModelConfig){.bos_token = -1, .eos_token = -1, .pad_token = -1};
  TRY(find_gguf_family(out_family, gguf));
  const Family *family = *out_family;
  set_gguf_defaults(config, family);
  FOR_KEYS(key, family) if (key->gguf) TRY(read_gguf_key(config, key, gguf, family));
  if (config->heads <= 0) return status_fail(STATUS_BAD_INPUT, "%s: %s.attention.head_count is not positive", gguf->path, family->gguf);
  int64_t experts = config->experts;
  if (experts == 0 && get_integer(&experts, gguf, family->gguf, "expert_count") && experts > 0)
    return status_fail(STATUS_BAD_INPUT, "%s: %s with %lld experts is not built", gguf->path, family->model_type, (long long)experts);
  read_latent(config, gguf, family);
  set_defaults(config, family);
  if (config->kv_latent == 0) get_integer(&config->rope.rotary, gguf, family->gguf, "rope.dimension_count");
  read_query_scalar(config, gguf, family);
  TRY(check_sizes(config, gguf->path));
  if (config->rope.rotary <= 0 || config->rope.rotary > config->head_size || config->rope.rotary % 2)
    return status_fail(STATUS_BAD_INPUT, "%s: %lld rotary dimensions of %lld are not sane", gguf->path, (long long)config->rope.rotary,
                       (long long)config->head_size);
  TRY(rope_from_gguf(&config->rope, &config->local_rope, gguf, family->gguf, family->bit == FAMILY_GEMMA3, config->context_length, arena));
  TRY(read_gguf_kinds(config, gguf, family, arena));
  gguf_get_integer(gguf, "tokenizer.ggml.bos_token_id", &config->bos_token);
  gguf_get_integer(gguf, "tokenizer.ggml.eos_token_id", &config->eos_token);
  gguf_get_integer(gguf, "tokenizer.ggml.padding_token_id", &config->pad_token);
  config->rope_layout = family->gguf_interleaves || family->is_interleaved ? ROPE_INTERLEAVED : ROPE_HALVES;
  return check_config(config, gguf->path);
}

static void put_integer(GgufWriter *writer, const Family *family, const char *key, int64_t value) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  gguf_put_uint32(writer, name, (uint32_t)value);
}

static void put_real(GgufWriter *writer, const Family *family, const char *key, double value) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  gguf_put_float32(writer, name, (float)value);
}

static void put_bool(GgufWriter *writer, const Family *family, const char *key, bool value) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  gguf_put_bool(writer, name, value);
}

// The period by which all layers but each n-th are windowed; 0: there is none.
static int64_t window_period(const ModelConfig *config) {
  int64_t period = 1;
  while (period <= config->layers && config->kinds[period - 1].is_windowed) period++;
  for (int64_t i = 0; i < config->layers; i++)
    if (config->kinds[i].is_windowed != ((i + 1) % period != 0)) return 0;
  return period;
}

// A truth for each layer; offset: of a bool in LayerKind.
static void put_truths(GgufWriter *writer, const ModelConfig *config, const Family *family, const char *key, size_t offset) {
  uint8_t *truths = memory_new((size_t)config->layers, 1);
  for (int64_t i = 0; i < config->layers; i++) truths[i] = *(const bool *)((const char *)&config->kinds[i] + offset);
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  gguf_put_array(writer, name, GGUF_BOOL, truths, (uint64_t)config->layers);
  free(truths);
}

// llama.cpp's SmolLM3 has no RoPE in each fourth layer; rope.layers, where it is otherwise, is a key of our own.
static bool has_usual_rope(const LayerKind *kind, int64_t layer) { return kind->has_rope == ((layer + 1) % 4 != 0); }

static void put_kinds(GgufWriter *writer, const ModelConfig *config, const Family *family) {
  bool is_usual = true;
  for (int64_t i = 0; i < config->layers; i++) is_usual &= has_usual_rope(&config->kinds[i], i);
  if (family->bit == FAMILY_SMOLLM3 && !is_usual) put_truths(writer, config, family, "rope.layers", offsetof(LayerKind, has_rope));
  if (config->window == 0 || family->window_rule == WINDOW_IN_ALL_LAYERS) return;
  int64_t period = window_period(config);
  if (period > 0) {
    put_integer(writer, family, "attention.sliding_window_pattern", period);
    return;
  }
  put_truths(writer, config, family, "attention.sliding_window_pattern", offsetof(LayerKind, is_windowed));
}

void config_to_gguf(GgufWriter *writer, const ModelConfig *config, const Family *family) {
  FOR_KEYS(key, family) {
    const void *value = (const char *)config + key->offset;
    bool is_set = key->kind == KEY_BOOL || (key->kind == KEY_INTEGER ? *(const int64_t *)value != 0 : *(const double *)value != 0);
    if (!key->gguf || !is_set) continue;
    if (key->kind == KEY_INTEGER) put_integer(writer, family, key->gguf, *(const int64_t *)value);
    else if (key->kind == KEY_REAL) put_real(writer, family, key->gguf, *(const double *)value);
    else put_bool(writer, family, key->gguf, *(const bool *)value);
  }
  if (config->kv_latent == 0) put_integer(writer, family, "rope.dimension_count", config->rope.rotary);
  if (family->bit & (FAMILY_DEEPSEEK_V2 | FAMILY_DEEPSEEK_V3))
    put_integer(writer, family, "expert_gating_func", config->is_sigmoid_routed ? 2 : 1);
  if (config->query_scalar > 0 && config->query_scalar != (double)config->head_size)
    put_real(writer, family, "attention.scale", 1 / sqrt(config->query_scalar));
  put_kinds(writer, config, family);
  rope_to_gguf(writer, &config->rope, &config->local_rope, family->gguf);
}

bool config_knows_key(const char *key) {
  static const char *const others[] = {"attention.scale", "attention.sliding_window_pattern", "expert_gating_func",
                                       "attention.key_length_mla", "attention.value_length_mla"};
  for (const ConfigKey *row = config_keys; row->name || row->gguf; row++)
    if (row->gguf && strcmp(row->gguf, key) == 0) return true;
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (strcmp(others[i], key) == 0) return true;
  return strncmp(key, "rope.", 5) == 0;
}

// ---- config.json ----

static Status read_json_key(ModelConfig *config, const ConfigKey *key, const json_t *root, const char *path) {
  const json_t *value = json_object_get(root, key->name);
  if (!value && key->other_name) value = json_object_get(root, key->other_name);
  if (!value) {
    if (key->is_needed && key->absent == 0) return status_fail(STATUS_BAD_INPUT, "%s: %s is missing or no integer", path, key->name);
    set_number(config, key, key->absent);
    return STATUS_OK;
  }
  if (json_is_null(value) && !key->is_needed) {
    set_number(config, key, 0);
    return STATUS_OK;
  }
  bool fits = key->kind == KEY_INTEGER ? json_is_integer(value) : key->kind == KEY_REAL ? json_is_number(value) : json_is_boolean(value);
  if (!fits)
    return status_fail(STATUS_BAD_INPUT, "%s: %s is missing or no %s", path, key->name,
                       key->kind == KEY_INTEGER ? "integer"
                       : key->kind == KEY_REAL  ? "number"
                                                : "truth");
  if (key->kind == KEY_INTEGER) *(int64_t *)field(config, key) = json_integer_value(value);
  else set_number(config, key, json_is_boolean(value) ? json_is_true(value) : json_number_value(value));
  return STATUS_OK;
}

static int64_t integer_or(const json_t *root, const char *key, int64_t absent) {
  const json_t *value = json_object_get(root, key);
  return json_is_integer(value) ? json_integer_value(value) : absent;
}

static Status read_latent_json(ModelConfig *config, const json_t *root, const Family *family, const char *path) {
  if (config->kv_latent == 0) return STATUS_OK;
  int64_t fixed = integer_or(root, "qk_nope_head_dim", 128);
  if (fixed <= 0 || fixed > 1 << 12) return status_fail(STATUS_BAD_INPUT, "%s: qk_nope_head_dim is not sane", path);
  config->head_size = fixed + config->rope_size;
  if (json_is_false(json_object_get(root, "rope_interleave")))
    return status_fail(STATUS_BAD_INPUT, "%s: rope_interleave: false is not built", path);
  const char *method = json_string_value(json_object_get(root, "topk_method"));
  if (family->bit == FAMILY_DEEPSEEK_V2 && (!method || strcmp(method, "greedy") == 0)) config->groups = config->groups_used = 0;
  return STATUS_OK;
}

// layer_types, and the older keys of each family.
static Status read_json_kinds(ModelConfig *config, const json_t *root, const Family *family, const char *path, Arena *arena) {
  int64_t period = integer_or(root, "sliding_window_pattern", family->window_period);
  LayerKind *kinds = new_kinds(config, family, period, integer_or(root, "max_window_layers", 28), arena);
  const json_t *types = json_object_get(root, "layer_types"), *rope = json_object_get(root, "no_rope_layers"), *dense, *value;
  bool has_types = json_is_array(types) && family->window_rule != WINDOW_IN_ALL_LAYERS;
  if (has_types && json_array_size(types) != (size_t)config->layers)
    return status_fail(STATUS_BAD_INPUT, "%s: layer_types has %zu elements for %lld layers", path, json_array_size(types),
                       (long long)config->layers);
  int64_t rope_interval = integer_or(root, "no_rope_layer_interval", 4), sparse_step = integer_or(root, "decoder_sparse_step", 1);
  for (int64_t i = 0; i < config->layers; i++) {
    const char *type = has_types ? json_string_value(json_array_get(types, (size_t)i)) : NULL;
    if (has_types && (!type || (strcmp(type, "sliding_attention") != 0 && strcmp(type, "full_attention") != 0)))
      return status_fail(STATUS_BAD_INPUT, "%s: layer_types[%lld] is neither sliding_attention nor full_attention", path, (long long)i);
    if (type) kinds[i].is_windowed = config->window > 0 && strcmp(type, "sliding_attention") == 0;
    if (family->bit == FAMILY_SMOLLM3) {  // no_rope_layers says 1 where there is RoPE
      value = json_array_get(rope, (size_t)i);
      kinds[i].has_rope = value ? json_integer_value(value) != 0 : rope_interval <= 0 || (i + 1) % rope_interval != 0;
    }
    if (family->bit == FAMILY_QWEN3_MOE) kinds[i].is_sparse = sparse_step > 0 && (i + 1) % sparse_step == 0;
  }
  size_t index;
  dense = json_object_get(root, "mlp_only_layers");
  if (family->bit == FAMILY_QWEN3_MOE) json_array_foreach(dense, index, value) {
      int64_t layer = json_is_integer(value) ? json_integer_value(value) : -1;
      if (layer < 0 || layer >= config->layers) return status_fail(STATUS_BAD_INPUT, "%s: mlp_only_layers[%zu] is no layer", path, index);
      kinds[layer].is_sparse = false;
    }
  return STATUS_OK;
}

static Status check_activation(const json_t *root, const Family *family, const char *path) {
  const char *activation = json_string_value(json_object_get(root, "hidden_activation"));
  if (!activation) activation = json_string_value(json_object_get(root, "hidden_act"));
  const char *own = family->activation == ACTIVATION_SILU ? "silu" : "gelu_pytorch_tanh";
  if (!activation || strcmp(activation, own) == 0 || (strcmp(activation, "swish") == 0 && family->activation == ACTIVATION_SILU))
    return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: the activation '%s' is not built for %s", path, activation, family->model_type);
}

// One id, or the first of several.
static void read_token(int64_t *token, const json_t *root, const char *key) {
  const json_t *value = json_object_get(root, key);
  if (json_is_array(value)) value = json_array_get(value, 0);
  if (json_is_integer(value)) *token = json_integer_value(value);
}

static Status read_config(ModelConfig *config, const Family **out_family, const json_t *root, const char *path, Arena *arena) {
  *config = (ModelConfig){.bos_token = -1, .eos_token = -1, .pad_token = -1};
  const char *type = json_string_value(json_object_get(root, "model_type"));
  if (!type) return status_fail(STATUS_BAD_INPUT, "%s: model_type is missing", path);
  const Family *family = *out_family = family_by_model_type(type);
  if (!family) return unknown_family(path, "model_type", type);
  FOR_KEYS(key, family) if (key->name) TRY(read_json_key(config, key, root, path));
  if (config->heads <= 0) return status_fail(STATUS_BAD_INPUT, "%s: num_attention_heads is not positive", path);
  if (config->head_size == 0) config->head_size = family->head_size;
  bool may_window = family->window_rule != WINDOW_FROM_A_LAYER && !(family->bit & (FAMILY_QWEN3_MOE | FAMILY_SMOLLM3));
  if (!may_window && !json_is_true(json_object_get(root, "use_sliding_window"))) config->window = 0;
  TRY(read_latent_json(config, root, family, path));
  set_defaults(config, family);
  TRY(check_sizes(config, path));
  TRY(check_activation(root, family, path));
  bool has_local = family->bit == FAMILY_GEMMA3;
  TRY(rope_from_json(&config->rope, &config->local_rope, root, has_local, config->context_length, path, arena));
  TRY(read_json_kinds(config, root, family, path, arena));
  const json_t *tied = json_object_get(root, "tie_word_embeddings");
  config->tied_embeddings = json_is_boolean(tied) ? json_is_true(tied) : family->is_tied;
  read_token(&config->bos_token, root, "bos_token_id");
  read_token(&config->eos_token, root, "eos_token_id");
  read_token(&config->pad_token, root, "pad_token_id");
  config->rope_layout = family->is_interleaved ? ROPE_INTERLEAVED : ROPE_HALVES;
  if (config->vocabulary <= 0) return status_fail(STATUS_BAD_INPUT, "%s: vocab_size is missing or not positive", path);
  return check_config(config, path);
}

Status config_from_folder(ModelConfig *config, const Family **family, const char *folder, Arena *arena) {
  char *path = path_join(folder, "config.json");
  json_error_t error;
  Buffer text = {0};
  Status status = file_read(&text, path, 64 << 20);
  json_t *root = status == STATUS_OK ? json_loadb(text.data, text.length, JSON_REJECT_DUPLICATES, &error) : NULL;
  if (status == STATUS_OK && !json_is_object(root))
    status = status_fail(STATUS_BAD_INPUT, "%s:%d: not a JSON object: %s", path, root ? 1 : error.line, root ? "" : error.text);
  if (status == STATUS_OK) status = read_config(config, family, root, path, arena);
  json_decref(root);
  buffer_release(&text);
  free(path);
  return status;
}

static void put_json_kinds(json_t *root, const ModelConfig *config, const Family *family) {
  if (family->bit == FAMILY_SMOLLM3) {
    json_t *list = json_array();
    for (int64_t i = 0; i < config->layers; i++) json_array_append_new(list, json_integer(config->kinds[i].has_rope));
    json_object_set_new(root, "no_rope_layers", list);
  }
  if (family->bit == FAMILY_QWEN3_MOE) {
    json_t *dense = json_array();
    for (int64_t i = 0; i < config->layers; i++)
      if (!config->kinds[i].is_sparse) json_array_append_new(dense, json_integer(i));
    json_object_set_new(root, "mlp_only_layers", dense);
  }
  bool may_window = family->window_rule == WINDOW_FROM_A_LAYER || family->bit & (FAMILY_QWEN3_MOE | FAMILY_SMOLLM3);
  if (may_window) json_object_set_new(root, "use_sliding_window", json_boolean(config->window > 0));
  if (config->window == 0 || (family->window_rule == WINDOW_IN_ALL_LAYERS && family->bit != FAMILY_SMOLLM3)) return;
  int64_t first = 0;
  while (first < config->layers && !config->kinds[first].is_windowed) first++;
  if (family->window_rule == WINDOW_FROM_A_LAYER) json_object_set_new(root, "max_window_layers", json_integer(first));
  json_t *types = json_array();
  for (int64_t i = 0; i < config->layers; i++)
    json_array_append_new(types, json_string(config->kinds[i].is_windowed ? "sliding_attention" : "full_attention"));
  json_object_set_new(root, "layer_types", types);
}

void config_to_json(json_t *root, const ModelConfig *config, const Family *family) {
  FOR_KEYS(key, family) {
    if (!key->name) continue;
    const void *value = (const char *)config + key->offset;
    json_t *item = NULL;
    if (key->kind == KEY_INTEGER) item = *(const int64_t *)value != 0 ? json_integer(*(const int64_t *)value) : json_null();
    else if (key->kind == KEY_REAL) item = *(const double *)value != 0 ? json_float(*(const double *)value) : json_null();
    else item = json_boolean(*(const bool *)value);
    json_object_set_new(root, key->name, item);
  }
  if (family->bit & (FAMILY_GEMMA2 | FAMILY_GEMMA3) && config->query_scalar == 0)
    json_object_set_new(root, "query_pre_attn_scalar", json_integer((json_int_t)config->head_size));
  if (config->kv_latent) {
    json_object_set_new(root, "qk_nope_head_dim", json_integer(config->head_size - config->rope_size));
    json_object_set_new(root, "first_k_dense_replace", json_integer(config->dense_layers));
    if (family->bit == FAMILY_DEEPSEEK_V2)
      json_object_set_new(root, "topk_method", json_string(config->groups > 1 ? "group_limited_greedy" : "greedy"));
  }
  bool gelu = family->activation == ACTIVATION_GELU_TANH;
  json_object_set_new(root, family->bit & (FAMILY_GEMMA2 | FAMILY_GEMMA3) ? "hidden_activation" : "hidden_act",
                      json_string(gelu ? "gelu_pytorch_tanh" : "silu"));
  put_json_kinds(root, config, family);
}
