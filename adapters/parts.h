// Shared by the files of this folder: building an adapter pair by pair, and the order of B's rows in files.
#ifndef ADAPTERS_PARTS_H
#define ADAPTERS_PARTS_H

#include "adapters/adapter.h"

Adapter *adapter_new(Model *model);
void adapter_add_pair(Adapter *adapter, Linear *linear, int64_t rank, double scale);
void adapter_add_tensor(Adapter *adapter, const char *module, TensorRole role, Parameter *parameter);
Status adapter_allocate(Adapter *adapter, bool trainable);  // after the last tensor: places all of them in the flat buffers
// For a DoRA adapter whose values are in place: squares of all rows, and the norms. is_new: the magnitudes become these norms.
// is_fixed: the pairs keep the norms, for they do not change. magnitude.c.
Status adapter_open_magnitudes(Adapter *adapter, bool is_new, bool is_fixed);
double adapter_scale(double alpha, int64_t rank, bool rslora);
PatternValue *patterns_copy(Arena *arena, const PatternValue *patterns, int count);
LayerChoice layers_copy(Arena *arena, const LayerChoice *choice);

// One pair as a file gives it, on the host; B's rows in the model's own order.
typedef struct PairSource {
  Linear *linear;
  float *a, *b;  // [rank, in], [out, rank]; of the embedding [vocabulary, rank], [hidden, rank]
  float *magnitude;  // [out] of DoRA, or NULL
  int64_t rank;
  double scale;
} PairSource;

// A tensor of a module that is trained in full, as a file gives it: in Hugging Face's order.
typedef struct TrainedSource {
  const char *module;
  bool is_bias;
  float *values;  // [count]
  int64_t count;
} TrainedSource;
// Pair `index` as files have it, in memory of its own: of twice the rank where the adapter has changed its base (file_pair.c).
PairSource adapter_file_pair(const Adapter *adapter, int index);
void adapter_file_pair_release(PairSource *pair);
int64_t pair_a_count(const PairSource *pair, const Model *model);
int64_t pair_b_count(const PairSource *pair, const Model *model);
int64_t adapter_file_rank(const Adapter *adapter, int index);

typedef struct AdapterSource {
  PairSource *pairs;
  int count, capacity;
  TrainedSource *trained;
  int trained_count, trained_capacity;
  int32_t *tokens;  // [token_count]
  float *token_rows;  // [token_count, hidden]
  int token_count;
  double alpha, dropout;
  int64_t rank;
  bool rslora, dora;
  PatternValue *rank_patterns, *alpha_patterns;
  int rank_pattern_count, alpha_pattern_count;
  LayerChoice layers;
  Arena arena;  // holds all of it
} AdapterSource;

// Of an adapter_config.json: r, lora_alpha, use_rslora, rank_pattern, alpha_pattern, layers_to_transform, layers_pattern. peft_patterns.c.
struct json_t;
Status peft_read_patterns(AdapterSource *source, const struct json_t *config, const char *path);  // the last four
void peft_write_patterns(struct json_t *config, const Adapter *adapter);

Status peft_read(AdapterSource *source, const Model *model, const char *folder);
Status gguf_adapter_read(AdapterSource *source, const Model *model, const char *path);

// Where row `row` of the model's matrix stands in a file of a format. gguf: the file is a GGUF, else Hugging Face's order.
int64_t linear_file_row(int64_t row, const Linear *linear, const Model *model, bool gguf);
// out[columns, rows] = in[rows, columns] turned over: LoRA's A of the embedding, between our order and PEFT's.
void transpose(float *out, const float *in, int64_t rows, int64_t columns);
// Copies rows of B between the model's order and a format's.
void b_rows_from_file(float *out, const float *in, const Linear *linear, const Model *model, int64_t rank, bool gguf);
void b_rows_to_file(float *out, const float *in, const Linear *linear, const Model *model, int64_t rank, bool gguf);

// Before a tensor's name: the GGUF key of the values that a folder had, where the norm's offset that GGUF adds takes bits from them.
#define MERGE_EXACT_KEY "lora.exact."

// The type in which a weight is written where nobody asks for another: its own, or floats where it is in a form of quantised folders
// (NF4, codes in groups), which no file of ours holds. merge.c.
BlockType merge_base_type(const Model *model, const Matrix *weight);
// Whether the head of a tied model is no longer its embedding, so that both are written. merge.c.
bool merge_unties(const Model *model);
// STATUS_USAGE when `path` is the model itself, whose mapped bytes must stay. merge.c.
Status merge_check_output(const Model *model, const char *path);

#endif
