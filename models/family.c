// The families that are built, as data.
#include <string.h>

#include "models/model.h"

#define LINEAR(slot, name, gguf) \
  { offsetof(Layer, slot), name, gguf }

static const LinearName llama_linears[] = {
    LINEAR(q, "model.layers.%d.self_attn.q_proj", "blk.%d.attn_q"),   LINEAR(k, "model.layers.%d.self_attn.k_proj", "blk.%d.attn_k"),
    LINEAR(v, "model.layers.%d.self_attn.v_proj", "blk.%d.attn_v"),   LINEAR(o, "model.layers.%d.self_attn.o_proj", "blk.%d.attn_output"),
    LINEAR(gate, "model.layers.%d.mlp.gate_proj", "blk.%d.ffn_gate"), LINEAR(up, "model.layers.%d.mlp.up_proj", "blk.%d.ffn_up"),
    LINEAR(down, "model.layers.%d.mlp.down_proj", "blk.%d.ffn_down"),
};

static const NormName llama_norms[] = {
    {offsetof(Layer, attention_norm), "model.layers.%d.input_layernorm", "blk.%d.attn_norm"},
    {offsetof(Layer, mlp_norm), "model.layers.%d.post_attention_layernorm", "blk.%d.ffn_norm"},
};

static const Family families[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .gguf = "llama",
     .gguf_interleaves = true,
     .linears = llama_linears,
     .linear_count = sizeof llama_linears / sizeof *llama_linears,
     .norms = llama_norms,
     .norm_count = sizeof llama_norms / sizeof *llama_norms},
};

enum { FAMILY_COUNT = sizeof families / sizeof *families };

const Family *family_by_model_type(const char *model_type) {
  for (int i = 0; i < FAMILY_COUNT; i++)
    if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
  return NULL;
}

const Family *family_by_gguf(const char *architecture) {
  for (int i = 0; i < FAMILY_COUNT; i++)
    if (strcmp(families[i].gguf, architecture) == 0) return &families[i];
  return NULL;
}

char *family_names(void) {
  Buffer names = {0};
  for (int i = 0; i < FAMILY_COUNT; i++) buffer_format(&names, "%s%s", i ? ", " : "", families[i].model_type);
  return names.data;
}
