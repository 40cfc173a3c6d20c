// Linear layers and experts in plain floats that become NF4 or Q8_0 when the model is opened; blocks that are quantised stay as they are.
#ifndef MODELS_QUANTIZE_H
#define MODELS_QUANTIZE_H

#include "models/model.h"

// What a matrix of the model becomes by the model's options; its own type where it stays.
BlockType quantize_type(const Matrix *weight, ModelOptions options);
// Storage for those of `count` matrices that become another type.
int64_t quantize_bytes(Matrix *const *matrices, int64_t count, ModelOptions options);
// They get that type, with their values in storage. Pages of the file that they were read from are given back.
void quantize_matrices(Matrix *const *matrices, int64_t count, void *storage, ModelOptions options, ThreadPool *pool);
// All of the model's. The ranks of a machine share one copy, and the work.
Status quantize_model(Model *model);

#endif
