// A model whose layers no rank holds whole (recipe key shard_base). The frozen matrices of a layer, one after another in the form in which
// kernels read them, are its image; each of K ranks keeps one of K equal parts of it. Two buffers have room for a whole image, one for even
// layers and one for odd, and the matrices point there. Whoever runs layers says which one comes next: its image is gathered from all ranks
// while the one before computes. Norms, biases, routers and the head are whole on every rank, and the embedding,
// which a device with a memory of its own does without if it is neither tied nor trained: its rows are looked up by the host.
// On the CPU the ranks of one machine read the same mapped file, or share one copy of what was quantised: nothing is divided there unless
// there are several machines.
#ifndef MODELS_SHARDS_H
#define MODELS_SHARDS_H

#include "models/model.h"

bool shards_are_wanted(const Model *model);
// In place of quantising and hashing the whole of a model whose weights are loaded: does both layer by layer, and keeps this rank's parts.
Status shards_open(Model *model);
void shards_close(Model *model);

// Lets each pass of a tape gather what it is about to need. Nothing where layers are whole.
void shards_watch(const Model *model, Tape *tape);
// All ranks have to pass layers as often as the others: after a pass back, which may end above the first layer, the rest of its gathers;
// and those of passes in which this rank has nothing to compute.
void shards_finish_backward(const Model *model);
void shards_idle_forward(const Model *model);
void shards_idle_backward(const Model *model);
// Until the next call a layer's matrix can be read: for those who read weights outside of passes, on all ranks alike.
void shards_hold(const Model *model, const Linear *linear);

int64_t shards_bytes(const Model *model);  // of this rank: its parts and the two buffers
// That the others send this rank: for each pass forward and back, and for each forward pass alone.
int64_t shards_step_bytes(const Model *model);
int64_t shards_forward_bytes(const Model *model);

#endif
