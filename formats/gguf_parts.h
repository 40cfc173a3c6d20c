// What reading one GGUF file (formats/gguf.c) and the files of a split one (formats/gguf_shards.c) share.
#ifndef FORMATS_GGUF_PARTS_H
#define FORMATS_GGUF_PARTS_H

#include "formats/gguf.h"

enum { GGUF_MAXIMUM_TENSORS = 1 << 17 };  // real files have some hundreds

// Keys, tensors and their places, without what they say about each other. `gguf` has its path only; on failure it is as far as it
// came, for gguf_close.
Status gguf_parse_header(Gguf *gguf, const uint8_t *data, size_t size);

// Where the keys split.* say that the file is the first of several: adds the tensors of the others. Takes the keys split.* away.
Status gguf_add_shards(Gguf *gguf);

#endif
