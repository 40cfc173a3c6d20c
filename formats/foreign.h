// Files of models that are not read, and what to do with them instead.
#ifndef FORMATS_FOREIGN_H
#define FORMATS_FOREIGN_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

// STATUS_BAD_INPUT with the remedy for PyTorch's pickles (which can run code when they are read), ONNX and TensorRT files, by their first
// bytes and by how their names end; STATUS_OK for anything else. `size` 0: the name alone.
Status foreign_refuse(const char *path, const uint8_t *data, size_t size);

#endif
