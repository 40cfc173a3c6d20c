// POST /v1/chat/completions: the next message of a conversation, in the model's chat template.
#include <stdlib.h>
#include <string.h>

#include "server/token_json.h"
#include "server/chat_messages.h"
#include "server/completion.h"
#include "server/routes.h"

// ---- The objects

static json_t *chances_of(const Completion *completion, const Answer *answer, int64_t from) {
  if (!completion->wants_chances) return json_null();
  return chance_content(completion->server->served.tokenizer, answer, from, answer->token_count);
}

static json_t *whole_choice(const Completion *completion, int index) {
  const Answer *answer = &completion->answers.answers[index];
  json_t *message = json_pack("{s:s, s:s%, s:n}", "role", "assistant", "content", answer->text.data ? answer->text.data : "",
                              answer->text.length, "refusal");
  return json_pack("{s:i, s:o, s:o, s:s}", "index", index, "message", message, "logprobs", chances_of(completion, answer, 0),
                   "finish_reason", completion_finish(answer));
}

static void tell_delta(Completion *completion, int index, json_t *delta, json_t *chances, const char *finish) {
  completion_event(completion,
                   json_pack("{s:i, s:o, s:o, s:s?}", "index", index, "delta", delta, "logprobs", chances, "finish_reason", finish));
}

static void tell(Completion *completion, int index) {
  const Answer *answer = &completion->answers.answers[index];
  Told *told = &completion->told[index];
  if (!told->is_begun) tell_delta(completion, index, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), json_null(), NULL);
  told->is_begun = true;
  if (answer->text.length > told->text || (completion->wants_chances && answer->token_count > told->tokens)) {
    json_t *text = json_stringn(answer->text.data + told->text, answer->text.length - told->text);
    tell_delta(completion, index, json_pack("{s:o}", "content", text), chances_of(completion, answer, told->tokens), NULL);
    told->text = answer->text.length;
    told->tokens = answer->token_count;
  }
  if (answer->is_ended) tell_delta(completion, index, json_object(), json_null(), completion_finish(answer));
}

static const CompletionForm form = {.id_prefix = "chatcmpl-",
                                    .object = "chat.completion",
                                    .chunk_object = "chat.completion.chunk",
                                    .prompt_name = "messages",
                                    .choice = whole_choice,
                                    .tell = tell};

// ---- The request

static Status read_chances(Completion *completion, Fields *fields) {
  TRY(fields_bool(&completion->wants_chances, fields, "logprobs"));
  TRY(fields_integer(&completion->top, fields, "top_logprobs", 0, ENGINE_TOP));
  if (completion->top > 0 && !completion->wants_chances)
    return fields_fail(fields, "top_logprobs", "\"top_logprobs\" goes with \"logprobs\": true");
  return STATUS_OK;
}

// What ends a turn in the template, and is no token of the vocabulary.
static void add_stops(Completion *completion) {
  const ServedModel *served = &completion->server->served;
  for (int i = 0; i < served->chat_stop_count; i++)
    ARRAY_PUSH(completion->stops, completion->stop_count, completion->stop_capacity) = served->chat_stops[i];
}

Status handle_chat(Call *call) {
  Completion *completion;
  Fields *fields = &call->fields;
  if (!call->server->served.chat)
    return status_fail(STATUS_USAGE, "the model has no chat template: ask /v1/completions, or start the server with --chat-template");
  TRY(completion_new(&completion, call, &form));
  TRY(fields_integer(&completion->max_tokens, fields, "max_tokens", 0, INT32_MAX));
  TRY(fields_integer(&completion->max_tokens, fields, "max_completion_tokens", 0, INT32_MAX));
  TRY(read_chances(completion, fields));
  add_stops(completion);
  completion->prompts = memory_new(1, sizeof *completion->prompts);
  completion->prompt_count = 1;
  TRY(chat_messages_encode(&completion->prompts[0], fields, &call->server->served));
  return completion_answer(completion);
}
