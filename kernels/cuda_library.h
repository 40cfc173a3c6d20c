// The CUDA backend as the program sees it: a shared object that is opened when a device is asked for, so that the program itself needs no
// CUDA library and starts where there is none. It is sought as the environment variable LORA_CUDA_LIBRARY says, else as liblora_cuda.so
// beside the program, in ../lib/lora of it, and where the system's loader looks.
#ifndef KERNELS_CUDA_LIBRARY_H
#define KERNELS_CUDA_LIBRARY_H

#include "core/memory.h"
#include "kernels/backend.h"

// Fills `backend`, which has its pool, for the device that "cuda" (the first) or "cuda:N" names. STATUS_USAGE when there is no such
// device, or no library: the message says which, and what to do.
Status cuda_library_open(Backend *backend, const char *device);

// What the shared object exports, and what it is called there; its functions of core/ are the program's.
typedef Status CudaBackendOpen(Backend *backend, int number);
#define CUDA_BACKEND_OPEN "cuda_backend_open"
// The number of devices; names and memory of each in `text`, a line a device. STATUS_FAILED with the driver's words.
typedef Status CudaDescribe(Buffer *text, int *count);
#define CUDA_DESCRIBE "cuda_describe"

// The same by the library that is found; STATUS_USAGE when there is none.
Status cuda_library_describe(Buffer *text, int *count);

#endif
