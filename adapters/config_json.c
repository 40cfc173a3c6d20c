// A model's dimensions as Hugging Face's config.json.
#include "adapters/config_json.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

static const char *type_name(BlockType type) { return type == BLOCK_F32 ? "float32" : type == BLOCK_BF16 ? "bfloat16" : "float16"; }

// The shortest decimal that is this float32: GGUF's 9.99999975e-06 was somebody's 1e-05.
static json_t *json_float(double value) {
  char text[32];
  for (int digits = 1; digits <= 9; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtof(text, NULL) == (float)value) break;
  }
  return json_real(strtod(text, NULL));
}

static Status write_json(json_t *root, const char *folder, const char *name, size_t flags) {
  char *text = json_dumps(root, JSON_INDENT(2) | flags), *path = path_join(folder, name);
  Status status = text ? file_write_whole(path, text, strlen(text)) : status_fail(STATUS_FAILED, "%s: cannot be put into JSON", path);
  free(path);
  free(text);
  return status;
}

// llama3 scaling as GGUF keeps it (a divisor for each frequency) in config.json's four numbers. All models that use it were made
// with low 1, high 4 and, where GGUF does not say the original context, with one of 8192; whether these divisors were too is
// checked, not assumed.
static Status add_llama3(json_t *rope, const Model *model) {
  int64_t pairs = model->config.head_size / 2;
  ModelConfig unscaled = model->config, scaled = model->config;
  unscaled.rope_scaling = ROPE_SCALING_NONE;
  scaled.rope_scaling = ROPE_SCALING_LLAMA3;
  float *plain = memory_new((size_t)pairs * 2, sizeof *plain), *expected = plain + pairs;
  config_rope_frequencies(plain, &unscaled);
  // The slowest pair is divided by the whole factor.
  scaled.rope_factor = round((double)plain[pairs - 1] / model->rope_frequencies[pairs - 1] * 1024) / 1024;
  scaled.rope_low_frequency_factor = 1;
  scaled.rope_high_frequency_factor = 4;
  if (scaled.rope_original_context <= 0) scaled.rope_original_context = 8192;
  config_rope_frequencies(expected, &scaled);
  bool same = true;
  for (int64_t i = 0; i < pairs; i++) same &= fabsf(expected[i] - model->rope_frequencies[i]) <= 1e-6f * expected[i];
  free(plain);
  if (!same)
    return status_fail(
        STATUS_BAD_INPUT,
        "%s: rope_freqs.weight is not that of Llama 3's scaling, which is all that config.json can say; write a GGUF instead", model->path);
  json_object_set_new(rope, "rope_type", json_string("llama3"));
  json_object_set_new(rope, "factor", json_real(scaled.rope_factor));
  json_object_set_new(rope, "low_freq_factor", json_real(1));
  json_object_set_new(rope, "high_freq_factor", json_real(4));
  json_object_set_new(rope, "original_max_position_embeddings", json_integer((json_int_t)scaled.rope_original_context));
  return STATUS_OK;
}

// rope_theta and rope_scaling, and the same as rope_parameters, which newer readers look for.
static Status add_rope(json_t *root, const Model *model) {
  const ModelConfig *c = &model->config;
  json_t *rope = json_object();
  Status status = STATUS_OK;
  if (gguf_find_tensor(&model->gguf, "rope_freqs.weight")) {
    status = add_llama3(rope, model);
  } else if (c->rope_scaling == ROPE_SCALING_LINEAR) {
    json_object_set_new(rope, "rope_type", json_string("linear"));
    json_object_set_new(rope, "factor", json_float(c->rope_factor));
  }
  bool scaled = json_object_size(rope) > 0;
  json_object_set_new(root, "rope_theta", json_float(c->rope_base));
  json_object_set_new(root, "rope_scaling", scaled ? json_copy(rope) : json_null());
  if (!scaled) json_object_set_new(rope, "rope_type", json_string("default"));
  json_object_set_new(rope, "rope_theta", json_float(c->rope_base));
  json_object_set_new(root, "rope_parameters", rope);
  return status;
}

