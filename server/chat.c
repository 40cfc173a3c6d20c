// POST /v1/chat/completions: the next message of a conversation, in the model's chat template.
#include <stdlib.h>
#include <string.h>

#include "server/token_json.h"
#include "server/chat_messages.h"
#include "server/chat_tools.h"
#include "server/completion.h"
#include "server/routes.h"

// What a conversation has beside a completion: Completion.extra.
typedef struct Chat {
  ChatTools tools;
  ToolStream *streams;  // [count] of a stream's choices
  int count;
} Chat;

// Where a ToolStream's calls go.
typedef struct Telling {
  Completion *completion;
  int index;
} Telling;

static void chat_free(void *pointer) {
  Chat *chat = pointer;
  for (int i = 0; i < chat->count; i++) {
    free(chat->streams[i].reader.context);
    tool_stream_release(&chat->streams[i]);
  }
  free(chat->streams);
  chat_tools_release(&chat->tools);
  free(chat);
}

// ---- The objects

static json_t *chances_of(const Completion *completion, const Answer *answer, int64_t from) {
  if (!completion->wants_chances) return json_null();
  return chance_content(completion->server->served.tokenizer, answer, from, answer->token_count);
}

static json_t *string_of(const Buffer *text) { return json_stringn(text->data ? text->data : "", text->length); }

// The text without the calls in it, which become `tool_calls`.
static json_t *message_of(const Chat *chat, const Buffer *text, bool *has_calls) {
  Buffer whole = {0}, content = {0};
  ToolCalls calls = {0};
  buffer_append_string(&whole, chat->tools.before);
  buffer_append(&whole, text->data ? text->data : "", text->length);
  buffer_append_string(&whole, chat->tools.behind);
  tool_calls_parse(&calls, &content, chat->tools.format, chat->tools.list, whole.data ? whole.data : "", whole.length);
  *has_calls = calls.count > 0;
  json_t *message = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", *has_calls ? json_null() : string_of(text), "refusal");
  if (*has_calls && content.length) json_object_set_new(message, "content", string_of(&content));
  json_t *list = json_array();
  for (int i = 0; i < calls.count; i++) json_array_append_new(list, tool_call_object(&calls.items[i], -1));
  if (*has_calls) json_object_set(message, "tool_calls", list);
  json_decref(list);
  tool_calls_release(&calls);
  buffer_release(&content);
  buffer_release(&whole);
  return message;
}

static json_t *whole_choice(const Completion *completion, int index) {
  const Answer *answer = &completion->answers.answers[index];
  bool has_calls;
  json_t *message = message_of(completion->extra, &answer->text, &has_calls);
  return json_pack("{s:i, s:o, s:o, s:s}", "index", index, "message", message, "logprobs", chances_of(completion, answer, 0),
                   "finish_reason", has_calls ? "tool_calls" : completion_finish(answer));
}

// ---- The stream

static void tell_delta(Completion *completion, int index, json_t *delta, json_t *chances, const char *finish) {
  completion_event(completion,
                   json_pack("{s:i, s:o, s:o, s:s?}", "index", index, "delta", delta, "logprobs", chances, "finish_reason", finish));
}

static void tell_content(const char *text, size_t length, void *context) {
  const Telling *telling = context;
  tell_delta(telling->completion, telling->index, json_pack("{s:s%}", "content", text, length), json_null(), NULL);
}

static void tell_call(int number, const ToolCall *call, void *context) {
  const Telling *telling = context;
  tell_delta(telling->completion, telling->index, json_pack("{s:[o]}", "tool_calls", tool_call_object(call, number)), json_null(), NULL);
}

static void open_streams(Completion *completion) {
  Chat *chat = completion->extra;
  chat->count = completion->answers.count;
  chat->streams = memory_new((size_t)chat->count, sizeof *chat->streams);
  for (int i = 0; i < chat->count; i++) {
    Telling *telling = memory_new(1, sizeof *telling);
    *telling = (Telling){completion, i};
    tool_stream_new(&chat->streams[i], chat->tools.format, chat->tools.list,
                    (ToolReader){.content = tell_content, .call = tell_call, .context = telling});
    tool_stream_push(&chat->streams[i], chat->tools.before, strlen(chat->tools.before));
  }
}

