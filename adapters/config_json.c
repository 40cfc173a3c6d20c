// A model's dimensions as Hugging Face's config.json.
#include "adapters/config_json.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "core/file.h"

static const char *type_name(BlockType type) { return type == BLOCK_F32 ? "float32" : type == BLOCK_BF16 ? "bfloat16" : "float16"; }

static Status write_json(json_t *root, const char *folder, const char *name, size_t flags) {
  char *text = json_dumps(root, JSON_INDENT(2) | flags), *path = path_join(folder, name);
  Status status = text ? file_write_whole(path, text, strlen(text)) : status_fail(STATUS_FAILED, "%s: cannot be put into JSON", path);
  free(path);
  free(text);
  return status;
}

static void add_tokens(json_t *root, const ModelConfig *c) {
  if (c->bos_token >= 0) json_object_set_new(root, "bos_token_id", json_integer(c->bos_token));
  if (c->eos_token >= 0) json_object_set_new(root, "eos_token_id", json_integer(c->eos_token));
  if (c->pad_token >= 0) json_object_set_new(root, "pad_token_id", json_integer(c->pad_token));
}

static bool has_bias(const Model *model, size_t slot) {
  for (int i = 0; i < model->config.layers; i++)
    if (((const Linear *)((const char *)&model->layers[i] + slot))->bias) return true;
  return false;
}

static Status make_config(json_t *root, const Model *model, BlockType type) {
  const ModelConfig *c = &model->config;
  json_object_set_new(root, "architectures", json_pack("[s]", model->family->architecture));
  json_object_set_new(root, "model_type", json_string(model->family->model_type));
  config_to_json(root, c, model->family);
  json_object_set_new(root, "attention_bias", json_boolean(has_bias(model, offsetof(Layer, q)) || has_bias(model, offsetof(Layer, kv_a))));
  json_object_set_new(root, "mlp_bias", json_boolean(has_bias(model, offsetof(Layer, gate))));
  if (model->family->has_no_gate) json_object_set_new(root, "use_bias", json_boolean(has_bias(model, offsetof(Layer, q))));
  json_object_set_new(root, "attention_dropout", json_real(0));
  json_object_set_new(root, "tie_word_embeddings", json_boolean(c->tied_embeddings && !merge_unties(model)));
  json_object_set_new(root, "use_cache", json_true());
  add_tokens(root, c);
  json_object_set_new(root, "torch_dtype", json_string(type_name(type)));
  return rope_to_json(root, &c->rope, &c->local_rope, c->kv_latent ? c->rope_size : c->head_size, model->path);
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

// The base's own config.json, byte for byte unless the type changes or the base is quantised.
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
  bool unties = merge_unties(model), is_larger = model->file_vocabulary > 0;
  if (own && strcmp(own, type_name(type)) == 0 && !json_object_get(root, "quantization_config") && !unties && !is_larger) {
    status = file_write_whole(to, text.data, text.length);
  } else {
    json_object_set_new(root, key, json_string(type_name(type)));
    json_object_del(root, "quantization_config");  // what is written is floats
    if (is_larger) json_object_set_new(root, "vocab_size", json_integer(model->config.vocabulary));
    if (unties) json_object_set_new(root, "tie_word_embeddings", json_false());
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
