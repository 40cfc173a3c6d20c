// A model's dimensions, from GGUF metadata or config.json (both generations of its RoPE keys).
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <stdlib.h>

#include "core/file.h"
#include "models/model.h"

static Status check_config(const ModelConfig *c, const char *path) {
  const struct {
    const char *name;
    int64_t value, limit;
  } sizes[] = {{"layers", c->layers, 1 << 12},
               {"hidden size", c->hidden, 1 << 20},
               {"attention heads", c->heads, 1 << 12},
               {"KV heads", c->kv_heads, 1 << 12},
               {"head size", c->head_size, 1 << 12},
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
  if (!(c->rope_base > 0 && isfinite(c->rope_base))) return status_fail(STATUS_BAD_INPUT, "%s: the RoPE base is not sane", path);
  if (c->rope_scaling != ROPE_SCALING_NONE && !(c->rope_factor > 0 && isfinite(c->rope_factor)))
    return status_fail(STATUS_BAD_INPUT, "%s: the RoPE scaling factor is not sane", path);
  if (c->rope_scaling == ROPE_SCALING_LLAMA3 &&
      !(c->rope_high_frequency_factor > c->rope_low_frequency_factor && c->rope_low_frequency_factor > 0 && c->rope_original_context > 0 &&
        c->rope_original_context <= UINT32_MAX))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: llama3 RoPE scaling needs 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings", path);
  return STATUS_OK;
}

static Status unknown_family(const char *path, const char *key, const char *name) {
  char *names = family_names();
  Status status = status_fail(STATUS_BAD_INPUT, "%s: %s '%s' is not built; built are: %s", path, key, name, names);
  free(names);
  return status;
}

// Reads {arch}.KEY.
static bool architecture_integer(int64_t *value, const Gguf *gguf, const Family *family, const char *key) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  return gguf_get_integer(gguf, name, value);
}

static bool architecture_float(double *value, const Gguf *gguf, const Family *family, const char *key) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", family->gguf, key);
  return gguf_get_float(gguf, name, value);
}

