// Merging: a model whose adapters have become part of its weights, W + scale * B A, as a GGUF file or a Hugging Face folder.
// One tensor at a time is in memory, in the type that it is written in.
#ifndef ADAPTERS_MERGE_H
#define ADAPTERS_MERGE_H

#include "adapters/adapter.h"

typedef struct MergeType {
  bool same;  // every tensor in the type that the base has it in
  BlockType type;  // else of all matrices
} MergeType;

typedef struct MergeOptions {
  MergeType type;
  const char *chat_template;  // written in place of the base's; NULL: the base's
} MergeOptions;

typedef struct MergeReport {
  int64_t tensors, adapted;
  int64_t bytes;  // of tensor data
  BlockType main_type;  // of most of the linear layers' weights
} MergeReport;

// "same", or the name of a type that can be written; STATUS_USAGE says which there are.
Status merge_type_parse(MergeType *out, const char *name);

// The type that a matrix of `columns` columns is written in. What a quantised type asks for does not hold for the vocabulary's
// matrices (`vocabulary`): they keep the base's quantised type, or become Q8_0. Where the base's own type cannot be written (the K
// types) an adapted matrix gets the one that llama.cpp puts in its place: Q4_K -> Q5_0, Q5_K -> Q5_1, Q6_K -> Q8_0.
BlockType merge_type_of(MergeType wanted, BlockType base, int64_t columns, bool adapted, bool vocabulary);

// W + scale * B A of a linear layer (W alone without an adapter), computed in float32 row by row, in parallel.
//   out [rows, columns] in blocks of `type`; rows in GGUF's order (gguf) or Hugging Face's
// A matrix that has no adapter and is in that type already keeps its bits. STATUS_FAILED when a value is too large for F16.
Status merge_matrix(void *out, BlockType type, const Linear *linear, const Model *model, bool gguf);

// Writes the model with the adapters in its slots as a GGUF file. From a GGUF base every metadata key is carried over byte for byte,
// but for general.file_type, and tensors stay in their order; from a folder all keys of the format are made, those of the tokenizer
// too. STATUS_USAGE when `path` is the base itself; STATUS_BAD_INPUT when the tokenizer has no name in GGUF.
Status merge_write_gguf(MergeReport *report, const Model *model, const char *path, MergeOptions options);

// Writes it as a Hugging Face folder (config.json, model.safetensors, generation_config.json, the tokenizer's files), seen whole or
// not at all. The type is F32, F16 or BF16; `same` of a GGUF base with quantised tensors is F16. A folder that is there already is
// replaced if it is empty or holds nothing but such files; else STATUS_USAGE.
Status merge_write_folder(MergeReport *report, const Model *model, const char *path, MergeOptions options);

#endif
