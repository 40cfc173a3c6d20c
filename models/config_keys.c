// One row for each dimension. What config.json leaves out is what transformers' configuration class of the family takes then.
#include "models/config_keys.h"

// clang-format off
enum {
  ALL = ~0u >> 1,
  DEEPSEEK = FAMILY_DEEPSEEK_V2 | FAMILY_DEEPSEEK_V3,
  QWEN = FAMILY_QWEN2 | FAMILY_QWEN3 | FAMILY_QWEN3_MOE,
  GEMMA = FAMILY_GEMMA2 | FAMILY_GEMMA3,
  LAYER_NORM = FAMILY_STARCODER2,
  WINDOW_OF_4096 = FAMILY_MISTRAL | QWEN | GEMMA,
  WINDOW_OR_NONE = FAMILY_MIXTRAL | FAMILY_PHI3 | FAMILY_STARCODER2 | FAMILY_SMOLLM3,
};

#define AT(field) offsetof(ModelConfig, field)

const ConfigKey config_keys[] = {
    {KEY_INTEGER, AT(layers), ALL, "num_hidden_layers", NULL, "block_count", true, 0},
    {KEY_INTEGER, AT(context_length), ALL, "max_position_embeddings", NULL, "context_length", true, 0},
    {KEY_INTEGER, AT(hidden), ALL, "hidden_size", NULL, "embedding_length", true, 0},
    {KEY_INTEGER, AT(feed_forward), ALL, "intermediate_size", NULL, "feed_forward_length", true, 0},
    {KEY_INTEGER, AT(heads), ALL, "num_attention_heads", NULL, "attention.head_count", true, 0},
    {KEY_INTEGER, AT(kv_heads), ALL, "num_key_value_heads", NULL, "attention.head_count_kv", false, 0},
    {KEY_INTEGER, AT(head_size), ALL & ~DEEPSEEK, "head_dim", NULL, "attention.key_length", false, 0},
    {KEY_INTEGER, AT(value_size), ALL & ~DEEPSEEK, NULL, NULL, "attention.value_length", false, 0},
    {KEY_INTEGER, AT(vocabulary), ALL, "vocab_size", NULL, "vocab_size", false, 0},
    {KEY_REAL, AT(norm_epsilon), ALL & ~LAYER_NORM, "rms_norm_eps", NULL, "attention.layer_norm_rms_epsilon", true, 1e-6},
    {KEY_REAL, AT(norm_epsilon), LAYER_NORM, "norm_epsilon", NULL, "attention.layer_norm_epsilon", true, 1e-5},

    {KEY_INTEGER, AT(window), WINDOW_OF_4096, "sliding_window", NULL, "attention.sliding_window", false, 4096},
    {KEY_INTEGER, AT(window), WINDOW_OR_NONE, "sliding_window", NULL, "attention.sliding_window", false, 0},
    {KEY_REAL, AT(attention_softcap), FAMILY_GEMMA2, "attn_logit_softcapping", NULL, "attn_logit_softcapping", false, 50},
    {KEY_REAL, AT(final_softcap), FAMILY_GEMMA2, "final_logit_softcapping", NULL, "final_logit_softcapping", false, 30},
    {KEY_REAL, AT(attention_softcap), FAMILY_GEMMA3, "attn_logit_softcapping", NULL, "attn_logit_softcapping", false, 0},
    {KEY_REAL, AT(final_softcap), FAMILY_GEMMA3, "final_logit_softcapping", NULL, "final_logit_softcapping", false, 0},
    {KEY_REAL, AT(query_scalar), GEMMA, "query_pre_attn_scalar", NULL, NULL, false, 256},

    {KEY_INTEGER, AT(q_latent), DEEPSEEK, "q_lora_rank", NULL, "attention.q_lora_rank", false, 1536},
    {KEY_INTEGER, AT(kv_latent), DEEPSEEK, "kv_lora_rank", NULL, "attention.kv_lora_rank", true, 512},
    {KEY_INTEGER, AT(rope_size), DEEPSEEK, "qk_rope_head_dim", NULL, "rope.dimension_count", true, 64},
    {KEY_INTEGER, AT(value_size), DEEPSEEK, "v_head_dim", NULL, "attention.value_length", true, 128},
    // config.json has qk_nope_head_dim: what of a head does not rotate
    {KEY_INTEGER, AT(head_size), DEEPSEEK, NULL, NULL, "attention.key_length", true, 0},

    {KEY_INTEGER, AT(experts), FAMILY_MIXTRAL, "num_local_experts", NULL, "expert_count", true, 8},
    {KEY_INTEGER, AT(experts), FAMILY_QWEN3_MOE, "num_experts", "num_local_experts", "expert_count", true, 128},
    {KEY_INTEGER, AT(experts), FAMILY_DEEPSEEK_V2, "n_routed_experts", "num_experts", "expert_count", true, 64},
    {KEY_INTEGER, AT(experts), FAMILY_DEEPSEEK_V3, "n_routed_experts", "num_local_experts", "expert_count", true, 256},
    {KEY_INTEGER, AT(experts_used), FAMILY_MIXTRAL, "num_experts_per_tok", NULL, "expert_used_count", true, 2},
    {KEY_INTEGER, AT(experts_used), FAMILY_QWEN3_MOE | DEEPSEEK, "num_experts_per_tok", NULL, "expert_used_count", true, 8},
    {KEY_INTEGER, AT(expert_feed_forward), FAMILY_QWEN3_MOE, "moe_intermediate_size", NULL, "expert_feed_forward_length", true, 768},
    {KEY_INTEGER, AT(expert_feed_forward), FAMILY_DEEPSEEK_V2, "moe_intermediate_size", NULL, "expert_feed_forward_length", true, 1407},
    {KEY_INTEGER, AT(expert_feed_forward), FAMILY_DEEPSEEK_V3, "moe_intermediate_size", NULL, "expert_feed_forward_length", true, 2048},
    {KEY_BOOL, AT(normalizes_experts), FAMILY_QWEN3_MOE, "norm_topk_prob", NULL, "expert_weights_norm", false, 0},
    {KEY_BOOL, AT(normalizes_experts), FAMILY_DEEPSEEK_V3, "norm_topk_prob", NULL, "expert_weights_norm", false, 1},
    {KEY_INTEGER, AT(shared_experts), FAMILY_DEEPSEEK_V2, "n_shared_experts", NULL, "expert_shared_count", false, 2},
    {KEY_INTEGER, AT(shared_experts), FAMILY_DEEPSEEK_V3, "n_shared_experts", NULL, "expert_shared_count", false, 1},
    {KEY_INTEGER, AT(dense_layers), FAMILY_DEEPSEEK_V2, "first_k_dense_replace", NULL, "leading_dense_block_count", false, 0},
    {KEY_INTEGER, AT(dense_layers), FAMILY_DEEPSEEK_V3, "first_k_dense_replace", NULL, "leading_dense_block_count", false, 3},
    {KEY_INTEGER, AT(groups), FAMILY_DEEPSEEK_V2, "n_group", NULL, "expert_group_count", false, 0},
    {KEY_INTEGER, AT(groups), FAMILY_DEEPSEEK_V3, "n_group", NULL, "expert_group_count", false, 8},
    {KEY_INTEGER, AT(groups_used), FAMILY_DEEPSEEK_V2, "topk_group", NULL, "expert_group_used_count", false, 0},
    {KEY_INTEGER, AT(groups_used), FAMILY_DEEPSEEK_V3, "topk_group", NULL, "expert_group_used_count", false, 4},
    {KEY_REAL, AT(routed_scale), FAMILY_DEEPSEEK_V2, "routed_scaling_factor", NULL, "expert_weights_scale", false, 1},
    {KEY_REAL, AT(routed_scale), FAMILY_DEEPSEEK_V3, "routed_scaling_factor", NULL, "expert_weights_scale", false, 2.5},
    {.name = NULL, .gguf = NULL},
};
