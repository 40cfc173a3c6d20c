// What /v1/completions and /v1/chat/completions have in common: the fields that say how a text is written, the texts that are written for
// one request, and their way to the client, whole or as server-sent events. They differ in a form: how prompts are read, and what objects an
// answer is told by.
#ifndef SERVER_COMPLETION_H
#define SERVER_COMPLETION_H

#include "server/answer.h"
#include "server/http.h"

enum { CHOICES_MOST = 16, STOPS_MOST = 16, STOP_BYTES_MOST = 1024, TEXTS_MOST = 2048 };

// How far a text has been told in a stream.
typedef struct Told {
  size_t text;  // bytes
  int64_t tokens;
  int64_t characters;  // of the tokens that were told: text_offset of the next
  bool is_begun, is_ended;
} Told;

typedef struct Completion Completion;

typedef struct CompletionForm {
  const char *id_prefix, *object, *chunk_object;
  const char *prompt_name;  // the field that prompts are read from
  json_t *(*choice)(const Completion *completion, int index);  // of a whole answer; new
  // What is new in a text, by completion_event; may be several events.
  void (*tell)(Completion *completion, int index);
} CompletionForm;

struct Completion {
  Call *call;
  Server *server;
  const CompletionForm *form;
  char id[48];
  int64_t created;
  const char *model;  // as the client called it
  int adapter;
  // What was asked for:
  SamplerSettings sampling;
  TokenBias *biases;
  int bias_count, bias_capacity;
  bool is_repeatable;
  int64_t max_tokens;  // -1: as many as there is room for
  int64_t choices;  // of each prompt
  const char **stops;
  int stop_count, stop_capacity;
  bool wants_chances;
  int64_t top;
  bool echoes, streams, includes_usage, ignores_end;
  bool with_special;  // control tokens are text
  struct Grammar *grammar;
  TokenList *prompts;
  int prompt_count;
  // What is written:
  Constraint **constraints;  // [answers.count]; NULL: there is no grammar
  AnswerSet answers;  // prompt_count * choices
  Told *told;
  Buffer events;  // not sent yet, from events_sent on
  size_t events_sent;
  bool is_ended, has_failed;  // of the stream: nothing more comes; the connection is to break
  void *extra;  // the form's own, with its release
  void (*release_extra)(void *extra);
};

// Reads the fields that both have; `call->work` owns the completion from here on.
Status completion_new(Completion **out, Call *call, const CompletionForm *form);
// The adapter that a request names by `model`: -1 for the base; 404 for another name.
Status completion_adapter(int *adapter, const char **name, Call *call);
// Whether the prompts, and a token more where any is wanted, fit in the context, and the queue has room for `choices` texts of each.
Status call_check_room(Call *call, const TokenList *prompts, int count, int64_t choices, const char *param, bool wants_new);
// Waits until all texts have ended well, with the client still there.
Status call_await(AnswerSet *set, Call *call);
// Submits the texts and replies.
Status completion_answer(Completion *completion);
// Sets what the text may be; takes the grammar. A request has one at most: a second is refused.
Status completion_constrain(Completion *completion, struct Grammar *grammar, const char *param);

// Appends one event with the fields of every chunk; takes `choice` (NULL: none).
void completion_event(Completion *completion, json_t *choice);
json_t *completion_usage(const Completion *completion);
// Why a text has ended, in OpenAI's words: "stop" or "length".
const char *completion_finish(const Answer *answer);

#endif
