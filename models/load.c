// Opening a model: every tensor's name, type and shape is checked before it is used; weights stay mapped.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/shared_memory.h"
#include "models/parts.h"
#include "models/quantize.h"
#include "models/quantized_folder.h"
#include "models/shards.h"
#include "models/tensors.h"
#include "models/upload.h"

static NormSettings norm_settings(const Model *model, int64_t columns) {
  return (NormSettings){.columns = columns,
                        .epsilon = (float)model->config.norm_epsilon,
                        .offset = model->is_gguf ? 0 : model->family->norm_offset,
                        .is_centered = model->family->is_centered};
}

// `module`: its name without ".weight".
static Status load_norm(NormSettings *norm, Model *model, const char *module, int64_t columns) {
  *norm = norm_settings(model, columns);
  TRY(tensor_vector(&norm->weight, model, arena_format(&model->arena, "%s.weight", module), columns));
  const char *bias = arena_format(&model->arena, "%s.bias", module);
  return model->family->is_centered && tensor_is_there(model, bias) ? tensor_vector(&norm->bias, model, bias, columns) : STATUS_OK;
}

// Files of DeepSeek's models may keep a head's keys and values apart, keys transposed: attn_k_b [heads][latent, fixed] and attn_v_b
// [heads][value, latent] (outermost first). kv_b is put together from them in float32, which holds all of their values.
static Status join_latent(Matrix *out, Model *model, int layer) {
  const ModelConfig *c = &model->config;
  int64_t fixed = c->head_size - c->rope_size, unpacked = fixed + c->value_size;
  Matrix *keys = memory_new((size_t)c->heads * 2, sizeof *keys), *values = keys + c->heads;
  float *row = memory_new((size_t)(fixed > c->kv_latent ? fixed : c->kv_latent), sizeof *row), *joined = NULL;
  Status status = STATUS_OK;
  TRY_DONE(tensor_matrices(keys, model, tensor_layer_name(model, layer, "", "attn_k_b.weight", ""), c->heads, c->kv_latent, fixed));
  TRY_DONE(
      tensor_matrices(values, model, tensor_layer_name(model, layer, "", "attn_v_b.weight", ""), c->heads, c->value_size, c->kv_latent));
  joined = arena_new(&model->arena, (size_t)(c->heads * unpacked * c->kv_latent), sizeof *joined);
  for (int64_t h = 0; h < c->heads; h++) {
    float *head = joined + h * unpacked * c->kv_latent;
    for (int64_t latent = 0; latent < c->kv_latent; latent++) {
      matrix_dequantize(row, &keys[h], latent, 0, fixed);
      for (int64_t i = 0; i < fixed; i++) head[i * c->kv_latent + latent] = row[i];
    }
    for (int64_t i = 0; i < c->value_size; i++) matrix_dequantize(head + (fixed + i) * c->kv_latent, &values[h], i, 0, c->kv_latent);
  }
  *out = matrix_f32(joined, c->heads * unpacked, c->kv_latent);
done:
  free(keys);
  free(row);
  return status;
}

static Status load_linear(Linear *linear, Model *model, const LinearName *names, int layer) {
  const ModelConfig *config = &model->config;
  int64_t rows = config_dimension(config, names->rows), columns = config_dimension(config, names->columns);
  linear->name = arena_format(&model->arena, "model.layers.%d.%s", layer, names->name);
  linear->gguf_name = arena_format(&model->arena, "blk.%d.%s", layer, names->gguf);
  if (model->family->gguf_interleaves && names->offset == offsetof(Layer, q)) linear->interleaved_heads = config->heads;
  if (model->family->gguf_interleaves && names->offset == offsetof(Layer, k)) linear->interleaved_heads = config->kv_heads;
  const char *weight = tensor_layer_name(model, layer, names->name, names->gguf, ".weight");
  bool is_apart = model->is_gguf && names->offset == offsetof(Layer, kv_b) && !tensor_is_there(model, weight);
  TRY(is_apart ? join_latent(&linear->weight, model, layer) : tensor_matrix(&linear->weight, model, weight, rows, columns));
  const char *bias = tensor_layer_name(model, layer, names->name, names->gguf, ".bias");
  if (tensor_is_there(model, bias)) TRY(tensor_vector(&linear->bias, model, bias, rows));
  return STATUS_OK;
}

