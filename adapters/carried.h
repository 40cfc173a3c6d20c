// GGUF keys that a Hugging Face folder has no file for (general.name, general.license, ...): carried in the __metadata__ of its
// model.safetensors as "gguf.KEY", so that a GGUF made from the folder has them again.
#ifndef ADAPTERS_CARRIED_H
#define ADAPTERS_CARRIED_H

#include "formats/gguf.h"
#include "formats/safetensors.h"

// A value is its text for a string, and "#TYPE:ELEMENT:COUNT:HEX" (numbers of GgufType, the little-endian bytes) for all others.
void carried_to_metadata(SafetensorsWriter *writer, const Gguf *gguf, const char *architecture);
bool carried_has(const Safetensors *folder, const char *key);
// STATUS_BAD_INPUT when a value is not of that form.
Status carried_to_gguf(GgufWriter *writer, const Safetensors *folder, const char *architecture);

#endif
