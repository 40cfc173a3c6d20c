// What reading one file (formats/safetensors.c) and reading shards (formats/safetensors_shards.c) share.
#ifndef FORMATS_SAFETENSORS_PARTS_H
#define FORMATS_SAFETENSORS_PARTS_H

#include "formats/json_scan.h"
#include "formats/safetensors.h"

#define SAFETENSORS_DAMAGED "the file is damaged or cut short: fetch it again"

typedef struct SafetensorsParse {
  Safetensors *out;
  int64_t capacity;  // of out->tensors
  // of the present file
  const char *path;
  int file;
  int64_t first;  // its first tensor
  const uint8_t *data;
  size_t data_size;
} SafetensorsParse;

// Adds one file's tensors; on failure `out` is as far as it came, for safetensors_close.
Status safetensors_parse_file(SafetensorsParse *parse, const char *path, const uint8_t *data, size_t size);

// A JSON string's content, to be freed; NULL when the text is no string or longer than `limit`.
char *safetensors_json_string(JsonText text, size_t limit);

#endif