// The matrices of one kind of all experts: one tensor in GGUF, one each in a folder.
static Status load_expert_matrices(const Matrix **out, Model *model, int layer, int kind, int64_t rows, int64_t columns) {
  const char *name = model->family->experts.matrices[kind], *gguf = expert_gguf_names[kind];
  int64_t count = model->config.experts;
  Matrix *matrices = arena_new(&model->arena, (size_t)count, sizeof *matrices);
  *out = matrices;
  for (int64_t e = 0; e < count; e++) model->expert_matrices[model->expert_matrix_count++] = &matrices[e];
  if (model->is_gguf) return tensor_matrices(matrices, model, tensor_layer_name(model, layer, "", gguf, ".weight"), count, rows, columns);
  for (int64_t e = 0; e < count; e++)
    TRY(tensor_matrix(&matrices[e], model, tensor_layer_name(model, layer, family_expert_name(&model->arena, name, (int)e), "", ".weight"),
                      rows, columns));
  return STATUS_OK;
}

static Status load_experts(ExpertLayer *experts, Model *model, int layer) {
  const ModelConfig *c = &model->config;
  const ExpertNames *names = &model->family->experts;
  experts->settings = (RouterSettings){.experts = c->experts,
                                       .used = c->experts_used,
                                       .is_sigmoid = c->is_sigmoid_routed,
                                       .groups = c->groups,
                                       .groups_used = c->groups_used,
                                       .groups_by_two = c->is_sigmoid_routed,
                                       .is_normalized = c->normalizes_experts,
                                       .scale = (float)c->routed_scale};
  TRY(tensor_matrix(&experts->router, model, tensor_layer_name(model, layer, names->router, "ffn_gate_inp", ".weight"), c->experts,
                    c->hidden));
  if (names->bias) {
    const char *bias = tensor_layer_name(model, layer, names->bias, "exp_probs_b.bias", "");
    if (tensor_is_there(model, bias)) TRY(tensor_vector(&experts->settings.bias, model, bias, c->experts));
  }
  ExpertMatrices *matrices = &experts->matrices;
  *matrices = (ExpertMatrices){.experts = c->experts,
                               .used = c->experts_used,
                               .hidden = c->hidden,
                               .width = c->expert_feed_forward,
                               .activation = model->family->activation};
  TRY(load_expert_matrices(&matrices->gate, model, layer, EXPERT_GATE, matrices->width, c->hidden));
  TRY(load_expert_matrices(&matrices->up, model, layer, EXPERT_UP, matrices->width, c->hidden));
  return load_expert_matrices(&matrices->down, model, layer, EXPERT_DOWN, c->hidden, matrices->width);
}

static Status load_layer(Model *model, int index) {
  Layer *layer = &model->layers[index];
  const Family *family = model->family;
  layer->kind = &model->config.kinds[index];
  for (int i = 0; i < family_norm_count(family); i++) {
    const NormName *names = &family->norms[i];
    if (!config_has(&model->config, names->presence, index)) continue;
    TRY(load_norm((NormSettings *)((char *)layer + names->offset), model, tensor_layer_name(model, index, names->name, names->gguf, ""),
                  config_dimension(&model->config, names->columns)));
  }
  for (int i = 0; i < family_linear_count(family); i++) {
    if (!config_has(&model->config, family->linears[i].presence, index)) continue;
    Linear *linear = (Linear *)((char *)layer + family->linears[i].offset);
    TRY(load_linear(linear, model, &family->linears[i], index));
    model->linears[model->linear_count++] = linear;
  }
  return layer->kind->is_sparse ? load_experts(&layer->experts, model, index) : STATUS_OK;
}

static Status load_embedding(Model *model) {
  ModelConfig *config = &model->config;
  const char *embedding = model->is_gguf ? "token_embd.weight" : "model.embed_tokens.weight";
  const char *head = model->is_gguf ? "output.weight" : "lm_head.weight";
  if (model->is_gguf) {  // the vocabulary's size is the matrix's own
    TRY(tensor_rows(&config->vocabulary, model, embedding));
    config->tied_embeddings = !tensor_is_there(model, head);
  }
  // Of tied weights a folder may hold either name.
  if (config->tied_embeddings && !tensor_is_there(model, embedding) && tensor_is_there(model, head)) embedding = head;
  model->embedding = (Linear){.name = "model.embed_tokens", .gguf_name = "token_embd"};
  TRY(tensor_matrix(&model->embedding.weight, model, embedding, config->vocabulary, config->hidden));
  model->head = (Linear){.weight = model->embedding.weight, .name = "lm_head", .gguf_name = "output"};
  if (!config->tied_embeddings) TRY(tensor_matrix(&model->head.weight, model, head, config->vocabulary, config->hidden));
  return load_norm(&model->final_norm, model, model->is_gguf ? "output_norm" : "model.norm", config->hidden);
}

