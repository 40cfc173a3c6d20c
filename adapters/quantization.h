// The named types of `--type`: which block type each tensor of a model gets. A mix gives more bits to the tensors that suffer most
// from few, as llama.cpp's quantize does, so that files of one name have one size (src/llama-quant.cpp; the numbers of
// general.file_type are llama.h's enum llama_ftype).
#ifndef ADAPTERS_QUANTIZATION_H
#define ADAPTERS_QUANTIZATION_H

#include "core/memory.h"
#include "core/status.h"
#include "formats/block.h"

typedef struct Quantization {
  const char *name;  // "q4_k_m"
  BlockType type;  // of what no rule is about
  int file_type;  // general.file_type
} Quantization;

// STATUS_USAGE names what there is. `same`, every tensor in the type that the base has it in, is NULL.
Status quantization_parse(const Quantization **out, const char *name);
char *quantization_names(void);  // "q2_k, q3_k_s, ..., same"; the caller frees it

// What the rules ask about a model, all tensors of which have been noted.
typedef struct QuantizationModel {
  int64_t layers, heads, kv_heads;
  bool has_importance;
  // private
  bool has_output;
  int64_t experts;
  bool *has_attention_v;  // [layers]
  Arena arena;
} QuantizationModel;

QuantizationModel quantization_model_new(int64_t layers, int64_t heads, int64_t kv_heads, bool has_importance);
void quantization_model_note(QuantizationModel *model, const char *tensor, const int64_t shape[4]);
void quantization_model_release(QuantizationModel *model);

// The type of a matrix of the GGUF name `tensor`, "blk.3.ffn_down.weight", whose rows have `columns` columns. Where the type's blocks do
// not divide them, the one that llama.cpp takes instead: of 32 values, or F16.
BlockType quantization_type(const Quantization *quantization, const QuantizationModel *model, const char *tensor, int64_t columns);
// The type of a matrix of type `base` that is written anew, with --type same: its own, or one of no fewer bits where we do not write it.
BlockType quantization_same_type(BlockType base);

#endif
