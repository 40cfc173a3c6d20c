// A case of the self-check as one of its two sides sees it: the backend that is checked, or the reference. A case is a function that draws its
// inputs, calls the kernel and names its outputs; it runs once for each side with the same random numbers.
#ifndef KERNELS_SELFCHECK_SIDE_H
#define KERNELS_SELFCHECK_SIDE_H

#include "core/memory.h"
#include "core/rng.h"
#include "kernels/backend.h"

enum { SIDE_BYTES = 16 << 20, SIDE_OUTPUTS = 8, SIDE_MATRICES = 64 };

typedef enum OutputKind { OUTPUT_FLOATS, OUTPUT_ACTIVATIONS, OUTPUT_INTEGERS } OutputKind;

typedef struct SideOutput {
  void *data;  // the device's
  int64_t count;
  OutputKind kind;
  double tolerance;  // 0: that of the type
} SideOutput;

typedef struct Side {
  Backend *backend;
  const Kernels *kernels;
  FloatType type;  // of activations as the kernel gets them: the reference's are float32
  FloatType rounding;  // and of their values
  int index;  // of the case
  Rng rng;
  Arena arena;  // the host's
  char *block;  // the device's, SIDE_BYTES
  int64_t used;
  SideOutput outputs[SIDE_OUTPUTS];
  int output_count;
  Matrix sent[SIDE_MATRICES];
  int sent_count;
  Status status;  // the first failure
  char what[96];
} Side;

void *side_send(Side *side, const void *host, int64_t bytes);  // to the device
float *side_normals(Side *side, int64_t count, double deviation);  // the host's
float *side_floats(Side *side, int64_t count, double deviation);  // the device's
void *side_activations(Side *side, int64_t count, double deviation);  // the device's, of the side's type
Rows side_rows(Side *side, int64_t n, int64_t columns, double deviation);
int32_t *side_indices(Side *side, int64_t count, int64_t bound);  // the device's; 0, 7, 14, ... modulo `bound`, all distinct up to there
// What follows is read back and compared. It holds random values before; in every other case its address is odd.
void *side_output(Side *side, OutputKind kind, int64_t count, double tolerance);
Rows side_output_rows(Side *side, int64_t n, int64_t columns);
// Any type of formats/block.h, and two more: 4 and 8 bits in groups. False (and the side has failed) when the device has no memory for it.
enum { SIDE_GROUPED_4 = -1, SIDE_GROUPED_8 = -2 };
bool side_matrix(Side *side, Matrix *matrix, int type, int64_t rows, int64_t columns);

// A case: false when `index` is past the last.
typedef bool SelfcheckCase(Side *side);
typedef struct SelfcheckKernel {
  const char *name;
  SelfcheckCase *run;
  bool has_types;  // activations, which may be of 16 bits
} SelfcheckKernel;
extern const SelfcheckKernel selfcheck_kernels[];  // ends with a NULL name

#endif
