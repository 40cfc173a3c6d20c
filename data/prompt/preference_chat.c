// Preference rows of conversations, printed by a chat template.
//   chat_template, .default   {messages, chosen, rejected}: a reply is a text, a message, or a list whose last message it is.
//                             KTO: {messages, completion, label}, or {messages, label} with the reply as the last message
//   .argilla_chat             {chosen, rejected}: conversations; the prompt is the better one without its last message
//   .argilla (of ORPO)        the same, with the row's `prompt`, where it has one, as the user's message
// The prompt ends with the template's generation prompt. As in Axolotl, a reply is printed behind a message of no importance, and is what
// begins with its content there, without white space at its end: what a template prints before the content of a last reply, such as
// an empty thought, is left out. Types of ORPO print replies with the prompt, and so do conversations of TRL's form.
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/prompt/chat.h"
#include "data/prompt/preference.h"

typedef enum ChatForm { FORM_MESSAGES, FORM_CONVERSATIONS, FORM_ORPO } ChatForm;

typedef struct PreferenceChat {
  ChatPrompt chat;  // first: chat_row.c takes the state for it
  ChatForm form;
  const char *field_chosen, *field_rejected, *field_completion, *field_label;
} PreferenceChat;

void preference_turns_release(PreferenceTurns *turns) {
  json_decref(turns->prompt);
  for (int r = 0; r < REPLIES; r++) json_decref(turns->replies[r]);
}

// ---- What the recipe says

static Status open_form(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe, ChatForm form) {
  PreferenceChat *state = prompt->state = memory_new(1, sizeof *state);
  Arena *arena = &state->chat.arena;
  state->form = form;
  state->field_chosen = arena_copy_string(arena, dataset->field_chosen ? dataset->field_chosen : "chosen");
  state->field_rejected = arena_copy_string(arena, dataset->field_rejected ? dataset->field_rejected : "rejected");
  state->field_completion = arena_copy_string(arena, dataset->field_completion ? dataset->field_completion : "completion");
  state->field_label = arena_copy_string(arena, dataset->field_label ? dataset->field_label : "label");
  TRY(chat_prompt_open(prompt, dataset, recipe));
  return prompt_need_eos(prompt);
}

static Status chat_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  bool talks = strcmp(prompt->variant, "argilla_chat") == 0, orpo = strcmp(prompt->variant, "argilla") == 0;
  return open_form(prompt, dataset, recipe, talks ? FORM_CONVERSATIONS : orpo ? FORM_ORPO : FORM_MESSAGES);
}

static Status orpo_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  return open_form(prompt, dataset, recipe, FORM_ORPO);
}

// ---- A row's messages

static json_t *message_of(const ChatPrompt *state, const char *role, const json_t *text) {
  return json_pack("{s:s, s:O}", chat_field_of(state, "role"), role, chat_field_of(state, "content"), text);
}

// A list of messages, or a text that is the one message of `role`: a new list.
static Status read_messages(json_t **out, const ChatPrompt *state, const json_t *row, const char *field, const char *role) {
  const json_t *value = json_object_get(row, field), *list;
  if (json_is_string(value)) {
    *out = json_pack("[o]", message_of(state, role, value));
    return STATUS_OK;
  }
  TRY(row_list(&list, row, field, "messages"));
  *out = json_copy((json_t *)(uintptr_t)list);
  return STATUS_OK;
}

// A reply, as a new list of one message: a text, a message, or the last message of a list.
static Status read_reply(json_t **out, const ChatPrompt *state, const json_t *row, const char *field) {
  json_t *value = json_object_get(row, field);
  if (!value) return row_missing(row, field);
  if (json_is_string(value)) *out = json_pack("[o]", message_of(state, "assistant", value));
  else if (json_is_object(value)) *out = json_pack("[O]", value);
  else if (json_array_size(value) > 0) *out = json_pack("[O]", json_array_get(value, json_array_size(value) - 1));
  else return status_fail(STATUS_BAD_INPUT, "field \"%s\" is neither a text, nor a message, nor a list of messages", field);
  return STATUS_OK;
}

