// What the files of the decoder share.
#ifndef MODELS_PARTS_H
#define MODELS_PARTS_H

#include "models/model.h"

// Frequencies of rotary positions: one array for all rows, or one for each document where they depend on its length.
typedef struct Turns {
  Tensor *frequencies;  // [count, rotary / 2]
  const RopeRows *rows;
  int64_t count;
} Turns;

// Where tokens stand in their documents.
typedef struct Positions {
  Tensor *input;  // int32 [n, 1]
  const AttentionSpan *spans;  // whose query_begin .. query_end are the rows
  int64_t span_count, rows;
  int64_t length;  // of every document, for RoPE; 0: the span's own keys
  Turns turns, local_turns;  // by the model's RoPE, and by that of windowed layers where they have their own
  const RepeatedRows *repeated;  // the order in which spans count keys; NULL: that of the tokens
} Positions;

// The rows that a layer's queries, output projection and MLP are computed for.
typedef struct Queries {
  Tensor *rows;  // int32 [n, 1]: numbers of the tokens; NULL: all tokens
  Positions positions;
  Tensor *ends;  // int32 [n, 1]; NULL for all tokens
  const AttentionSpan *spans;
  int64_t span_count;
} Queries;

// Gives embedding and head more rows, before anything is sent to a device. STATUS_USAGE where they are quantised.
Status model_grow_vocabulary(Model *model, int64_t rows);

void model_hash_linear(Buffer *bytes, const Linear *linear);  // appends what Model.hash is of

// h + linear(x), or h + norm(linear(x)) where the family has a norm there.
Tensor *add_to_stream(Tape *tape, const Linear *linear, Tensor *x, const NormSettings *post_norm, Tensor *h);

// `keys`: of all tokens.
// paged and pages: of generation; else NULL.
Tensor *attention_block(Tape *tape, const Model *model, const Layer *layer, const PagedRowsInput *paged, const Pages *pages, Tensor *h,
                        const Positions *keys, const Queries *queries);
Tensor *mlp_block(Tape *tape, const Model *model, const Layer *layer, Tensor *h);

#endif
