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
// The name that the driver has for a device: "cuda" or "cuda:N".
Status cuda_library_name(char **name, const char *device);
// Where that library is: its path. STATUS_USAGE when there is none.
Status cuda_library_path(char **path);
// The runtime's and the driver's versions, 13000 for 13.0, in the order of the arguments; 0: not known.
typedef void CudaVersions(int *runtime, int *driver);
#define CUDA_VERSIONS "cuda_versions"
Status cuda_library_versions(int *runtime, int *driver);

// What Backend.tuning of a CUDA device holds.
enum {
  TUNING_FUSED_ROWS,  // products of at most so many rows dequantise within the product
  TUNING_GEMV_ROWS,  // products of at most so many rows multiply in float32, row by row
  TUNING_FORWARD_PANEL,  // bytes of dequantised weights that a product has at a time; 0: what suits the device
  TUNING_BACKWARD_PANEL,  // and of grouped experts, either way
  TUNING_OWN_PRODUCTS,  // 1: never cuBLASLt
  TUNING_GROUPED_PAIRS,  // experts of at least so many pairs (token, expert) go through grouped products; 0: what suits their number
  TUNING_PIECE_BYTES,  // of rows that these have at a time; 0: what suits the device
  TUNING_COUNT
};

#endif
