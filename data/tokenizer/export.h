// A vocabulary from one kind of model file to the other: tokenizer.json (or tokenizer.model) and the files beside it, and the tokenizer.*
// keys of GGUF.
#ifndef DATA_TOKENIZER_EXPORT_H
#define DATA_TOKENIZER_EXPORT_H

#include "core/status.h"
#include "formats/gguf.h"

// Puts the tokenizer.* keys for the tokenizer of a Hugging Face folder; ids from its size up to `rows`, the embedding's, become
// unused tokens. STATUS_BAD_INPUT, with the remedy, when GGUF has no name for how it cuts words or merges. A folder without
// tokenizer.json and tokenizer.model gives a file that says so (tokenizer.ggml.model = "no_vocab"). `chat_template`: in place of the
// folder's own; NULL: that.
Status tokenizer_put_gguf(GgufWriter *writer, const char *folder, int64_t rows, const char *chat_template);

// Writes tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json into a folder from the
// tokenizer.* keys of a GGUF.
Status tokenizer_write_folder(const char *folder, const Gguf *gguf, int64_t context_length);

// The tokenizer.* keys that these two carry between them: all others have no place in a folder's tokenizer files.
bool tokenizer_key_is_exported(const char *key);

#endif
