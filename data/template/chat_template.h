// Chat templates: messages to text, with the bytes of each message known exactly.
//
// Built in: chatml, llama3, alpaca. A model's own template that is recognisably one of the first two is
// served by it, with the default system message that it carries; others are refused with the remedy.
//   chatml  {<|im_start|>ROLE\nCONTENT<|im_end|>\n}*                  prompt: <|im_start|>assistant\n
//   llama3  BOS{<|start_header_id|>ROLE<|end_header_id|>\n\nTRIMMED CONTENT<|eot_id|>}*
//                                                                     prompt: <|start_header_id|>assistant<|end_header_id|>\n\n
//   alpaca  BOS{SYSTEM | ### Instruction:\nUSER | ### Response:\nASSISTANT EOS} joined by \n\n
//                                                                     prompt: \n\n### Response:\n
// The rendered text is tokenised with TOKENIZE_PARSE_SPECIAL alone: BOS is the template's business.
#ifndef DATA_TEMPLATE_CHAT_TEMPLATE_H
#define DATA_TEMPLATE_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/memory.h"
#include "core/status.h"
#include "data/tokenizer/tokenizer.h"

typedef struct ChatTemplate ChatTemplate;

// Bytes of the rendered text that came from one message.
typedef struct ChatSpan {
  int64_t message;  // its index; -1: a default system message, which no row holds
  size_t begin, end;  // its content; what a reply's training is about
  size_t cut;  // bytes that were trimmed off the content's front
  size_t stop_begin, stop_end;  // the end-of-turn marker behind it; empty where the template writes none
} ChatSpan;

typedef struct ChatText {
  Buffer text;
  ChatSpan *spans;  // in order; a message that the template does not print has none
  int64_t count, capacity;
} ChatText;

typedef struct ChatTemplateOptions {
  const char *name;  // a built-in name, "tokenizer_default", "tokenizer_default_fallback_NAME", "jinja"; NULL: the tokenizer's
  const char *jinja;  // with "jinja": the template's text, or the path of a file that holds it
  const char *default_system;  // put first where no message is a system one; NULL: the template's own
} ChatTemplateOptions;

// STATUS_BAD_INPUT with the remedy for a template that is not built in. `tokenizer` (BOS, EOS, own template) is borrowed.
Status chat_template_open(ChatTemplate **out, const ChatTemplateOptions *options, const Tokenizer *tokenizer);
void chat_template_free(ChatTemplate *chat);

// Appends to `out`, which starts zeroed. messages: an array of {"role", "content", ...}; tools: an array or NULL.
// A message that cannot be rendered is STATUS_BAD_INPUT, named by its number (the first is 1). Safe from several threads.
Status chat_template_render(ChatText *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, bool generation_prompt);
void chat_text_release(ChatText *text);

const char *chat_template_name(const ChatTemplate *chat);  // "chatml"
const char *chat_template_stop(const ChatTemplate *chat);  // the end-of-turn marker: "<|im_end|>"; "" when there is none
bool chat_template_knows_tools(const ChatTemplate *chat);  // its source speaks of tools: rows with tools cannot be served

#endif