static Status load_weights(Model *model) {
  const ModelConfig *config = &model->config;
  TRY(load_embedding(model));
  model->layers = arena_new(&model->arena, (size_t)config->layers, sizeof *model->layers);
  model->linears = arena_new(&model->arena, (size_t)(config->layers * family_linear_count(model->family)), sizeof *model->linears);
  model->expert_matrices = arena_new(&model->arena, (size_t)(config->layers * config->experts * 3), sizeof *model->expert_matrices);
  for (int i = 0; i < config->layers; i++) TRY(load_layer(model, i));
  return STATUS_OK;
}

// Type and shape of a linear layer, and its first bytes: of all layers together enough to tell models apart without reading them.
void model_hash_linear(Buffer *bytes, const Linear *linear) {
  enum { SAMPLE = 256 };
  const Matrix *w = &linear->weight;
  buffer_format(bytes, "%s %d %lld %lld ", linear->name, w->type, (long long)w->rows, (long long)w->columns);
  const void *data = w->type == BLOCK_NF4 ? w->nf4.packed : w->type == BLOCK_GROUPED ? w->grouped->codes : w->data;
  int64_t size = w->type == BLOCK_NF4       ? w->rows * w->columns / 2
                 : w->type == BLOCK_GROUPED ? grouped_code_bytes(w->grouped, w->rows)
                                            : block_row_bytes(w->type, w->columns) * w->rows;
  buffer_append(bytes, data, (size_t)(size < SAMPLE ? size : SAMPLE));
}

// Each rank has the whole base.
static Status hold_whole(Model *model) {
  Buffer bytes = {0};
  TRY(quantize_model(model));
  for (int i = 0; i < model->linear_count; i++) model_hash_linear(&bytes, model->linears[i]);
  sha256_bytes(model->hash, bytes.data ? bytes.data : "", bytes.length);
  buffer_release(&bytes);
  return STATUS_OK;
}

static Status check_path(const char *path) {
  bool folder = directory_exists(path);
  if (!folder && !file_exists(path))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: there is no such file or folder; a model is a GGUF file or a Hugging Face folder on this machine", path);
  char *config = folder ? path_join(path, "config.json") : NULL;
  bool known = !config || file_exists(config);
  free(config);
  if (known) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: a folder without config.json; give a Hugging Face folder, or the path of a GGUF file", path);
}

Status model_open(Model **out, const char *path, ModelOptions options, Backend *backend) {
  *out = NULL;
  TRY(check_path(path));
  Model *model = *out = memory_new(1, sizeof *model);
  model->path = memory_copy_string(path);
  model->backend = backend;
  model->options = options;
  Status status = STATUS_OK;
  if (directory_exists(path)) {
    TRY_DONE(config_from_folder(&model->config, &model->family, path, &model->arena));
    TRY_DONE(safetensors_open(&model->safetensors, path));
    TRY_DONE(quantized_folder_open(model));
  } else {
    model->is_gguf = true;
    TRY_DONE(gguf_open(&model->gguf, path));
    TRY_DONE(config_from_gguf(&model->config, &model->family, &model->gguf, &model->arena));
  }
  TRY_DONE(load_weights(model));
  TRY_DONE(model_grow_vocabulary(model, options.vocabulary));
  TRY_DONE(shards_are_wanted(model) ? shards_open(model) : hold_whole(model));
  TRY_DONE(model_upload(model));
done:
  if (status != STATUS_OK) {
    model_close(model);
    *out = NULL;
  }
  return status;
}

static int64_t mapped_bytes(const Matrix *matrix) {
  return matrix->type >= BLOCK_NF4 || !matrix->data ? 0 : block_row_bytes(matrix->type, matrix->columns) * matrix->rows;
}

int64_t model_mapped_bytes(const Model *model) {
  int64_t bytes = model->quantized_mapped_bytes + mapped_bytes(linear_base(&model->embedding)) +
                  (model->config.tied_embeddings ? 0 : mapped_bytes(linear_base(&model->head)));
  if (model->shards) return bytes;
  for (int i = 0; i < model->linear_count; i++) bytes += mapped_bytes(linear_base(model->linears[i]));
  for (int64_t i = 0; i < model->expert_matrix_count; i++) bytes += mapped_bytes(model->expert_matrices[i]);
  return model->is_uploaded ? bytes : bytes - model->q8_0_bytes;
}

int64_t model_host_bytes(const Model *model) {
  return model_mapped_bytes(model) + model->nf4_bytes + (model->is_uploaded ? 0 : shards_bytes(model));
}

void model_close(Model *model) {
  if (!model) return;
  model_release_uploads(model);
  shards_close(model);
  memory_unshare(model->shared_block, model->shared_bytes);
  if (model->is_gguf) gguf_close(&model->gguf);
  else safetensors_close(&model->safetensors);
  quantized_folder_close(model);
  if (model->balance) model->backend->release(model->balance, model->backend);
  arena_release(&model->arena);
  free(model->path);
  free(model);
}
