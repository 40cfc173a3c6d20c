#define _GNU_SOURCE  // dladdr
#include "kernels/cuda_library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "core/library.h"
#include "core/memory.h"
#include "kernels/cuda_tuning.h"

static Library library = {.file = "liblora_cuda.so",
                          .variable = "LORA_CUDA_LIBRARY",
                          .what = "the CUDA backend",
                          .remedy = "run scripts/build where the CUDA toolkit and the driver are installed, or use the device cpu"};

static Status device_number(int *out, const char *device) {
  char *end = NULL;
  const char *number = device[4] == ':' ? device + 5 : "0";
  long index = strtol(number, &end, 10);
  if ((device[4] && device[4] != ':') || end == number || *end || index < 0 || index > 1023)
    return status_fail(STATUS_USAGE, "device %s: no device is called that; use cpu, cuda or cuda:N", device);
  *out = (int)index;
  return STATUS_OK;
}

Status cuda_library_open(Backend *backend, const char *device) {
  int number = 0;
  TRY(device_number(&number, device));
  CudaBackendOpen *open_backend = NULL;
  TRY(status_context(library_find(&open_backend, &library, CUDA_BACKEND_OPEN), "device %s", device));
  TRY(status_context(open_backend(backend, number), "device %s", device));
  char *name;
  if (cuda_library_name(&name, device) == STATUS_OK) {
    cuda_tuning_read(backend, name);
    free(name);
  }
  return STATUS_OK;
}

// Its line of the description: "cuda:0: NAME, compute capability 8.9, ..."
Status cuda_library_name(char **name, const char *device) {
  int number = 0, count = 0;
  TRY(device_number(&number, device));
  Buffer text = {0};
  Status status = cuda_library_describe(&text, &count);
  const char *line = text.data;
  for (int i = 0; line && i < number; i++) line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL;
  const char *begin = line ? strstr(line, ": ") : NULL, *end = begin ? strstr(begin, ", compute capability") : NULL;
  if (status == STATUS_OK && !end) status = status_fail(STATUS_FAILED, "device %s has no name", device);
  if (status == STATUS_OK) *name = memory_format("%.*s", (int)(end - begin - 2), begin + 2);
  buffer_release(&text);
  return status;
}

Status cuda_library_path(char **path) {
  CudaDescribe *describe = NULL;
  Dl_info information;
  TRY(library_find(&describe, &library, CUDA_DESCRIBE));
  void *address;
  memcpy(&address, &describe, sizeof address);
  bool is_known = dladdr(address, &information) && information.dli_fname;
  *path = memory_copy_string(is_known ? information.dli_fname : library.file);
  return STATUS_OK;
}

Status cuda_library_versions(int *runtime, int *driver) {
  CudaVersions *versions = NULL;
  TRY(library_find(&versions, &library, CUDA_VERSIONS));
  versions(runtime, driver);
  return STATUS_OK;
}

Status cuda_library_describe(Buffer *text, int *count) {
  CudaDescribe *describe = NULL;
  TRY(library_find(&describe, &library, CUDA_DESCRIBE));
  return describe(text, count);
}
