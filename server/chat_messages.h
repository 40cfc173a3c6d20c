// The messages of a request as the prompt that the chat template makes of them.
#ifndef SERVER_CHAT_MESSAGES_H
#define SERVER_CHAT_MESSAGES_H

#include "server/fields.h"
#include "server/server.h"

// Messages in the form that templates take: contents as text, arguments of tool calls as the template wants them; new.
Status chat_messages_read(json_t **messages, Fields *fields, const ChatTemplate *chat);
// The tools that the template is to print: NULL where there are none, or the request wants none called. Borrowed.
Status chat_tools_read(const json_t **tools, Fields *fields, const ChatTemplate *chat);
// Appends the prompt's tokens, from the fields messages, tools, tool_choice, chat_template_kwargs, add_generation_prompt and
// continue_final_message.
Status chat_messages_encode(TokenList *out, Fields *fields, const ServedModel *served);

#endif
