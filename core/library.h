// Parts of the program that are shared objects of their own, opened when they are needed: so the program needs none of their libraries to
// start. They use the program's core/.
#ifndef CORE_LIBRARY_H
#define CORE_LIBRARY_H

#include <stddef.h>

#include "core/status.h"

typedef struct Library {
  const char *file;  // "liblora_cuda.so"
  const char *variable;  // the environment variable that may name another
  const char *what;  // "the CUDA backend"
  const char *remedy;  // where it cannot be opened: what to do
  void *handle;  // NULL until it is opened; never closed, for threads of a driver may outlive what was opened
} Library;

// Finds a function of the library: sought as the variable says, else beside the program, in ../lib/lora of it, and where the system's loader
// looks. `function` points to a pointer of its type. STATUS_USAGE: no such library, or one of another version.
Status library_find(void *function, Library *library, const char *name);

#endif
