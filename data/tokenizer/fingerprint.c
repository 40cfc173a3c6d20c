// What a vocabulary depends on, as a hash: the metadata of a GGUF file, or the files of a folder that tell of its tokens.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "data/tokenizer/tokenizer.h"

static Status hash_gguf(char hex[65], const char *path) {
  Gguf gguf;
  TRY(gguf_open(&gguf, path));
  size_t length = gguf.map.size;
  for (int64_t i = 0; i < gguf.tensor_count; i++) {
    // A tensor in another file of a split model lies outside this mapping: far behind its start, or wrapped around before it.
    uintptr_t offset = (uintptr_t)gguf.tensors[i].data - (uintptr_t)gguf.map.data;
    if (gguf.tensors[i].data && offset < length) length = offset;
  }
  sha256_bytes(hex, gguf.map.data, length);
  gguf_close(&gguf);
  return STATUS_OK;
}

static Status hash_folder(char hex[65], const char *folder) {
  static const char *const files[] = {"tokenizer.json",          "tokenizer.model",    "tokenizer_config.json",
                                      "special_tokens_map.json", "added_tokens.json",  "config.json",
                                      "chat_template.jinja",     "chat_template.json", "generation_config.json"};
  Buffer all = {0};
  Status status = STATUS_OK;
  for (size_t i = 0; i < sizeof files / sizeof *files && status == STATUS_OK; i++) {
    char *path = path_join(folder, files[i]), one[65] = "";
    if (file_exists(path)) status = sha256_file(one, path);
    buffer_format(&all, "%s %s\n", files[i], one);
    free(path);
  }
  sha256_bytes(hex, all.data, all.length);
  buffer_release(&all);
  return status;
}

Status tokenizer_fingerprint(char hex[65], const char *model) {
  return directory_exists(model) ? hash_folder(hex, model) : hash_gguf(hex, model);
}
