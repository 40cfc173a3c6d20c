// What distinguishes a family, as data: the names of its tensors in both formats and what they are to the decoder.
// Names are those after "model.layers.N." and "blk.N.".
#ifndef MODELS_FAMILY_H
#define MODELS_FAMILY_H

#include <stddef.h>

#include "core/memory.h"
#include "kernels/backend.h"

// The lengths that tensors have, as functions of a ModelConfig (config_dimension).
typedef enum Dimension {
  DIMENSION_HIDDEN,
  DIMENSION_QUERY,  // heads * head_size
  DIMENSION_KEY,  // kv_heads * head_size
  DIMENSION_VALUE,  // kv_heads * value_size
  DIMENSION_QKV,
  DIMENSION_OUTPUT,  // heads * value_size
  DIMENSION_HEAD,
  DIMENSION_FEED_FORWARD,
  DIMENSION_GATE_UP,
  DIMENSION_SHARED,  // feed-forward size of the shared experts together
  DIMENSION_Q_LATENT,
  DIMENSION_KV_LATENT,
  DIMENSION_KV_LATENT_ROPE,  // with the shared rotary key behind it
  DIMENSION_KV_UNPACKED,  // heads * (what does not rotate of a key, and a value)
} Dimension;

// The layers that have a tensor.
typedef enum Presence {
  IN_ALL,
  IN_DENSE,  // layers without routed experts
  WITH_SHARED,  // layers with routed experts, where the model has shared ones, too
  WITH_Q_LATENT,  // where queries go through a latent
  WITHOUT_Q_LATENT,
} Presence;

typedef struct LinearName {
  size_t offset;  // of the Linear in Layer
  const char *name, *gguf;  // "self_attn.q_proj", "attn_q"
  Dimension rows, columns;
  Presence presence;
} LinearName;

typedef struct NormName {
  size_t offset;  // of the NormSettings in Layer
  const char *name, *gguf;
  Dimension columns;
  Presence presence;
} NormName;

// The matrices of an expert, in the order of ExpertMatrices.
enum { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_KINDS };
extern const char *const expert_gguf_names[EXPERT_KINDS];  // "ffn_gate_exps", ...: of all experts in one tensor

// Of routed experts in a folder; the matrices' names have one %d. The router is ffn_gate_inp in GGUF, its bias exp_probs_b.
typedef struct ExpertNames {
  const char *router, *bias;  // bias NULL: none
  const char *matrices[EXPERT_KINDS];
} ExpertNames;

enum { FAMILY_LINEARS = 12, FAMILY_NORMS = 8 };

// Bits, for tables whose rows hold for several families.
typedef enum FamilyBit {
  FAMILY_LLAMA = 1 << 0,
  FAMILY_MISTRAL = 1 << 1,
  FAMILY_MIXTRAL = 1 << 2,
  FAMILY_QWEN2 = 1 << 3,
  FAMILY_QWEN3 = 1 << 4,
  FAMILY_QWEN3_MOE = 1 << 5,
  FAMILY_GEMMA2 = 1 << 6,
  FAMILY_GEMMA3 = 1 << 7,
  FAMILY_PHI3 = 1 << 8,
  FAMILY_DEEPSEEK_V2 = 1 << 9,
  FAMILY_DEEPSEEK_V3 = 1 << 10,
  FAMILY_SMOLLM3 = 1 << 11,
  FAMILY_STARCODER2 = 1 << 12,
} FamilyBit;

typedef enum WindowRule {
  WINDOW_IN_ALL_LAYERS,
  WINDOW_IN_ALL_BUT_EACH_NTH,  // every window_period-th layer sees everything
  WINDOW_FROM_A_LAYER,  // config.json: use_sliding_window, max_window_layers
} WindowRule;

typedef struct Family {
  FamilyBit bit;
  const char *model_type;  // config.json: "llama"
  const char *architecture;  // config.json's architectures[0]: "LlamaForCausalLM"
  const char *gguf;  // general.architecture: "llama"
  // Which of the families of one GGUF architecture a file is: the last row whose marks it has.
  bool marked_by_experts, marked_by_window, marked_by_sigmoid;
  bool gguf_interleaves;  // rows of q and k are permuted in GGUF
  bool is_interleaved;  // rotary pairs are neighbours in both formats
  bool is_centered;  // LayerNorm, not RMSNorm
  bool scales_embedding;  // by sqrt(hidden)
  bool has_no_gate;  // the MLP is down(f(up(x)))
  bool is_tied;  // where config.json does not say whether the head is the embedding
  float norm_offset;  // of norm weights in a folder; GGUF has the sum
  Activation activation;
  WindowRule window_rule;
  int window_period;
  int head_size;  // where config.json does not say; 0: hidden / heads
  LinearName linears[FAMILY_LINEARS];  // up to the first without a name
  NormName norms[FAMILY_NORMS];
  ExpertNames experts;
} Family;

const Family *family_by_model_type(const char *model_type);  // NULL when it is not known
char *family_names(void);  // all model types, for messages; a new string
const Family *family_at(int index);  // NULL past the last
int family_linear_count(const Family *family);
int family_norm_count(const Family *family);
const char *family_expert_name(Arena *arena, const char *format, int expert);  // "mlp.experts.3.up_proj"
// The matrices of one kind, [experts].
static inline const Matrix *expert_matrices(const ExpertMatrices *experts, int kind) {
  return kind == EXPERT_GATE ? experts->gate : kind == EXPERT_UP ? experts->up : experts->down;
}

#endif
