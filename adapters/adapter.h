// What is trained of a model: LoRA adapters over its linear layers, tensors in full, or all of it (full fine-tuning); which, how they begin,
// and the files they are kept in (PEFT folders, GGUF, model folders). All trainable values lie in one flat buffer, their gradients in another, so that an
// optimiser step, an all-reduce and a checkpoint are each over one range.
#ifndef ADAPTERS_ADAPTER_H
#define ADAPTERS_ADAPTER_H

#include "models/model.h"

// A number of its own for the modules that a regular expression names (adapters/pattern.h).
typedef struct PatternValue {
  const char *pattern;
  double value;
} PatternValue;

// The layers that are adapted (PEFT's layers_to_transform); count 0: all. patterns: names of the list of layers in the model; 0 of them: any.
typedef struct LayerChoice {
  const int64_t *layers;
  int count;
  const char *const *patterns;
  int pattern_count;
} LayerChoice;

// How the factors begin; start.c says what each is. From START_PISSA on they come from the weights.
typedef enum AdapterStart {
  START_PLAIN,
  START_RANDOM,
  START_GAUSSIAN,
  START_ORTHOGONAL,
  START_PISSA,
  START_OLORA,
  START_LOFTQ,
} AdapterStart;

typedef struct AdapterSettings {
  int64_t rank;
  double alpha, dropout;
  bool rslora;  // scale = alpha / sqrt(rank) (Kalajdzievski 2023), not alpha / rank
  bool dora;  // a magnitude for each output beside each pair (Liu et al. 2024), at first the norm of W + scale B A
  bool all_linear;  // every linear layer but the head
  const char *const *targets;  // exact module names, or ends of them after a '.'
  int target_count;
  const char *target_regex;  // a regular expression matched against the whole module name; NULL: none
  bool trains_all;  // full fine-tuning: no adapters, every tensor; rank, alpha and targets do not count
  const char *const *modules_to_save;  // ends of names of modules that are trained in full
  int modules_to_save_count;
  const int32_t *tokens;  // ids whose embeddings alone are trained
  int token_count;
  const PatternValue *rank_patterns,
      *alpha_patterns;  // PEFT's rank_pattern and alpha_pattern: the first that matches a module holds for it
  int rank_pattern_count, alpha_pattern_count;
  LayerChoice layers;
  AdapterStart start;
  int start_iterations;  // of START_PISSA and START_LOFTQ: SVD_EXACT (adapters/svd.h), or how many
  uint64_t seed;
} AdapterSettings;

// What a trainable tensor is to its module: optimisers give some of them rates of their own, and files have a name for each.
typedef enum TensorRole {
  TENSOR_LORA_A,  // [rank, in]
  TENSOR_LORA_B,  // [out, rank]
  TENSOR_MAGNITUDE,  // [out, 1]: DoRA's
  TENSOR_WEIGHT,  // [out, in]: a matrix in full
  TENSOR_BIAS,  // [1, out]: of a linear layer or a norm
  TENSOR_NORM,  // [1, columns]
  TENSOR_EMBEDDING,  // [vocabulary, hidden]: the embedding in full, and the head where both are one
  TENSOR_TOKENS,  // [tokens, hidden]: the embedding's rows of some tokens
  TENSOR_EMBEDDING_A,  // [vocabulary, rank]: LoRA's A of the embedding, a row for each token
  TENSOR_EMBEDDING_B,  // [hidden, rank]
} TensorRole;

typedef struct AdapterTensor {
  const char *module;  // Hugging Face's path: "model.layers.0.self_attn.q_proj"
  TensorRole role;
  Parameter *parameter;
} AdapterTensor;

// A tensor that is trained in full, and what stands in its place while it is off.
typedef struct Trained {
  const char *module;
  TensorRole role;
  Parameter parameter;
  Linear *linear;  // whose weight or bias it is; or
  NormSettings *norm;
  Linear *tied;  // the head that has the same weight; NULL: none
  Matrix base;  // a weight's; else
  const float *base_vector;
} Trained;

