// `lora doctor --tune`: which way of multiplying is the fastest on a device for how many rows, measured and kept (kernels/cuda_tuning.h).
#ifndef CLI_DOCTOR_TUNE_H
#define CLI_DOCTOR_TUNE_H

#include "cli/options.h"

typedef struct DoctorTune {
  int64_t rows, columns;  // of the matrices
  int64_t most;  // rows of x
} DoctorTune;

Status doctor_tune(const DoctorTune *tune, const Arguments *arguments);

#endif
