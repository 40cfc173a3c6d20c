// The second half of opening a GGUF: what its keys say must agree with its tensors and its vocabulary.
#ifndef FORMATS_GGUF_CHECK_H
#define FORMATS_GGUF_CHECK_H

#include "formats/gguf.h"

// `gguf` has its values and tensors and their indices. STATUS_BAD_INPUT names file and key or tensor.
Status gguf_check_contents(const Gguf *gguf);

#endif
