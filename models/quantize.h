// Linear layers and experts in plain floats that become NF4 or Q8_0 when the model is opened; blocks that are quantised stay as they are.
#ifndef MODELS_QUANTIZE_H
#define MODELS_QUANTIZE_H

#include "models/model.h"

// What a matrix of the model becomes by the model's options; its own type where it stays.
BlockType quantize_type(const Matrix *weight, ModelOptions options);
int64_t quantize_bytes(const Matrix *weight, BlockType type);  // of storage for it; 0 where that is its own type
// `weight` becomes that type, with its values in storage. Pages of the file that it was read from are given back.
void quantize_matrix(Matrix *weight, BlockType type, void *storage);
// All of the model's. The ranks of a machine share one copy, and the work.
Status quantize_model(Model *model);

#endif
