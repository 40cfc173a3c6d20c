// A model's dimensions, as both formats tell them: config.json (both generations of its keys) and GGUF's metadata. One table
// (config_keys.c) reads and writes either.
#ifndef MODELS_CONFIG_H
#define MODELS_CONFIG_H

#include <jansson.h>

#include "core/memory.h"
#include "core/status.h"
#include "formats/gguf.h"
#include "kernels/attention.h"
#include "models/family.h"
#include "models/rope.h"

// What differs between the layers of one model.
typedef struct LayerKind {
  bool is_windowed;  // queries see the last `window` keys only
  bool has_rope;
  bool is_sparse;  // routed experts in place of the MLP
} LayerKind;

typedef struct ModelConfig {
  int64_t layers, hidden, heads, kv_heads, head_size, value_size, feed_forward, vocabulary, context_length;
  double norm_epsilon;
  int64_t window;  // 0: none
  double attention_softcap, final_softcap;  // 0: none
  double query_scalar;  // scores are divided by its root; 0: head_size
  const LayerKind *kinds;  // [layers], in the arena given
  Rope rope, local_rope;  // local_rope: of windowed layers, where its base is not 0
  RopeLayout rope_layout;
  int64_t q_latent, kv_latent, rope_size;  // latent attention: kv_latent 0: none; rope_size of a head's head_size rotate, the last ones
  int64_t experts, experts_used, expert_feed_forward, shared_experts, dense_layers, groups, groups_used;
  double routed_scale;
  bool normalizes_experts, is_sigmoid_routed;
  bool tied_embeddings;
  int64_t bos_token, eos_token, pad_token;  // as the model file names them; -1: it does not
} ModelConfig;

// Fills config from what the file says. STATUS_BAD_INPUT names file and key.
Status config_from_gguf(ModelConfig *config, const Family **family, const Gguf *gguf, Arena *arena);
Status config_from_folder(ModelConfig *config, const Family **family, const char *folder, Arena *arena);
// The dimensions as metadata keys, and as members of config.json (which has more: the caller's).
void config_to_gguf(GgufWriter *writer, const ModelConfig *config, const Family *family);
void config_to_json(json_t *root, const ModelConfig *config, const Family *family);

// Whether a GGUF key, after "{arch}.", is one that config_to_gguf writes or that only says the same in other words.
bool config_knows_key(const char *key);

int64_t config_dimension(const ModelConfig *config, Dimension dimension);
bool config_has(const ModelConfig *config, Presence presence, int layer);
AttentionShape config_attention_shape(const ModelConfig *config, bool is_windowed);

#endif