static Status take_last(json_t **reply, json_t *messages, const char *field) {
  size_t count = json_array_size(messages);
  if (count < 1) return status_fail(STATUS_BAD_INPUT, "field \"%s\" has no message", field);
  *reply = json_pack("[O]", json_array_get(messages, count - 1));
  json_array_remove(messages, count - 1);
  return STATUS_OK;
}

static Status read_single(PreferenceTurns *turns, const PreferenceChat *state, const json_t *row) {
  TRY(read_messages(&turns->prompt, &state->chat, row, state->chat.field_messages, "user"));
  if (json_object_get(row, state->field_completion)) return read_reply(&turns->replies[0], &state->chat, row, state->field_completion);
  return take_last(&turns->replies[0], turns->prompt, state->chat.field_messages);
}

static Status read_pair(PreferenceTurns *turns, const PreferenceChat *state, const json_t *row) {
  const char *const fields[] = {state->field_chosen, state->field_rejected};
  if (state->form == FORM_MESSAGES) {
    TRY(read_messages(&turns->prompt, &state->chat, row, state->chat.field_messages, "user"));
    for (int r = 0; r < REPLIES; r++) TRY(read_reply(&turns->replies[r], &state->chat, row, fields[r]));
    return STATUS_OK;
  }
  const json_t *list;
  for (int r = 0; r < REPLIES; r++) {
    TRY(row_list(&list, row, fields[r], "messages"));
    json_t *messages = json_copy((json_t *)(uintptr_t)list);
    Status status = take_last(&turns->replies[r], messages, fields[r]);
    if (r == REPLY_BETTER) turns->prompt = messages;
    else json_decref(messages);
    TRY(status);
  }
  // Axolotl has this prompt in place of every message of the user's: with one there is no difference.
  const json_t *text = json_object_get(row, "prompt");
  if (state->form == FORM_ORPO && json_is_string(text) && json_array_size(turns->prompt) == 1)
    json_array_set_new(turns->prompt, 0, message_of(&state->chat, "user", text));
  return STATUS_OK;
}

// ---- Texts

typedef struct Rendering {
  const Prompt *prompt;
  Conversation talk;  // the prompt's messages
  PreferenceTexts *texts;
} Rendering;

static Status render(ChatText *text, const Rendering *rendering, const json_t *messages, bool generation_prompt) {
  const ChatPrompt *state = rendering->prompt->state;
  return chat_template_render(text, state->chat, messages, rendering->talk.tools, generation_prompt);
}

static Status print_prompt(const Rendering *rendering) {
  ChatText text = {0};
  Status status = render(&text, rendering, rendering->talk.messages, true);
  if (status == STATUS_OK) buffer_append(&rendering->texts->prompt, text.text.data, text.text.length);
  chat_text_release(&text);
  return status;
}

// Prints the messages `before` with the reply behind them.
static Status render_reply(ChatText *text, const Rendering *rendering, const json_t *before, const json_t *reply) {
  json_t *messages = json_copy((json_t *)(uintptr_t)before);
  json_array_extend(messages, (json_t *)(uintptr_t)reply);
  Status status = render(text, rendering, messages, false);
  json_decref(messages);
  return status;
}

static Status refuse_unprinted(const Rendering *rendering) {
  const ChatPrompt *state = rendering->prompt->state;
  return status_fail(STATUS_BAD_INPUT, "it is not printed by %s", chat_template_name(state->chat));
}

// Appends what the template prints of the reply behind a message that does not matter.
static Status print_alone(Buffer *out, const Rendering *rendering, const json_t *reply) {
  json_t *before = json_pack("[{s:s, s:s}]", "role", "user", "content", "...");
  ChatText text = {0};
  Status status = render_reply(&text, rendering, before, reply);
  const ChatSpan *span = NULL;
  for (int64_t s = 0; s < text.count && !span; s++)
    if (text.spans[s].message == 1) span = &text.spans[s];
  if (status == STATUS_OK && !span) status = refuse_unprinted(rendering);
  if (status == STATUS_OK) {
    // From its content on, or from the thoughts or calls of tools that it begins with.
    const char *from = text.text.data + span->reply_begin, *rest = from;
    size_t length = text.text.length - span->reply_begin;
    text_strip(&rest, &length);
    buffer_append(out, from, (size_t)(rest - from) + length);
  }
  chat_text_release(&text);
  json_decref(before);
  return status;
}

