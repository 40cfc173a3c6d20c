// Runs a fuzz target over every file of a corpus folder, and over each file cut short and with bytes
// flipped, where libFuzzer is not linked. A sanitizer build makes any memory error fail the test.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VARIANTS = 200 };

static void run_exact(const char *bytes, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);  // of the exact size, so that a sanitizer sees the end
  if (size) memcpy(copy, bytes, size);
  LLVMFuzzerTestOneInput(copy, size);
  free(copy);
}

int main(int argc, char **argv) {
  DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
  if (!folder) {
    fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
    return 2;
  }
  int files = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    char *path = path_join(argv[1], entry->d_name);
    Buffer buffer = {0};
    FileMap map;
    if (file_map(&map, path) != STATUS_OK) return 1;
    buffer_append(&buffer, map.data, map.size);
    file_unmap(&map);
    run_exact(buffer.data, buffer.length);
    uint32_t state = 12345;
    for (int i = 0; i < VARIANTS && buffer.length; i++) {
      state = state * 1664525u + 1013904223u;
      run_exact(buffer.data, state % buffer.length);
      size_t at = (state >> 8) % buffer.length;
      char old = buffer.data[at];
      buffer.data[at] = (char)(old ^ (1 << (state >> 29)));
      run_exact(buffer.data, buffer.length);
      buffer.data[at] = old;
    }
    buffer_release(&buffer);
    free(path);
    files++;
  }
  closedir(folder);
  printf("%d corpus files, %d variants of each: no crash\n", files, 2 * VARIANTS);
  return files ? 0 : 1;
}