// A layer whose weight is another while the adapter is on: W without what its factors began with.
typedef struct AdapterResidual {
  Matrix base, own;  // the layer's, kept for when the adapter is off, and the one that stands in its place
  void *storage;  // the host's memory of `own`; NULL: it is the device's
  bool is_taken;
} AdapterResidual;

typedef struct Adapter {
  Model *model;
  LowRank *pairs;  // [count]
  Linear **linears;  // [count]: where each pair sits
  int count;
  AdapterTensor *tensors;  // [tensor_count]: everything that is trained, in the order of the flat buffers
  int tensor_count, tensor_capacity;
  Trained *trained;  // [trained_count]
  int trained_count;
  bool is_full;  // full fine-tuning
  TokenRows tokens;  // rows.rows 0: none
  void *token_numbers;  // the device's
  int64_t rank;  // of the pairs that no pattern names, as recorded in files; 0 when there is none such
  double alpha, dropout;
  bool rslora, dora;
  PatternValue *rank_patterns, *alpha_patterns;  // as recorded in files
  int rank_pattern_count, alpha_pattern_count;
  LayerChoice layers;
  float *data, *gradient;  // [size] on the device; gradient is NULL unless trainable
  int64_t size;
  float *norms;  // of a DoRA adapter, on the device: squares of each pair's outputs, and, where it is not trained, the norms after them
  float *initial;  // [size] on the host: the first values, where the base was changed by them; NULL: it was not
  AdapterResidual *residuals;  // [count], or NULL
  int64_t residual_bytes;  // of their own matrices
  Arena arena;
} Adapter;

// A new adapter, which begins as settings->start says (start.c). Fills the model's slots.
// STATUS_USAGE when nothing matches the targets, a pattern or a layer: the message lists the names that there are.
Status adapter_create(Adapter **out, Model *model, const AdapterSettings *settings);

// One or more adapters read into the slots; several are stacked along the rank. scales multiply each one's effect
// (NULL: 1). A path is a PEFT folder or a GGUF adapter. trainable: gradients are allocated (one adapter only), and the file's dropout holds; else
// nothing is dropped. A DoRA adapter is no sum: it
// comes alone and with scale 1, or STATUS_USAGE.
// STATUS_BAD_INPUT names file and tensor when it was made for another model or needs what is not built.
Status adapter_open(Adapter **out, Model *model, const char *const *paths, const double *scales, int path_count, bool trainable);
void adapter_close(Adapter *adapter);  // empties the slots
// *rows: those that a vocabulary must have for a PEFT folder's embeddings and tokens (ModelOptions.vocabulary); 0: it asks for none.
Status adapter_vocabulary(int64_t *rows, const char *path);

// Off: the base's logits, bit for bit, also where PiSSA or OLoRA have changed it. No tape may be under way.
void adapter_set_enabled(Adapter *adapter, bool enabled);
// Computes with the values of another buffer [size] of the device, laid out like the adapter's own, until it is told otherwise. Returns the
// one before. Files are written of these values, too. What PiSSA or OLoRA have left of the base stays in its place.
float *adapter_set_data(Adapter *adapter, float *data);
void adapter_set_dropout(Adapter *adapter, double dropout);  // 0 for evaluation

// Writes FOLDER/adapter_config.json and adapter_model.safetensors as PEFT does; names in Hugging Face's order of rows. What began by PiSSA or
// OLoRA is written as an adapter of twice the rank, B A - B0 A0, which belongs to the base as it is.
Status adapter_save_peft(const Adapter *adapter, const char *folder, const char *base_model);
// Why there can be no GGUF adapter of it, as the end of a sentence; NULL: there can. What cannot go there is used by way of a merged GGUF.
const char *adapter_gguf_obstacle(const Adapter *adapter);
// Writes a GGUF adapter that llama.cpp applies to a GGUF of the same base. STATUS_USAGE when there is an obstacle.
Status adapter_save_gguf(const Adapter *adapter, const char *path);

#endif
