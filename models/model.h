// A language model, its weights frozen unless adapters/ trains them, from a GGUF file or a Hugging Face folder. Weights stay in the file's mapping
// in the types they have; with `quantize_nf4` or `quantize_q8_0` linear layers in plain floats become NF4 or Q8_0.
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include "core/memory.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/config.h"
#include "models/family.h"
#include "models/linear.h"
#include "parallel/group.h"

// What a family does not have is empty: a Linear without rows, a norm without a weight.
typedef struct Layer {
  const LayerKind *kind;
  NormSettings attention_norm, attention_post_norm;  // of the stream; of the attention's output
  NormSettings mlp_norm, mlp_post_norm;
  NormSettings q_norm, k_norm;  // of each head
  Linear q, k, v, o;
  Linear qkv;  // fused: the rows of q, k and v
  Linear q_a, q_b, kv_a, kv_b;  // multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)
  NormSettings q_a_norm, kv_a_norm;
  Linear gate, up, down;
  Linear gate_up;  // fused: the rows of gate and up
  Linear shared_gate, shared_up, shared_down;  // the experts that every token visits, as one
  ExpertLayer experts;  // settings.experts is 0 in a dense layer
} Layer;

typedef struct ModelOptions {
  bool quantize_nf4;
  bool quantize_q8_0;  // rows that are no multiple of 32 long stay floats
  int64_t vocabulary;  // rows that embedding and head have at least: new ones are the mean of the old; 0: as many as the file has
  Group *group;  // the ranks that open the same model; NULL: one
  bool is_sharded;  // layers are divided among them (models/shards.h)
  bool has_plain_embedding;  // nobody trains it or changes its rows: of a divided model it may then stay in the host's memory
} ModelOptions;

typedef struct Model {
  char *path;
  ModelOptions options;  // that it was opened with
  bool is_gguf;
  Gguf gguf;  // of a GGUF file
  Safetensors safetensors;  // of a folder
  const Family *family;
  ModelConfig config;
  Linear embedding;  // [vocabulary, hidden]
  NormSettings final_norm;
  Linear head;  // [vocabulary, hidden]; the embedding's own matrix when tied
  Layer *layers;
  Linear **linears;  // every adaptable linear layer, in order of layers
  int linear_count;
  Matrix **expert_matrices;  // all of the routed experts'
  int64_t expert_matrix_count;
  Backend *backend;
  int64_t file_vocabulary;  // rows of the file's embedding, where the vocabulary has grown; 0: config.vocabulary
  char hash[65];  // SHA-256 of what tells models apart without reading them: types, shapes and first bytes of all linear layers
  bool is_uploaded;  // weights are in the device's own memory; models/upload.h
  bool embedding_on_host;  // but for the embedding, whose rows are looked up by the host (models/decoder.c)
  int64_t device_bytes;  // that they take there
  Arena arena;
  int64_t nf4_bytes;  // of matrices that were turned into NF4 or Q8_0, and of copies that a quantised folder's layers needed
  void *shared_block;  // that the ranks of this machine share: what nf4_bytes counts; NULL: it is this process's own
  int64_t shared_bytes;
  struct Shards *shards;  // NULL: the layers are whole
  int64_t q8_0_bytes;  // of those in Q8_0, which the file's mapping does not hold
  struct QuantizedFolder *quantized;  // of a quantised folder; NULL: it holds plain floats. models/quantized_folder.h
  BlockType quantized_float_type;  // the folder's floats: what its weights are written as where nobody says otherwise
  int64_t quantized_mapped_bytes;  // of quantised layers that are used where the folder's files are mapped
  float *balance, *balance_read;  // [balance_floats]: every ExpertLayer.totals, on the device, and read from there; models/balance.h
  int64_t balance_floats;
} Model;

// STATUS_BAD_INPUT names file, tensor or key, and the remedy. `path`: a GGUF file or a folder.
Status model_open(Model **out, const char *path, ModelOptions options, Backend *backend);
void model_close(Model *model);
int64_t model_mapped_bytes(const Model *model);  // of the weights that are used where the file is mapped

int64_t model_host_bytes(const Model *model);  // these, and those that the process has made

static inline const Linear *layer_linear(const Layer *layer, const LinearName *name) {
  return (const Linear *)((const char *)layer + name->offset);
}
static inline const NormSettings *layer_norm(const Layer *layer, const NormName *name) {
  return (const NormSettings *)((const char *)layer + name->offset);
}

// Of generation: where keys and values are. Everything is read when the graph runs, so that one graph serves many passes of as many rows.
typedef struct PagedInput {
  const Pages *layers;  // [layers]
  const int32_t *slots;  // [tokens]: where each token's go
  const int32_t *tables;  // [table_count]: of all texts
  int64_t table_count;
  PagedBatch batch;
  int64_t context;  // the tokens that a text may have, by which RoPE is chosen where it depends on the length
  RowKinds kinds, wanted_kinds;  // of all rows, and of the wanted ones
} PagedInput;

// What a forward pass reads; all arrays must stay until the pass has run.
typedef struct DecoderInput {
  const int32_t *ids, *positions;  // [tokens]
  int64_t tokens;
  const AttentionSpan *spans;  // the documents, or where one forks its branches
  int64_t span_count;
  const int32_t *key_rows;  // [key_count]: the tokens that spans count keys by, where branches share some; NULL: each token once, in order
  int64_t key_count;
  const struct PagedInput *paged;  // generation, instead of spans; NULL: none
  const int32_t *rows;  // the tokens whose hidden state is wanted, ascending; NULL: all
  int64_t row_count;
  float noise;  // of training: NEFTune's alpha; 0: none
} DecoderInput;

// Adds the decoder to the tape, one segment a layer, and returns the hidden states after the last norm,
// [row_count or tokens, hidden], in the last segment.
Tensor *decoder_hidden(Tape *tape, const Model *model, const DecoderInput *input);
// The output layer and its loss (op_cross_entropy), whatever of the head is trained. targets: int32 input tensor [rows of hidden, 1].
Tensor *decoder_loss(Tape *tape, const Model *model, Tensor *hidden, Tensor *targets, LossGradient gradient);
// The same held near to a base (op_taught_cross_entropy).
Tensor *decoder_taught_loss(Tape *tape, Tensor **kl, const Model *model, Tensor *hidden, Tensor *targets, const Teacher *teacher,
                            LossGradient gradient);
// The output layer: logits [rows of hidden, vocabulary] without a backward pass, soft-capped where the family does that.
Tensor *decoder_logits(Tape *tape, const Model *model, Tensor *hidden);

#endif
