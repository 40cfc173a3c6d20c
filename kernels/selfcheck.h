// Every kernel of a table against its definition in plain C (kernels_scalar), on this machine: small inputs of random values, ordinary and odd
// shapes, every type of weights. What `lora doctor` runs; the tests (tests/kernels) compare far more shapes, and with float64.
#ifndef KERNELS_SELFCHECK_H
#define KERNELS_SELFCHECK_H

#include "kernels/backend.h"

typedef struct KernelCheck {
  const char *kernel;  // its name in kernels/backend.h
  FloatType type;  // of activations
  int cases;  // 0: the kernel has no activations, and the type is not float32
  bool is_ok;
  double error;  // the largest of max |y - reference| / max |reference|, relative to what is allowed to that output; infinite for NaN
  double tolerance;  // of outputs that are of no kind of their own: selfcheck_tolerance(type)
  char worst[96];  // the case that it is of
} KernelCheck;

// 2e-5 in float32; a few units of the last place in 16 bits, to which weights and what lies between products may be rounded as well.
double selfcheck_tolerance(FloatType type);
const char *selfcheck_name(int kernel);  // NULL past the last
// The type of 16 bits that the device has: of the CPU bfloat16 always.
FloatType selfcheck_short_type(Backend *backend);
// `reference`: of the CPU, with kernels_scalar. Fails where the device does; a difference is told in the check.
Status selfcheck_run(KernelCheck *check, int kernel, FloatType type, Backend *backend, Backend *reference);

#endif
