// The parts of the chat_template strategy, for data/prompt/chat*.c and preference_chat.c alone.
//   row -> conversation: messages by the template's names, and which of them train   (chat_row.c)
//       -> text by the template -> which bytes train                                   (chat_mask.c)
//       -> tokens and labels                                                           (chat.c)
#ifndef DATA_PROMPT_CHAT_H
#define DATA_PROMPT_CHAT_H

#include <stdatomic.h>

#include "data/prompt/prompt.h"
#include "data/template/chat_template.h"

typedef enum TurnEnds { ENDS_TURN, ENDS_ALL, ENDS_LAST, ENDS_NONE } TurnEnds;

typedef struct NamePair {
  char *from, *to;
} NamePair;

typedef struct ChatPrompt {
  ChatTemplate *chat;
  Arena arena;  // strings below
  const char *field_messages, *field_system, *field_tools, *field_training, *field_detail;
  const char *thinking_key;  // the template's name for thoughts
  NamePair *properties, *roles;  // property <- field of a message; role <- its name in the data
  int property_count, role_count;
  const char **trained_roles;
  int trained_count;
  TurnEnds eos_ends, eot_ends;  // of turns whose marker is EOS, and of others
  bool drop_system, split_thinking;
  atomic_bool told_of_tools;  // a notice is due once, whichever row comes first
} ChatPrompt;

// Fills the prompt's state, a zeroed ChatPrompt (or a struct that begins with one), from the recipe.
Status chat_prompt_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe);
void chat_prompt_close(void *pointer);  // releases what a ChatPrompt holds
const char *chat_map_role(const ChatPrompt *state, const char *role);

typedef struct Turn {
  bool trained;
  const json_t *detail;  // parts of the content by character offsets; NULL: all of it
} Turn;

typedef struct Conversation {
  json_t *messages;  // new: role, content and the like, by the template's names
  json_t *tools;  // new, or NULL
  Turn *turns;  // [messages]
} Conversation;

// STATUS_BAD_INPUT says what the row lacks. Release it in any case.
Status conversation_read(Conversation *conversation, const Prompt *prompt, const json_t *row);
// The same with the messages of a list, and the row's system text and tools.
Status conversation_read_list(Conversation *conversation, const Prompt *prompt, const json_t *row, const json_t *messages);
// Appends one message of a row; `messages` is an array already.
Status conversation_add(Conversation *conversation, const Prompt *prompt, const json_t *message);
const char *chat_field_of(const ChatPrompt *state, const char *property);  // a message's field that the property is taken from
void conversation_release(Conversation *conversation);

// mask [text.length], zeroed: true for bytes that train. STATUS_BAD_INPUT: a message that should train and is not printed, or whose
// end is not there to be trained.
Status chat_mask(uint8_t *mask, const Prompt *prompt, const Conversation *conversation, const ChatText *text);

#endif
