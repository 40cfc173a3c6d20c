// Which bytes of a rendered conversation train: what the template printed of a trained message, with what stands around it that a model has
// to write too; or, where the template says so itself, what stands in its {% generation %} blocks; and the ends of turns that are to
// be learnt.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/prompt/chat.h"

static void mark(uint8_t *mask, size_t begin, size_t end, bool value) {
  if (end > begin) memset(mask + begin, value, end - begin);
}

// The byte of the content where its character `index` begins; its length past the last one.
static size_t character_offset(const char *content, size_t length, json_int_t index) {
  size_t offset = 0;
  for (; index > 0 && offset < length; index--) {
    int step = utf8_length((const unsigned char *)content + offset, length - offset);
    offset += step ? (size_t)step : 1;
  }
  return offset;
}

// {begin_offset, end_offset, train}: characters of the whole content, the last one included.
static Status mark_detail(uint8_t *mask, const ChatText *text, const ChatSpan *span, const json_t *content, const json_t *detail) {
  const char *whole = json_string_value(content);
  size_t length = json_string_length(content);
  if (!whole) return status_fail(STATUS_BAD_INPUT, "training details need a content that is text");
  for (size_t i = 0; i < json_array_size(detail); i++) {
    const json_t *part = json_array_get(detail, i), *train = json_object_get(part, "train");
    const json_t *begin = json_object_get(part, "begin_offset"), *end = json_object_get(part, "end_offset");
    if (!json_is_integer(begin) || !json_is_integer(end))
      return status_fail(STATUS_BAD_INPUT, "training detail %zu has no begin_offset and end_offset", i + 1);
    if (!json_is_true(train) && !(json_is_number(train) && json_number_value(train) != 0)) continue;
    size_t first = character_offset(whole, length, json_integer_value(begin)),
           last = character_offset(whole, length, json_integer_value(end));
    if (json_integer_value(end) >= 0) last += character_offset(whole + last, length - last, 1);
    for (size_t at = span->begin; at < span->end; at++)
      if (text->offsets[at] >= 0 && (size_t)text->offsets[at] >= first && (size_t)text->offsets[at] < last) mask[at] = true;
  }
  return STATUS_OK;
}

// Of each stretch that the template marks as generated: whether its message trains.
static void mark_generated(uint8_t *mask, const Conversation *conversation, const ChatText *text) {
  int64_t s = 0;
  for (size_t begin = 0, end; begin < text->text.length; begin = end) {
    for (end = begin + 1; end < text->text.length && text->generated[end] == text->generated[begin];) end++;
    if (!text->generated[begin]) continue;
    while (s < text->count && text->spans[s].end <= begin) s++;
    if (s < text->count && text->spans[s].begin < end) mark(mask, begin, end, conversation->turns[text->spans[s].message].trained);
  }
}

static bool has_text(const json_t *value) {
  size_t index;
  const char *key;
  json_t *item;
  bool found = json_is_string(value) && json_string_value(value)[strspn(json_string_value(value), " \t\r\n")];
  json_array_foreach(value, index, item) found = found || has_text(item);
  json_object_foreach((json_t *)(uintptr_t)value, key, item) found = found || has_text(item);
  return found;
}

// Each trained message must have been printed, or its training would be lost without a word.
static Status check_printed(const ChatPrompt *state, const Conversation *conversation, const ChatText *text) {
  size_t count = json_array_size(conversation->messages);
  bool *printed = memory_new(count + 1, sizeof *printed);
  Status status = STATUS_OK;
  for (int64_t s = 0; s < text->count; s++) printed[text->spans[s].message] = true;
  for (size_t i = 0; i < count && status == STATUS_OK; i++) {
    const json_t *message = json_array_get(conversation->messages, i);
    bool says = has_text(json_object_get(message, "content")) || json_array_size(json_object_get(message, "tool_calls")) > 0;
    if (conversation->turns[i].trained && !printed[i] && says)
      status =
          status_fail(STATUS_BAD_INPUT, "message %zu is to be trained, but %s does not print it", i + 1, chat_template_name(state->chat));
  }
  free(printed);
  return status;
}

// Whether the end of a turn trains; `last`: no other message follows it.
static bool end_trains(TurnEnds ends, bool trained, bool last) {
  return ends == ENDS_ALL || (ends == ENDS_TURN && trained) || (ends == ENDS_LAST && last);
}

static Status refuse_endless(const ChatPrompt *state, const ChatSpan *span, bool trained, bool last) {
  if (!trained || !(end_trains(state->eos_ends, trained, last) || end_trains(state->eot_ends, trained, last))) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT,
                     "message %" PRId64
                     ": %s writes no end of turn behind it, so where to stop would never be learnt; name the text that "
                     "ends a turn by `eot_tokens`, choose another `chat_template`, or give it up by `train_on_eos: none`",
                     span->message + 1, chat_template_name(state->chat));
}

static Status mark_end(uint8_t *mask, const Prompt *prompt, const ChatText *text, const ChatSpan *span, bool trained, bool last) {
  const ChatPrompt *state = prompt->state;
  int32_t id = tokenizer_eos(prompt->tokenizer);
  const char *eos = id >= 0 ? tokenizer_text(prompt->tokenizer, id) : "";
  size_t length = span->stop_end - span->stop_begin;
  if (length == 0) return refuse_endless(state, span, trained, last);
  bool is_eos = length == strlen(eos) && memcmp(text->text.data + span->stop_begin, eos, length) == 0;
  mark(mask, span->stop_begin, span->stop_end, end_trains(is_eos ? state->eos_ends : state->eot_ends, trained, last));
  // Some templates close the whole conversation with EOS, behind the marker of its last turn.
  const char *closing = last && !is_eos && *eos ? strstr(text->text.data + span->stop_end, eos) : NULL;
  if (closing) {
    size_t begin = (size_t)(closing - text->text.data);
    mark(mask, begin, begin + strlen(eos), end_trains(state->eos_ends, trained, last));
  }
  return STATUS_OK;
}

Status chat_mask(uint8_t *mask, const Prompt *prompt, const Conversation *conversation, const ChatText *text) {
  TRY(check_printed(prompt->state, conversation, text));
  if (text->generated) mark_generated(mask, conversation, text);
  for (int64_t s = 0; s < text->count; s++) {
    const ChatSpan *span = &text->spans[s];
    const Turn *turn = &conversation->turns[span->message];
    const json_t *content = json_object_get(json_array_get(conversation->messages, (size_t)span->message), "content");
    if (turn->trained && turn->detail) TRY(mark_detail(mask, text, span, content, turn->detail));
    else if (!text->generated) mark(mask, span->reply_begin, span->reply_end, turn->trained);
    bool last = s == text->count - 1, goes_on = !last && text->spans[s + 1].message == span->message;
    if (!goes_on) TRY(mark_end(mask, prompt, text, span, turn->trained, last));
  }
  return STATUS_OK;
}