Status config_from_gguf(ModelConfig *config, const Family **out_family, const Gguf *gguf) {
  GgufString text;
  if (!gguf_get_string(gguf, "general.architecture", &text))
    return status_fail(STATUS_BAD_INPUT, "%s: general.architecture is missing", gguf->path);
  char name[64];
  snprintf(name, sizeof name, "%.*s", (int)(text.length < 63 ? text.length : 63), text.data);
  GgufString type;
  if (gguf_get_string(gguf, "general.type", &type) && !(type.length == 5 && memcmp(type.data, "model", 5) == 0))
    return status_fail(STATUS_BAD_INPUT, "%s: general.type is '%.*s', not a model; give it as --adapter if it is one", gguf->path,
                       (int)(type.length < 63 ? type.length : 63), type.data);
  const Family *family = *out_family = family_by_gguf(name);
  if (!family) return unknown_family(gguf->path, "architecture", name);
  *config = (ModelConfig){.bos_token = -1, .eos_token = -1, .pad_token = -1, .rope_base = 10000};
  const struct {
    const char *key;
    int64_t *value;
  } needed[] = {{"block_count", &config->layers},
                {"embedding_length", &config->hidden},
                {"context_length", &config->context_length},
                {"feed_forward_length", &config->feed_forward},
                {"attention.head_count", &config->heads}};
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (!architecture_integer(needed[i].value, gguf, family, needed[i].key))
      return status_fail(STATUS_BAD_INPUT, "%s: the key %s.%s is missing or no number", gguf->path, family->gguf, needed[i].key);
  if (!architecture_float(&config->norm_epsilon, gguf, family, "attention.layer_norm_rms_epsilon"))
    return status_fail(STATUS_BAD_INPUT, "%s: the key %s.attention.layer_norm_rms_epsilon is missing", gguf->path, family->gguf);
  int64_t experts = 0;
  if (architecture_integer(&experts, gguf, family, "expert_count") && experts > 0)
    return status_fail(STATUS_BAD_INPUT, "%s: a mixture of %lld experts is not built", gguf->path, (long long)experts);
  config->kv_heads = config->heads;
  architecture_integer(&config->kv_heads, gguf, family, "attention.head_count_kv");
  if (config->heads <= 0) return status_fail(STATUS_BAD_INPUT, "%s: %s.attention.head_count is not positive", gguf->path, family->gguf);
  config->head_size = config->hidden / config->heads;
  architecture_integer(&config->head_size, gguf, family, "attention.key_length");
  int64_t value_length = config->head_size, rotary = config->head_size;
  architecture_integer(&value_length, gguf, family, "attention.value_length");
  architecture_integer(&rotary, gguf, family, "rope.dimension_count");
  if (value_length != config->head_size || rotary != config->head_size)
    return status_fail(STATUS_BAD_INPUT, "%s: heads of size %lld with values of %lld and %lld rotary dimensions are not built", gguf->path,
                       (long long)config->head_size, (long long)value_length, (long long)rotary);
  architecture_float(&config->rope_base, gguf, family, "rope.freq_base");
  char scaling[64];
  snprintf(scaling, sizeof scaling, "%s.rope.scaling.type", family->gguf);
  if (gguf_get_string(gguf, scaling, &text) && !(text.length == 4 && memcmp(text.data, "none", 4) == 0)) {
    if (!(text.length == 6 && memcmp(text.data, "linear", 6) == 0))
      return status_fail(STATUS_BAD_INPUT, "%s: RoPE scaling '%.*s' is not built", gguf->path, (int)(text.length < 63 ? text.length : 63),
                         text.data);
    config->rope_scaling = ROPE_SCALING_LINEAR;
    architecture_float(&config->rope_factor, gguf, family, "rope.scaling.factor");
  }
  int64_t original_context = 0;
  if (architecture_integer(&original_context, gguf, family, "rope.scaling.original_context_length"))
    config->rope_original_context = (double)original_context;
  gguf_get_integer(gguf, "tokenizer.ggml.bos_token_id", &config->bos_token);
  gguf_get_integer(gguf, "tokenizer.ggml.eos_token_id", &config->eos_token);
  gguf_get_integer(gguf, "tokenizer.ggml.padding_token_id", &config->pad_token);
  config->rope_layout = family->gguf_interleaves ? ROPE_INTERLEAVED : ROPE_HALVES;
  return check_config(config, gguf->path);
}

static bool read_integer(int64_t *value, const json_t *object, const char *key) {
  const json_t *item = json_object_get(object, key);
  if (!json_is_integer(item)) return false;
  *value = json_integer_value(item);
  return true;
}

static bool read_number(double *value, const json_t *object, const char *key) {
  const json_t *item = json_object_get(object, key);
  if (!json_is_number(item)) return false;
  *value = json_number_value(item);
  return true;
}

// rope_parameters (new) or rope_scaling (old), which say "rope_type" or "type".
static Status read_rope(ModelConfig *config, const json_t *root, const char *path) {
  read_number(&config->rope_base, root, "rope_theta");
  const json_t *rope = json_object_get(root, "rope_parameters");
  if (!json_is_object(rope)) rope = json_object_get(root, "rope_scaling");
  if (!json_is_object(rope)) return STATUS_OK;
  read_number(&config->rope_base, rope, "rope_theta");
  const char *type = json_string_value(json_object_get(rope, "rope_type"));
  if (!type) type = json_string_value(json_object_get(rope, "type"));
  if (!type || strcmp(type, "default") == 0) return STATUS_OK;
  read_number(&config->rope_factor, rope, "factor");
  if (strcmp(type, "linear") == 0) {
    config->rope_scaling = ROPE_SCALING_LINEAR;
  } else if (strcmp(type, "llama3") == 0) {
    config->rope_scaling = ROPE_SCALING_LLAMA3;
    read_number(&config->rope_low_frequency_factor, rope, "low_freq_factor");
    read_number(&config->rope_high_frequency_factor, rope, "high_freq_factor");
    read_number(&config->rope_original_context, rope, "original_max_position_embeddings");
  } else {
    return status_fail(STATUS_BAD_INPUT, "%s: RoPE scaling '%s' is not built", path, type);
  }
  return STATUS_OK;
}

