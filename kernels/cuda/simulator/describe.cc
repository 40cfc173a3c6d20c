// Names of functions and lines for messages.
#include "kernels/cuda/simulator/internal.h"

#include <dlfcn.h>

namespace simulator {

// By addr2line where there is one, as most symbols are hidden from the loader.
void describe_address(const void *code, char *text, size_t size) {
  Dl_info information = {};
  snprintf(text, size, "%p", code);
  if (!dladdr(code, &information) || !information.dli_fname) return;
  const char *base = static_cast<const char *>(information.dli_fbase);
  unsigned long offset = static_cast<unsigned long>(static_cast<const char *>(code) - base);
  if (information.dli_sname) snprintf(text, size, "%s", information.dli_sname);
  else snprintf(text, size, "%s+0x%lx", information.dli_fname, offset);
  char command[1024];
  snprintf(command, sizeof command, "addr2line -Cfpsie '%s' 0x%lx 2>/dev/null", information.dli_fname, offset);
  FILE *pipe = popen(command, "r");
  if (!pipe) return;
  // What was inlined comes first, then where it was.
  char line[512];
  for (size_t length = 0; fgets(line, sizeof line, pipe) && line[0] != '?' && length + 1 < size;) {
    line[strcspn(line, "\n")] = 0;
    int added = snprintf(text + length, size - length, "%s%s", length ? ", " : "", line + strspn(line, " "));
    length += static_cast<size_t>(added);
  }
  pclose(pipe);
}

}  // namespace simulator
