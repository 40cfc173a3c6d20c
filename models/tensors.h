// Tensors of a model file by name, whichever format it has: checked, and never copied unless they lie unaligned.
#ifndef MODELS_TENSORS_H
#define MODELS_TENSORS_H

#include "models/model.h"

// "model.layers.N." in a folder or "blk.N." in GGUF before either name, and `suffix` behind it; a string of the model's arena.
const char *tensor_layer_name(Model *model, int layer, const char *name, const char *gguf, const char *suffix);

bool tensor_is_there(const Model *model, const char *name);
// STATUS_BAD_INPUT names file and tensor: missing, of another shape, of a type that is not built.
Status tensor_matrix(Matrix *matrix, Model *model, const char *name, int64_t rows, int64_t columns);
// `count` matrices that lie one after another in one tensor of three dimensions.
Status tensor_matrices(Matrix *matrices, Model *model, const char *name, int64_t count, int64_t rows, int64_t columns);
// Norms and biases: always float32.
Status tensor_vector(const float **vector, Model *model, const char *name, int64_t length);
// The rows of a matrix whose number the tensor alone knows.
Status tensor_rows(int64_t *rows, Model *model, const char *name);

#endif
