// A PyTorch checkpoint is a zip archive, a tar archive of old, or a bare pickle: 0x80 and its protocol, 2 to 5. TensorRT engines
// begin with "ptrt" or "ftrt"; ONNX files are Protocol Buffers, which have no magic number, so that only their names tell.
#include "formats/foreign.h"

#include <stdbool.h>
#include <string.h>

#include "core/text.h"

static bool name_ends(const char *path, const char *const *endings) {
  for (int i = 0; endings[i]; i++)
    if (text_ends_with(path, endings[i])) return true;
  return false;
}

static bool begins(const uint8_t *data, size_t size, const char *magic) {
  return size >= strlen(magic) && memcmp(data, magic, strlen(magic)) == 0;
}

Status foreign_refuse(const char *path, const uint8_t *data, size_t size) {
  static const char *const engines[] = {".onnx", ".onnx_data", ".engine", ".plan", ".trt", NULL};
  static const char *const pickles[] = {".bin", ".bin.index.json", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", NULL};
  if (name_ends(path, engines) || begins(data, size, "ptrt") || begins(data, size, "ftrt"))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: ONNX and TensorRT files are not read; give the safetensors or GGUF model that it was made from", path);
  bool is_zip = begins(data, size, "PK\3\4"), is_pickle = size >= 2 && data[0] == 0x80 && data[1] >= 2 && data[1] <= 5;
  if (is_zip || is_pickle || name_ends(path, pickles))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: a PyTorch checkpoint (%s), which can run code when it is read and is refused; convert it to safetensors "
                       "(transformers: model.save_pretrained(FOLDER, safe_serialization=True)) and give FOLDER",
                       path, is_zip ? "a zip archive" : "a pickle");
  return STATUS_OK;
}
