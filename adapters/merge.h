// Merging: a model whose adapters have become part of its weights, W + scale * B A, as a GGUF file or a Hugging Face folder.
// One tensor at a time is in memory, in the type that it is written in.
#ifndef ADAPTERS_MERGE_H
#define ADAPTERS_MERGE_H

#include "adapters/adapter.h"
#include "adapters/quantization.h"
#include "formats/imatrix.h"

typedef struct MergeOptions {
  const Quantization *type;  // NULL: every tensor in the type that the base has it in
  const ImportanceMatrix *importance;  // what errors count by when blocks are quantised; NULL: all columns alike
  const char *chat_template;  // written in place of the base's; NULL: the base's
  const char *tokenizer;  // the folder of a tokenizer.json with other tokens than the base's; NULL: the base's
} MergeOptions;

typedef struct MergeReport {
  int64_t tensors, adapted;
  int64_t bytes;  // of tensor data
  int64_t base_bytes, weights;  // of the same tensors: their data in the base, their elements
  int64_t without_importance;  // quantised matrices that the importance matrix does not know, where one is given
  BlockType main_type;  // of most of the linear layers' weights
} MergeReport;

// W + scale * B A of a linear layer (W alone without an adapter), computed in float32 row by row, in parallel.
//   out [rows, columns] in blocks of `type`; rows in GGUF's order (gguf) or Hugging Face's; importance [columns] or NULL
// A matrix that has no adapter and is in that type already keeps its bits. STATUS_FAILED when a value is too
// large for the type: past the largest binary16, which also is what scales of blocks are.
Status merge_matrix(void *out, BlockType type, const float *importance, const Linear *linear, const Model *model, bool gguf);

// Writes the model with the adapters in its slots as a GGUF file. From a GGUF base every metadata key is carried over byte for byte,
// but for general.file_type and general.quantization_version, and tensors stay in their order; from a folder all keys of the format are made, those of the tokenizer
// too. STATUS_USAGE when `path` is the base itself; STATUS_BAD_INPUT when the tokenizer has no name in GGUF.
Status merge_write_gguf(MergeReport *report, const Model *model, const char *path, MergeOptions options);

// Writes it as a Hugging Face folder (config.json, model.safetensors, generation_config.json, the tokenizer's files), seen whole or
// not at all. The type is F32, F16 or BF16; `same` of a GGUF base with quantised tensors is F16. A folder that is there already is
// replaced if it is empty or holds nothing but such files; else STATUS_USAGE.
Status merge_write_folder(MergeReport *report, const Model *model, const char *path, MergeOptions options);

// Writes the same files into a folder that may hold others: what full fine-tuning leaves, and each of its checkpoints. Every file appears
// whole; those of an earlier call are replaced. The model may be on a device if all of it is trained.
Status merge_write_files(const Model *model, const char *folder, const char *chat_template);

#endif
