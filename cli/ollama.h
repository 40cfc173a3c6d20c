// A Modelfile, by which Ollama runs a base model with an adapter: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
#ifndef CLI_OLLAMA_H
#define CLI_OLLAMA_H

#include "data/template/chat_template.h"

// Writes `path`: FROM base, ADAPTER adapter, stops, and TEMPLATE where what the chat template does to messages can be said in Ollama's: a text
// before and a text behind each role's, which is found out by rendering a conversation and proven on others. chat NULL: no template at all.
Status ollama_write_modelfile(const char *path, const char *base, const char *adapter, const ChatTemplate *chat,
                              const Tokenizer *tokenizer);

#endif