static Status print_whole(Buffer *out, const Rendering *rendering, const json_t *reply) {
  ChatText text = {0};
  Status status = render_reply(&text, rendering, rendering->talk.messages, reply);
  if (status == STATUS_OK) buffer_append(out, text.text.data, text.text.length);
  chat_text_release(&text);
  return status;
}

static bool says_nothing(const json_t *reply) {
  size_t index;
  const char *key;
  json_t *message, *value;
  json_array_foreach(reply, index, message) json_object_foreach(message, key, value) {
    bool empty = strcmp(key, "role") == 0 || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0);
    if (!empty && !(json_is_array(value) && json_array_size(value) == 0)) return false;
  }
  return true;
}

static Status print_mapped(const Rendering *rendering, int number, const json_t *reply, bool whole) {
  Buffer *out = &rendering->texts->whole[number];
  const json_t *last = json_array_get(reply, json_array_size(reply) - 1);
  const char *role = json_string_value(json_object_get(last, "role"));
  if (!role) return status_fail(STATUS_BAD_INPUT, "it has no message");
  if (strcmp(role, "assistant") != 0) return status_fail(STATUS_BAD_INPUT, "its role is %s, where assistant is needed", role);
  bool empty = says_nothing(reply);
  if (whole && !empty) return print_whole(out, rendering, reply);
  buffer_append(out, rendering->texts->prompt.data, rendering->texts->prompt.length);
  return empty ? STATUS_OK : print_alone(out, rendering, reply);
}

static Status print_reply(const Rendering *rendering, int number, const json_t *messages, bool whole) {
  Conversation mapped = {.messages = json_array()};
  Status status = STATUS_OK;
  for (size_t i = 0; i < json_array_size(messages) && status == STATUS_OK; i++)
    status = conversation_add(&mapped, rendering->prompt, json_array_get(messages, i));
  if (status == STATUS_OK) status = print_mapped(rendering, number, mapped.messages, whole);
  conversation_release(&mapped);
  const char *which = !rendering->prompt->paired ? "the reply" : number == REPLY_BETTER ? "the better reply" : "the worse reply";
  return status_context(status, "%s", which);
}

static Status encode_turns(EncodedRow *out, const Prompt *prompt, const json_t *row, const PreferenceTurns *turns, bool whole,
                           bool of_text) {
  PreferenceTexts texts = {.adds_bos = of_text, .adds_eos = of_text};
  Rendering rendering = {.prompt = prompt, .texts = &texts};
  Status status = conversation_read_list(&rendering.talk, prompt, row, turns->prompt);
  if (status == STATUS_OK && json_array_size(rendering.talk.messages) == 0)
    status = status_fail(STATUS_BAD_INPUT, "there is no message before the reply");
  if (status == STATUS_OK) status = print_prompt(&rendering);
  for (int r = 0; r < (prompt->paired ? REPLIES : 1) && status == STATUS_OK; r++)
    status = print_reply(&rendering, r, turns->replies[r], whole);
  if (status == STATUS_OK) status = preference_encode(out, prompt, &texts);
  conversation_release(&rendering.talk);
  preference_texts_release(&texts);
  return status;
}

Status preference_encode_turns(EncodedRow *out, const Prompt *prompt, const json_t *row, const PreferenceTurns *turns) {
  return encode_turns(out, prompt, row, turns, true, false);
}

static Status chat_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const PreferenceChat *state = prompt->state;
  PreferenceTurns turns = {0};
  Status status = prompt->paired ? read_pair(&turns, state, row) : read_single(&turns, state, row);
  if (status == STATUS_OK) status = encode_turns(out, prompt, row, &turns, state->form == FORM_ORPO, true);
  if (status == STATUS_OK && !prompt->paired) status = preference_label(out, row, state->field_label);
  preference_turns_release(&turns);
  return status;
}

const PromptStrategy preference_chat = {"chat_template", chat_open, chat_encode, chat_prompt_close};
const PromptStrategy preference_orpo_chat = {"orpo", orpo_open, chat_encode, chat_prompt_close};
