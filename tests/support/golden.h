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

// The mean loss over the labels (next tokens, -100: none) of such rows; its gradients are added to whatever is trained. `checkpointed`
// segments are recomputed.
double golden_train(const Model *model, const int32_t *ids, const int32_t *labels, int64_t documents, int64_t length, int checkpointed);

// The folders of reference models (tests/tools/make_families.py): those of the repository, of ../shared, and of the environment variable LORA_FAMILIES, a
// folder of folders. NULL-terminated; golden_families_free frees it.
char **golden_families(void);
void golden_families_free(char **families);

#endif
