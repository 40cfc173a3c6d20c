// The importance matrix of a model over a text: for each linear layer the sum over all tokens of its input's squares, by column. The text is
// cut into chunks as for perplexity; all tokens of a chunk count. llama.cpp's imatrix tool collects the same.
#ifndef EVAL_IMPORTANCE_H
#define EVAL_IMPORTANCE_H

#include "formats/imatrix.h"
#include "models/model.h"

typedef struct Importance {
  ImatrixEntry *
      entries;  // one for each of the model's linear layers and kinds of routed experts, by its name in GGUF; the output layer is left out, as there
  int64_t count;
  int64_t chunks;  // that were run
  Arena arena;
} Importance;

// max_chunks: at most; 0: all whole chunks. `bos` replaces each chunk's first token; -1: nothing. Shows progress.
// STATUS_USAGE when there is no whole chunk, STATUS_BAD_INPUT for an id that the model does not have, STATUS_FAILED when activations
// are no numbers. Release it in any case.
Status importance_measure(Importance *out, const Model *model, const int32_t *ids, int64_t count, int64_t context, int64_t max_chunks,
                          int32_t bos);
void importance_release(Importance *importance);

#endif
