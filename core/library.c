#include "core/library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/memory.h"

// The path of the library beside the program, or NULL when there is none; the caller frees it.
static char *beside_program(const char *file) {
  char program[4096];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length <= 0) return NULL;
  program[length] = 0;
  *strrchr(program, '/') = 0;
  const char *const folders[] = {"", "/../lib/lora"};
  for (int i = 0; i < 2; i++) {
    char *path = memory_format("%s%s/%s", program, folders[i], file);
    if (file_exists(path)) return path;
    free(path);
  }
  return NULL;
}

static Status library_open(Library *library) {
  if (library->handle) return STATUS_OK;
  const char *wanted = getenv(library->variable);
  char *own = wanted && *wanted ? memory_copy_string(wanted) : beside_program(library->file);
  library->handle = dlopen(own ? own : library->file, RTLD_NOW | RTLD_LOCAL);
  free(own);
  if (library->handle) return STATUS_OK;
  return status_fail(STATUS_USAGE, "%s cannot be opened (%s): %s", library->what, dlerror(), library->remedy);
}

Status library_find(void *function, Library *library, const char *name) {
  TRY(library_open(library));
  void *symbol = dlsym(library->handle, name);
  if (!symbol)
    return status_fail(STATUS_USAGE, "%s has no %s: it belongs to another version of this program; build again", library->what, name);
  memcpy(function, &symbol, sizeof symbol);  // C has no conversion from an object's pointer to a function's
  return STATUS_OK;
}
