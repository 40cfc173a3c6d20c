// The tools of a conversation: what the template prints of them, how the model writes its calls, and a call that has to be made. That one is
// begun for the model: the marks before it stand in the prompt already, and a JSON schema constrains what follows.
#ifndef SERVER_CHAT_TOOLS_H
#define SERVER_CHAT_TOOLS_H

#include "data/template/chat_template.h"
#include "runtime/tool_calls.h"
#include "server/fields.h"

typedef struct ChatTools {
  const json_t *list;  // that the template prints; NULL: none. Borrowed from the request
  ToolFormat format;
  const char *before, *behind;  // the marks around a call that has to be made; "" where none has
  json_t *schema;  // of such a call; NULL: none
} ChatTools;

// From tools and tool_choice. STATUS_USAGE for tools that the template does not print, and for a call that has to be made in a form that is
// not known or not JSON. Release it in any case.
Status chat_tools_read(ChatTools *tools, Fields *fields, const ChatTemplate *chat);
void chat_tools_release(ChatTools *tools);

// A call as OpenAI's API tells it, with an id of its own; new. index: in a stream; -1 for none.
json_t *tool_call_object(const ToolCall *call, int index);

#endif
