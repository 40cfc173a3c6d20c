// The families that are built, as data.
#include "models/family.h"

#include <string.h>

#include "core/memory.h"
#include "models/model.h"

// clang-format off
#define LINEAR(slot, name, gguf, rows, columns, presence) \
  { offsetof(Layer, slot), name, gguf, DIMENSION_##rows, DIMENSION_##columns, presence }
#define NORM(slot, name, gguf, columns, presence) \
  { offsetof(Layer, slot), name, gguf, DIMENSION_##columns, presence }

#define OUTPUT_PROJECTION LINEAR(o, "self_attn.o_proj", "attn_output", HIDDEN, OUTPUT, IN_ALL)
#define SEPARATE_PROJECTIONS                                            \
  LINEAR(q, "self_attn.q_proj", "attn_q", QUERY, HIDDEN, IN_ALL),       \
  LINEAR(k, "self_attn.k_proj", "attn_k", KEY, HIDDEN, IN_ALL),         \
  LINEAR(v, "self_attn.v_proj", "attn_v", VALUE, HIDDEN, IN_ALL),       \
  OUTPUT_PROJECTION
#define LATENT_PROJECTIONS                                                                          \
  LINEAR(q, "self_attn.q_proj", "attn_q", QUERY, HIDDEN, WITHOUT_Q_LATENT),                         \
  LINEAR(q_a, "self_attn.q_a_proj", "attn_q_a", Q_LATENT, HIDDEN, WITH_Q_LATENT),                   \
  LINEAR(q_b, "self_attn.q_b_proj", "attn_q_b", QUERY, Q_LATENT, WITH_Q_LATENT),                    \
  LINEAR(kv_a, "self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", KV_LATENT_ROPE, HIDDEN, IN_ALL),    \
  LINEAR(kv_b, "self_attn.kv_b_proj", "attn_kv_b", KV_UNPACKED, KV_LATENT, IN_ALL),                 \
  OUTPUT_PROJECTION
#define GATED_MLP                                                       \
  LINEAR(gate, "mlp.gate_proj", "ffn_gate", FEED_FORWARD, HIDDEN, IN_DENSE),  \
  LINEAR(up, "mlp.up_proj", "ffn_up", FEED_FORWARD, HIDDEN, IN_DENSE),        \
  LINEAR(down, "mlp.down_proj", "ffn_down", HIDDEN, FEED_FORWARD, IN_DENSE)
#define SHARED_EXPERTS                                                                              \
  LINEAR(shared_gate, "mlp.shared_experts.gate_proj", "ffn_gate_shexp", SHARED, HIDDEN, WITH_SHARED), \
  LINEAR(shared_up, "mlp.shared_experts.up_proj", "ffn_up_shexp", SHARED, HIDDEN, WITH_SHARED),       \
  LINEAR(shared_down, "mlp.shared_experts.down_proj", "ffn_down_shexp", HIDDEN, SHARED, WITH_SHARED)

#define NORMS_BEFORE                                                            \
  NORM(attention_norm, "input_layernorm", "attn_norm", HIDDEN, IN_ALL),         \
  NORM(mlp_norm, "post_attention_layernorm", "ffn_norm", HIDDEN, IN_ALL)
#define NORMS_AROUND                                                                            \
  NORM(attention_norm, "input_layernorm", "attn_norm", HIDDEN, IN_ALL),                         \
  NORM(attention_post_norm, "post_attention_layernorm", "post_attention_norm", HIDDEN, IN_ALL), \
  NORM(mlp_norm, "pre_feedforward_layernorm", "ffn_norm", HIDDEN, IN_ALL),                      \
  NORM(mlp_post_norm, "post_feedforward_layernorm", "post_ffw_norm", HIDDEN, IN_ALL)
#define NORMS_OF_HEADS                                                  \
  NORM(q_norm, "self_attn.q_norm", "attn_q_norm", HEAD, IN_ALL),        \
  NORM(k_norm, "self_attn.k_norm", "attn_k_norm", HEAD, IN_ALL)
#define NORMS_OF_LATENTS                                                                    \
  NORM(q_a_norm, "self_attn.q_a_layernorm", "attn_q_a_norm", Q_LATENT, WITH_Q_LATENT),      \
  NORM(kv_a_norm, "self_attn.kv_a_layernorm", "attn_kv_a_norm", KV_LATENT, IN_ALL)

#define EXPERTS(router_bias)                                                      \
  {                                                                               \
    .router = "mlp.gate", .bias = router_bias, .matrices = {                      \
      "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj" \
    }                                                                             \
  }
// clang-format on

const char *const expert_gguf_names[EXPERT_KINDS] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};

static const Family families[] = {
    {.bit = FAMILY_LLAMA,
     .model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .gguf = "llama",
     .gguf_interleaves = true,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_BEFORE}},
    {.bit = FAMILY_MISTRAL,
     .model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .gguf = "llama",
     .marked_by_window = true,
     .gguf_interleaves = true,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_BEFORE}},
    {.bit = FAMILY_MIXTRAL,
     .model_type = "mixtral",
     .architecture = "MixtralForCausalLM",
     .gguf = "llama",
     .marked_by_experts = true,
     .gguf_interleaves = true,
     .linears = {SEPARATE_PROJECTIONS},
     .norms = {NORMS_BEFORE},
     .experts = {.router = "block_sparse_moe.gate",
                 .matrices = {"block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2"}}},
    {.bit = FAMILY_QWEN2,
     .model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .gguf = "qwen2",
     .window_rule = WINDOW_FROM_A_LAYER,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_BEFORE}},
    {.bit = FAMILY_QWEN3,
     .model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .gguf = "qwen3",
     .window_rule = WINDOW_FROM_A_LAYER,
     .head_size = 128,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_BEFORE, NORMS_OF_HEADS}},
    {.bit = FAMILY_QWEN3_MOE,
     .model_type = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .gguf = "qwen3moe",
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_BEFORE, NORMS_OF_HEADS},
     .experts = EXPERTS(NULL)},
    {.bit = FAMILY_GEMMA2,
     .model_type = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .gguf = "gemma2",
     .scales_embedding = true,
     .norm_offset = 1,
     .activation = ACTIVATION_GELU_TANH,
     .window_rule = WINDOW_IN_ALL_BUT_EACH_NTH,
     .window_period = 2,
     .head_size = 256,
     .is_tied = true,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_AROUND}},
    {.bit = FAMILY_GEMMA3,
     .model_type = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .gguf = "gemma3",
     .scales_embedding = true,
     .norm_offset = 1,
     .activation = ACTIVATION_GELU_TANH,
     .window_rule = WINDOW_IN_ALL_BUT_EACH_NTH,
     .window_period = 6,
     .head_size = 256,
     .is_tied = true,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_AROUND, NORMS_OF_HEADS}},
    {.bit = FAMILY_PHI3,
     .model_type = "phi3",
     .architecture = "Phi3ForCausalLM",
     .gguf = "phi3",
     .linears = {LINEAR(qkv, "self_attn.qkv_proj", "attn_qkv", QKV, HIDDEN, IN_ALL), OUTPUT_PROJECTION,
                 LINEAR(gate_up, "mlp.gate_up_proj", "ffn_up", GATE_UP, HIDDEN, IN_ALL),
                 LINEAR(down, "mlp.down_proj", "ffn_down", HIDDEN, FEED_FORWARD, IN_ALL)},
     .norms = {NORMS_BEFORE}},
    {.bit = FAMILY_DEEPSEEK_V2,
     .model_type = "deepseek_v2",
     .architecture = "DeepseekV2ForCausalLM",
     .gguf = "deepseek2",
     .is_interleaved = true,
     .linears = {LATENT_PROJECTIONS, GATED_MLP, SHARED_EXPERTS},
     .norms = {NORMS_BEFORE, NORMS_OF_LATENTS},
     .experts = EXPERTS(NULL)},
    {.bit = FAMILY_DEEPSEEK_V3,
     .model_type = "deepseek_v3",
     .architecture = "DeepseekV3ForCausalLM",
     .gguf = "deepseek2",
     .marked_by_sigmoid = true,
     .is_interleaved = true,
     .linears = {LATENT_PROJECTIONS, GATED_MLP, SHARED_EXPERTS},
     .norms = {NORMS_BEFORE, NORMS_OF_LATENTS},
     .experts = EXPERTS("mlp.gate.e_score_correction_bias")},
    {.bit = FAMILY_SMOLLM3,
     .model_type = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .gguf = "smollm3",
     .gguf_interleaves = true,
     .is_tied = true,
     .linears = {SEPARATE_PROJECTIONS, GATED_MLP},
     .norms = {NORMS_BEFORE}},
    {.bit = FAMILY_STARCODER2,
     .model_type = "starcoder2",
     .architecture = "Starcoder2ForCausalLM",
     .gguf = "starcoder2",
     .is_centered = true,
     .has_no_gate = true,
     .activation = ACTIVATION_GELU_TANH,
     .is_tied = true,
     .linears = {SEPARATE_PROJECTIONS, LINEAR(up, "mlp.c_fc", "ffn_up", FEED_FORWARD, HIDDEN, IN_ALL),
                 LINEAR(down, "mlp.c_proj", "ffn_down", HIDDEN, FEED_FORWARD, IN_ALL)},
     .norms = {NORMS_BEFORE}},
};

enum { FAMILY_COUNT = sizeof families / sizeof *families };

const Family *family_at(int index) { return index < FAMILY_COUNT ? &families[index] : NULL; }

const Family *family_by_model_type(const char *model_type) {
  for (int i = 0; i < FAMILY_COUNT; i++)
    if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
  return NULL;
}

char *family_names(void) {
  Buffer names = {0};
  for (int i = 0; i < FAMILY_COUNT; i++) buffer_format(&names, "%s%s", i ? ", " : "", families[i].model_type);
  return names.data;
}

int family_linear_count(const Family *family) {
  int count = 0;
  while (count < FAMILY_LINEARS && family->linears[count].name) count++;
  return count;
}

int family_norm_count(const Family *family) {
  int count = 0;
  while (count < FAMILY_NORMS && family->norms[count].name) count++;
  return count;
}

const char *family_expert_name(Arena *arena, const char *format, int expert) {
  const char *place = strstr(format, "%d");
  return arena_format(arena, "%.*s%d%s", (int)(place - format), format, expert, place + 2);
}
