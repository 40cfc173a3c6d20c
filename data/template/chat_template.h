// Chat templates: messages to text, with the bytes of each message known exactly.
//
// A template is Jinja (data/jinja/jinja.h): the model's own, a built-in one by name (data/template/builtin/), or one that the
// recipe gives. While it renders, every byte of the text is known to be a message's or the template's own; from that come the
// spans below, which loss masks are made of. The rendered text is tokenised with TOKENIZE_PARSE_SPECIAL alone: BOS is the
// template's business.
#ifndef DATA_TEMPLATE_CHAT_TEMPLATE_H
#define DATA_TEMPLATE_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/memory.h"
#include "core/status.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/recipe.h"

typedef struct ChatTemplate ChatTemplate;

// A stretch of the text from the first to the last byte of one message, none of another's between. A message has none where the
// template does not print it, and several where its parts stand apart.
typedef struct ChatSpan {
  int64_t message;  // its index
  size_t begin, end;
  // The same with what stands around it that whoever writes the message has to write too: the brackets of tool calls, the marks
  // of thoughts, and what comes before the end of the turn.
  size_t reply_begin, reply_end;
  size_t stop_begin, stop_end;  // the end-of-turn marker behind it; empty where the template writes none
} ChatSpan;

typedef struct ChatText {
  Buffer text;
  int32_t *offsets;  // [text.length] which byte of its message's content each is; -1 for all others
  uint8_t *generated;  // [text.length] inside {% generation %}; NULL where the template has no such block
  ChatSpan *spans;  // in order
  int64_t count, capacity;
} ChatText;

typedef struct ChatTemplateOptions {
  const char *name;  // a built-in name, "tokenizer_default", "tokenizer_default_fallback_NAME", "jinja"; NULL: the tokenizer's
  const char *jinja;  // with "jinja": the template's text, or the path of a file that holds it
  const char *default_system;  // put first where no message is a system one; NULL: the template's own
  const StringPairs *variables;  // chat_template_kwargs; NULL: none
  const StringList *stops;  // texts that end a turn beside those that the vocabulary knows; NULL: none
} ChatTemplateOptions;

// What a recipe says for one of its datasets.
ChatTemplateOptions chat_template_options(const Recipe *recipe, const DatasetRecipe *dataset);

// STATUS_BAD_INPUT with the remedy where there is no template, or with name and line where it is no Jinja. `tokenizer` gives the
// model's own template, its special tokens and its ends of turns; it may be NULL, and is not kept.
Status chat_template_open(ChatTemplate **out, const ChatTemplateOptions *options, const Tokenizer *tokenizer);
void chat_template_free(ChatTemplate *chat);

// Fills `out`, which starts zeroed; release it in any case. messages: an array of {"role", "content", ...}; tools: an array, or NULL
// for none (None in the template, as transformers has it). STATUS_BAD_INPUT: what the template raises. Safe from several threads.
Status chat_template_render(ChatText *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, bool generation_prompt);
void chat_text_release(ChatText *text);
// Appends the text alone. variables: an object with chat_template_kwargs of this conversation, before those of the template; NULL: none.
Status chat_template_write(Buffer *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, const json_t *variables,
                           bool generation_prompt);

const char *chat_template_source(const ChatTemplate *chat);  // the Jinja itself
const char *chat_template_name(const ChatTemplate *chat);  // for messages: "the chatml template"
const char *chat_template_stop(const ChatTemplate *chat);  // what it writes behind an assistant's message: "<|im_end|>"; "" for nothing
bool chat_template_knows_tools(const ChatTemplate *chat);  // it reads `tools`
// Tool calls' arguments are objects to most templates, and text that is already JSON to some.
bool chat_template_wants_argument_text(const ChatTemplate *chat);

#endif
