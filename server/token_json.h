// Tokens and their log-probabilities as answers show them.
#ifndef SERVER_TOKEN_JSON_H
#define SERVER_TOKEN_JSON_H

#include <jansson.h>

#include "server/answer.h"

// The text of a token, control tokens as theirs; bytes that are no UTF-8 by themselves as "bytes:\xNN".
json_t *token_string(const Tokenizer *tokenizer, int32_t id);
// A number that JSON has: as OpenAI's API, nothing is less likely than -9999; null for what is no number.
json_t *chance_number(float log_probability);

// The form of completions: tokens, token_logprobs, top_logprobs and text_offset, side by side.
typedef struct ChanceLists {
  const Tokenizer *tokenizer;
  json_t *tokens, *numbers, *tops, *offsets;
  int64_t characters;  // that the tokens before have begun: the next one's offset
} ChanceLists;

void chance_lists_new(ChanceLists *lists, const Tokenizer *tokenizer, int64_t characters);
// token: NULL for the first of a prompt, of which there is none.
void chance_lists_add(ChanceLists *lists, int32_t id, const AnswerToken *token, const Answer *answer);
json_t *chance_lists_object(ChanceLists *lists);  // new; takes the lists

// The form of conversations, of the tokens [from, to): {"content": [{token, logprob, bytes, top_logprobs}]}; new.
json_t *chance_content(const Tokenizer *tokenizer, const Answer *answer, int64_t from, int64_t to);

#endif