static Status read_config(ModelConfig *config, const Family **out_family, const json_t *root, const char *path) {
  const char *type = json_string_value(json_object_get(root, "model_type"));
  if (!type) return status_fail(STATUS_BAD_INPUT, "%s: model_type is missing", path);
  *out_family = family_by_model_type(type);
  if (!*out_family) return unknown_family(path, "model_type", type);
  if (json_is_object(json_object_get(root, "quantization_config")))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: quantised Hugging Face folders are not built; use a GGUF file or the float weights with load_in_4bit", path);
  *config = (ModelConfig){
      .bos_token = -1, .eos_token = -1, .pad_token = -1, .rope_base = 10000, .norm_epsilon = 1e-6, .rope_layout = ROPE_HALVES};
  const struct {
    const char *key;
    int64_t *value;
  } needed[] = {{"num_hidden_layers", &config->layers},
                {"hidden_size", &config->hidden},
                {"intermediate_size", &config->feed_forward},
                {"num_attention_heads", &config->heads},
                {"max_position_embeddings", &config->context_length},
                {"vocab_size", &config->vocabulary}};
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (!read_integer(needed[i].value, root, needed[i].key))
      return status_fail(STATUS_BAD_INPUT, "%s: %s is missing or no integer", path, needed[i].key);
  if (config->heads <= 0) return status_fail(STATUS_BAD_INPUT, "%s: num_attention_heads is not positive", path);
  config->kv_heads = config->heads;
  read_integer(&config->kv_heads, root, "num_key_value_heads");
  config->head_size = config->hidden / config->heads;
  read_integer(&config->head_size, root, "head_dim");
  read_number(&config->norm_epsilon, root, "rms_norm_eps");
  const char *activation = json_string_value(json_object_get(root, "hidden_act"));
  if (activation && strcmp(activation, "silu") != 0)
    return status_fail(STATUS_BAD_INPUT, "%s: the activation '%s' is not built for %s", path, activation, type);
  TRY(read_rope(config, root, path));
  config->tied_embeddings = json_is_true(json_object_get(root, "tie_word_embeddings"));
  read_integer(&config->bos_token, root, "bos_token_id");
  read_integer(&config->eos_token, root, "eos_token_id");
  read_integer(&config->pad_token, root, "pad_token_id");
  return check_config(config, path);
}

Status config_from_folder(ModelConfig *config, const Family **family, const char *folder) {
  char *path = path_join(folder, "config.json");
  json_error_t error;
  Buffer text = {0};
  Status status = file_read(&text, path, 64 << 20);
  json_t *root = status == STATUS_OK ? json_loadb(text.data, text.length, JSON_REJECT_DUPLICATES, &error) : NULL;
  if (status == STATUS_OK && !json_is_object(root))
    status = status_fail(STATUS_BAD_INPUT, "%s:%d: not a JSON object: %s", path, root ? 1 : error.line, root ? "" : error.text);
  if (status == STATUS_OK) status = read_config(config, family, root, path);
  json_decref(root);
  buffer_release(&text);
  free(path);
  return status;
}

void config_rope_frequencies(float *frequencies, const ModelConfig *config) {
  for (int64_t i = 0; i < config->head_size / 2; i++) {
    double frequency = 1.0 / pow(config->rope_base, (double)(2 * i) / (double)config->head_size);
    if (config->rope_scaling == ROPE_SCALING_LINEAR) frequency /= config->rope_factor;
    if (config->rope_scaling == ROPE_SCALING_LLAMA3) {
      double wavelength = 2 * M_PI / frequency;
      double low = config->rope_original_context / config->rope_low_frequency_factor;
      double high = config->rope_original_context / config->rope_high_frequency_factor;
      double smooth = (config->rope_original_context / wavelength - config->rope_low_frequency_factor) /
                      (config->rope_high_frequency_factor - config->rope_low_frequency_factor);
      if (wavelength > low) frequency /= config->rope_factor;
      else if (wavelength >= high) frequency = (1 - smooth) * frequency / config->rope_factor + smooth * frequency;
    }
    frequencies[i] = (float)frequency;
  }
}