// What is new goes by the reader of calls, where there are tools: log-probabilities then come in an event of their own.
static void tell_text(Completion *completion, int index) {
  const Chat *chat = completion->extra;
  const Answer *answer = &completion->answers.answers[index];
  Told *told = &completion->told[index];
  const char *text = answer->text.data ? answer->text.data + told->text : "";
  size_t length = answer->text.length - told->text;
  bool has_chances = completion->wants_chances && answer->token_count > told->tokens;
  if (chat->tools.list) {
    if (has_chances) tell_delta(completion, index, json_object(), chances_of(completion, answer, told->tokens), NULL);
    tool_stream_push(&chat->streams[index], text, length);
  } else if (length || has_chances) {
    tell_delta(completion, index, json_pack("{s:s%}", "content", text, length), chances_of(completion, answer, told->tokens), NULL);
  }
  told->text = answer->text.length;
  told->tokens = answer->token_count;
}

static void tell(Completion *completion, int index) {
  Chat *chat = completion->extra;
  const Answer *answer = &completion->answers.answers[index];
  Told *told = &completion->told[index];
  if (!chat->streams) open_streams(completion);
  if (!told->is_begun) tell_delta(completion, index, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), json_null(), NULL);
  told->is_begun = true;
  tell_text(completion, index);
  if (!answer->is_ended) return;
  ToolStream *stream = &chat->streams[index];
  if (answer->finish == FINISH_STOP) tool_stream_push(stream, chat->tools.behind, strlen(chat->tools.behind));
  tool_stream_finish(stream);
  tell_delta(completion, index, json_object(), json_null(), stream->calls > 0 ? "tool_calls" : completion_finish(answer));
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

// What ends a turn in the template, where it is no token of the vocabulary: those end texts anyway.
static void add_stop(Completion *completion, const ChatTemplate *template) {
  const char *stop = chat_template_stop(template);
  if (*stop && tokenizer_find(completion->server->served.tokenizer, stop) < 0)
    ARRAY_PUSH(completion->stops, completion->stop_count, completion->stop_capacity) = stop;
}

// The one that the adapter was trained with, or else the model's.
static Status find_template(const ChatTemplate **template, const Completion *completion) {
  const ServedModel *served = &completion->server->served;
  *template = completion->adapter >= 0 && served->adapter_chats ? served->adapter_chats[completion->adapter] : NULL;
  if (!*template) *template = served->chat;
  if (*template) return STATUS_OK;
  return status_fail(STATUS_USAGE, "the model has no chat template: ask /v1/completions, or start the server with --chat-template");
}

static Status read_tools(Completion *completion, const ChatTemplate *template) {
  Fields *fields = &completion->call->fields;
  Chat *chat = completion->extra = memory_new(1, sizeof *chat);
  completion->release_extra = chat_free;
  TRY(chat_tools_read(&chat->tools, fields, template));
  completion->with_special = chat->tools.list != NULL;  // the marks of calls are control tokens in some vocabularies
  if (!chat->tools.schema) return STATUS_OK;
  Grammar *grammar = NULL;
  Status status = grammars_of_schema(&grammar, &completion->server->grammars, chat->tools.schema);
  if (status == STATUS_OK) return completion_constrain(completion, grammar, "tool_choice");
  fields->param = "tools";
  return status_context(status, "the tools' parameters");
}

Status handle_chat(Call *call) {
  Completion *completion;
  Fields *fields = &call->fields;
  const ChatTemplate *template;
  TRY(completion_new(&completion, call, &form));
  TRY(find_template(&template, completion));
  TRY(fields_integer(&completion->max_tokens, fields, "max_tokens", 0, INT32_MAX));
  TRY(fields_integer(&completion->max_tokens, fields, "max_completion_tokens", 0, INT32_MAX));
  TRY(read_chances(completion, fields));
  TRY(read_tools(completion, template));
  add_stop(completion, template);
  completion->prompts = memory_new(1, sizeof *completion->prompts);
  completion->prompt_count = 1;
  const Chat *chat = completion->extra;
  TRY(chat_messages_encode(&completion->prompts[0], fields, &chat->tools, template, call->server->served.tokenizer));
  return completion_answer(completion);
}
