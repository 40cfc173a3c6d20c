// Reference data of a tiny model: a safetensors file of named tensors.
#ifndef TESTS_SUPPORT_GOLDEN_H
#define TESTS_SUPPORT_GOLDEN_H

#include "formats/safetensors.h"
#include "models/model.h"
#include "tests/support/test.h"

const SafetensorsTensor *golden_tensor(const Safetensors *golden, const char *name);  // fails the test when it is missing
float *golden_floats(const Safetensors *golden, const char *name);  // a copy; free it
int32_t *golden_ids(const Safetensors *golden, const char *name);  // I64 to int32; free it

// Runs the decoder over `documents` rows of `length` tokens each (as separate documents) and copies the logits, [documents * length, vocabulary].
float *golden_logits(const Model *model, const int32_t *ids, int64_t documents, int64_t length);

#endif
