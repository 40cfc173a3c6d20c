// The messages of a request as the prompt that the chat template makes of them.
#ifndef SERVER_CHAT_MESSAGES_H
#define SERVER_CHAT_MESSAGES_H

#include "server/chat_tools.h"

// Messages in the form that templates take: contents as text, arguments of tool calls as the template wants them; new.
Status chat_messages_read(json_t **messages, Fields *fields, const ChatTemplate *chat);
// Appends the prompt's tokens, from the fields messages, chat_template_kwargs, add_generation_prompt and continue_final_message, and from
// the tools.
Status chat_messages_encode(TokenList *out, Fields *fields, const ChatTools *tools, const ChatTemplate *chat, const Tokenizer *tokenizer);

#endif