static void add_tokens(json_t *root, const ModelConfig *c) {
  if (c->bos_token >= 0) json_object_set_new(root, "bos_token_id", json_integer(c->bos_token));
  if (c->eos_token >= 0) json_object_set_new(root, "eos_token_id", json_integer(c->eos_token));
  if (c->pad_token >= 0) json_object_set_new(root, "pad_token_id", json_integer(c->pad_token));
}

static bool has_bias(const Model *model, size_t slot) { return ((const Linear *)((const char *)&model->layers[0] + slot))->bias != NULL; }

static Status make_config(json_t *root, const Model *model, BlockType type) {
  const ModelConfig *c = &model->config;
  json_object_set_new(root, "architectures", json_pack("[s]", model->family->architecture));
  json_object_set_new(root, "model_type", json_string(model->family->model_type));
  const struct {
    const char *key;
    int64_t value;
  } sizes[] = {{"hidden_size", c->hidden},        {"intermediate_size", c->feed_forward},        {"num_hidden_layers", c->layers},
               {"num_attention_heads", c->heads}, {"num_key_value_heads", c->kv_heads},          {"head_dim", c->head_size},
               {"vocab_size", c->vocabulary},     {"max_position_embeddings", c->context_length}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) json_object_set_new(root, sizes[i].key, json_integer(sizes[i].value));
  json_object_set_new(root, "rms_norm_eps", json_float(c->norm_epsilon));
  json_object_set_new(root, "hidden_act", json_string("silu"));
  json_object_set_new(root, "attention_bias", json_boolean(has_bias(model, offsetof(Layer, q))));
  json_object_set_new(root, "mlp_bias", json_boolean(has_bias(model, offsetof(Layer, gate))));
  json_object_set_new(root, "attention_dropout", json_real(0));
  json_object_set_new(root, "tie_word_embeddings", json_boolean(c->tied_embeddings));
  json_object_set_new(root, "use_cache", json_true());
  add_tokens(root, c);
  json_object_set_new(root, "torch_dtype", json_string(type_name(type)));
  return add_rope(root, model);
}

static Status write_made(const char *folder, const Model *model, BlockType type) {
  json_t *config = json_object(), *generation = json_object();
  json_object_set_new(generation, "_from_model_config", json_true());
  add_tokens(generation, &model->config);
  Status status = make_config(config, model, type);
  if (status == STATUS_OK) status = write_json(config, folder, "config.json", JSON_REAL_PRECISION(9));
  if (status == STATUS_OK) status = write_json(generation, folder, "generation_config.json", 0);
  json_decref(config);
  json_decref(generation);
  return status;
}

// The base's own config.json, byte for byte unless the type changes.
static Status write_own(const char *folder, const Model *model, BlockType type) {
  char *from = path_join(model->path, "config.json"), *to = path_join(folder, "config.json");
  Buffer text = {0};
  json_t *root = NULL;
  json_error_t error;
  Status status = STATUS_OK;
  TRY_DONE(file_read(&text, from, 64 << 20));
  root = json_loadb(text.data, text.length, 0, &error);
  if (!root) {
    status = status_fail(STATUS_BAD_INPUT, "%s:%d: not valid JSON: %s", from, error.line, error.text);
    goto done;
  }
  const char *key = json_object_get(root, "dtype") ? "dtype" : "torch_dtype", *own = json_string_value(json_object_get(root, key));
  if (own && strcmp(own, type_name(type)) == 0) {
    status = file_write_whole(to, text.data, text.length);
  } else {
    json_object_set_new(root, key, json_string(type_name(type)));
    status = write_json(root, folder, "config.json", JSON_REAL_PRECISION(17));
  }
done:
  json_decref(root);
  buffer_release(&text);
  free(from);
  free(to);
  return status;
}

Status config_json_write(const char *folder, const Model *model, BlockType type) {
  return model->is_gguf ? write_made(folder, model, type) : write_own(folder, model, type);
}
