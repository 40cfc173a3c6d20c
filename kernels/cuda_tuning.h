// The measured choices of CUDA devices, Backend.tuning, as `lora doctor --tune` keeps them for the user: {"NAME OF THE DEVICE": {"fused_rows": 64,
// "gemv_rows": 4, "forward_panel": 0}} in lora.c/cuda-tuning.json in $XDG_CACHE_HOME or ~/.cache. They are read when a device is opened.
#ifndef KERNELS_CUDA_TUNING_H
#define KERNELS_CUDA_TUNING_H

#include "kernels/backend.h"

char *cuda_tuning_path(void);  // the caller frees it; NULL where the user has no home
// Sets what the file has for a device of this name; a file that is not there, or cannot be read, changes nothing.
void cuda_tuning_read(Backend *backend, const char *device);
Status cuda_tuning_write(const Backend *backend, const char *device);  // its rows; what the file has of other devices stays

#endif
