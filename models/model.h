// A language model with frozen weights, from a GGUF file or a Hugging Face folder. Weights stay in the file's mapping
// in the types they have; with `quantize_nf4` linear layers in plain floats become NF4.
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include "core/memory.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/linear.h"

// What distinguishes a family, as data. Names have one %d for the layer.
typedef struct LinearName {
  size_t offset;  // of the Linear in Layer
  const char *name, *gguf;  // "model.layers.%d.self_attn.q_proj", "blk.%d.attn_q"
} LinearName;

typedef struct NormName {
  size_t offset;  // of the const float * in Layer
  const char *name, *gguf;
} NormName;

typedef struct Family {
  const char *model_type;  // config.json: "llama"
  const char *architecture;  // config.json's architectures[0]: "LlamaForCausalLM"
  const char *gguf;  // general.architecture: "llama"
  bool gguf_interleaves;  // rows of q and k are permuted in GGUF
  const LinearName *linears;
  int linear_count;
  const NormName *norms;
  int norm_count;
} Family;

typedef struct Layer {
  const float *attention_norm, *mlp_norm;  // [hidden]
  Linear q, k, v, o, gate, up, down;
} Layer;

typedef enum RopeScaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_LLAMA3 } RopeScaling;

typedef struct ModelConfig {
  int64_t layers, hidden, heads, kv_heads, head_size, feed_forward, vocabulary, context_length;
  double norm_epsilon, rope_base;
  RopeLayout rope_layout;
  RopeScaling rope_scaling;
  double rope_factor, rope_low_frequency_factor, rope_high_frequency_factor, rope_original_context;
  bool tied_embeddings;
  int64_t bos_token, eos_token, pad_token;  // as the model file names them; -1: it does not
} ModelConfig;

typedef struct Model {
  char *path;
  bool is_gguf;
  Gguf gguf;  // of a GGUF file
  Safetensors safetensors;  // of a folder
  const Family *family;
  ModelConfig config;
  Matrix embedding;  // [vocabulary, hidden]
  const float *final_norm;  // [hidden]
  Linear head;  // [vocabulary, hidden]; the embedding's own matrix when tied
  Layer *layers;
  Linear **linears;  // every adaptable linear layer, in order of layers
  int linear_count;
  float *rope_frequencies;  // [head_size / 2]
  Backend *backend;
  Arena arena;
  int64_t nf4_bytes;  // of linear layers that were turned into NF4
} Model;

typedef struct ModelOptions {
  bool quantize_nf4;
} ModelOptions;

// STATUS_BAD_INPUT names file, tensor or key, and the remedy. `path`: a GGUF file or a folder.
Status model_open(Model **out, const char *path, ModelOptions options, Backend *backend);
void model_close(Model *model);
int64_t model_mapped_bytes(const Model *model);  // of the weights that are used where the file is mapped

const Family *family_by_model_type(const char *model_type);  // NULL when it is not known; so the next
const Family *family_by_gguf(const char *architecture);
char *family_names(void);  // all model types, for messages; a new string

// Fills config from what the file says. config.c.
Status config_from_gguf(ModelConfig *config, const Family **family, const Gguf *gguf);
Status config_from_folder(ModelConfig *config, const Family **family, const char *folder);
// frequencies[head_size / 2] with linear and llama3 scaling (Llama 3.1's, Grattafiori et al. 2024) applied.
void config_rope_frequencies(float *frequencies, const ModelConfig *config);

// What a forward pass reads; all arrays must stay until the pass has run.
typedef struct DecoderInput {
  const int32_t *ids, *positions;  // [tokens]
  int64_t tokens;
  const AttentionSpan *spans;  // the documents
  int64_t span_count;
  const KvLayer *cache;  // [layers], or NULL outside generation
  const int32_t *rows;  // the tokens whose hidden state is wanted, ascending; NULL: all
  int64_t row_count;
} DecoderInput;

// Adds the decoder to the tape, one segment a layer, and returns the hidden states after the last norm,
// [row_count or tokens, hidden], in the last segment.
Tensor *decoder_hidden(Tape *tape, const Model *model, const DecoderInput *input);

#endif
