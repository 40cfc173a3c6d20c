// What `generate` and `chat` share: messages as a prompt, and text that is written as it comes.
#ifndef CLI_GENERATE_OUTPUT_H
#define CLI_GENERATE_OUTPUT_H

#include <jansson.h>

#include "data/template/chat_template.h"
#include "runtime/generate.h"

// Appends {"role", "content"} to messages; STATUS_USAGE when the content is no UTF-8 text.
Status message_append(json_t *messages, const char *role, const char *content, size_t length);
// Appends the tokens of `messages` in the chat template, with the opening of the assistant's turn behind them.
Status messages_encode(TokenList *ids, const json_t *messages, const ChatTemplate *chat, const Tokenizer *tokenizer);

bool emit_to_stdout(const char *text, size_t length, void *context);  // GenerateOptions.emit; context is not used
double tokens_per_second(int64_t tokens, double seconds);
double writing_rate(const EngineUsage *usage);  // of the tokens after the first, which comes with the prompt
void log_speed(const Generation *result);  // one line on stderr

#endif
