// TEMPLATE is made of what stands around messages. With s, u, a the texts behind the system's, the user's and the assistant's words and S, U, A those
// before them, and P the opening of an answer, the template gives
//   [system, user, assistant, user]  ->  S ... s U ... u A ... a U ... u P
// in which the known words cut out S, sU, uA, aU, uP; and without P, and cut short, conversations end in u and in a.
#include "cli/ollama.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"

static const char *const words[] = {"LORASYSTEMWORDS", "LORAFIRSTQUESTION", "LORAFIRSTANSWER", "LORASECONDQUESTION"};
static const char *const roles[] = {"system", "user", "assistant", "user"};
enum { SYSTEM, USER, ASSISTANT, ROLES, MOST_MESSAGES = 4 };

typedef struct Frame {
  char *before[ROLES], *behind[ROLES];
  char *prompt;
  char *system;  // that the template puts in itself where there is none; NULL: none
} Frame;

static void frame_release(Frame *frame) {
  for (int i = 0; i < ROLES; i++) {
    free(frame->before[i]);
    free(frame->behind[i]);
  }
  free(frame->prompt);
  free(frame->system);
}

// Messages `first` .. `count` - 1 of the conversation. NULL where the template raises something.
static char *render(const ChatTemplate *chat, int first, int count, bool prompt) {
  json_t *messages = json_array();
  for (int i = first; i < count; i++) json_array_append_new(messages, json_pack("{s:s, s:s}", "role", roles[i], "content", words[i]));
  ChatText text = {0};
  char *result = NULL;
  if (chat_template_render(&text, chat, messages, NULL, prompt) == STATUS_OK)
    result = memory_format("%.*s", (int)text.text.length, text.text.length ? text.text.data : "");
  chat_text_release(&text);
  json_decref(messages);
  return result;
}

// What stands before the first of the words, between two of them, or behind the last; NULL where they are not there.
static char *between(const char *text, const char *first, const char *last) {
  const char *begin = first ? strstr(text, first) : text;
  if (!begin) return NULL;
  if (first) begin += strlen(first);
  const char *end = last ? strstr(begin, last) : begin + strlen(begin);
  return end ? memory_format("%.*s", (int)(end - begin), begin) : NULL;
}

// `text` without `part` in front, or at its end; NULL where it is not there.
static char *without_front(const char *text, const char *part) {
  size_t length = strlen(part);
  return strncmp(text, part, length) == 0 ? memory_copy_string(text + length) : NULL;
}
static char *without_end(const char *text, const char *part) {
  size_t length = strlen(text), own = strlen(part);
  return length >= own && strcmp(text + length - own, part) == 0 ? memory_format("%.*s", (int)(length - own), text) : NULL;
}

static void append_and_free(Buffer *out, char *text) {
  buffer_append_string(out, text);
  free(text);
}

static char *and_free(char *result, char *text) {
  free(text);
  return result;
}

static bool find_frame(Frame *frame, const ChatTemplate *chat, const char *bos) {
  char *whole = render(chat, 0, 4, true), *asked = render(chat, 0, 2, false), *answered = render(chat, 0, 3, false);
  if (whole && asked && answered) {
    char *front = between(whole, NULL, words[0]), *system_user = between(whole, words[0], words[1]);
    char *user_assistant = between(whole, words[1], words[2]), *assistant_user = between(whole, words[2], words[3]);
    char *end = between(whole, words[3], NULL);
    frame->behind[USER] = between(asked, words[1], NULL);
    frame->behind[ASSISTANT] = between(answered, words[2], NULL);
    if (front && system_user && user_assistant && assistant_user && end && frame->behind[USER] && frame->behind[ASSISTANT]) {
      frame->before[SYSTEM] =
          bos && strncmp(front, bos, strlen(bos)) == 0 ? memory_copy_string(front + strlen(bos)) : memory_copy_string(front);
      frame->before[ASSISTANT] = without_front(user_assistant, frame->behind[USER]);
      frame->prompt = without_front(end, frame->behind[USER]);
      frame->before[USER] = without_front(assistant_user, frame->behind[ASSISTANT]);
      if (frame->before[USER]) frame->behind[SYSTEM] = without_end(system_user, frame->before[USER]);
    }
    free(front);
    free(system_user);
    free(user_assistant);
    free(assistant_user);
    free(end);
  }
  free(whole);
  free(asked);
  free(answered);
  return frame->before[ASSISTANT] && frame->prompt && frame->behind[SYSTEM];
}

// The system's words that a conversation without any gets.
static void find_default_system(Frame *frame, const ChatTemplate *chat, const char *bos) {
  char *text = render(chat, 1, 2, true);
  char *front = text ? between(text, NULL, words[1]) : NULL;
  if (front && bos && strncmp(front, bos, strlen(bos)) == 0) front = and_free(memory_copy_string(front + strlen(bos)), front);
  char *system = front ? without_end(front, frame->before[USER]) : NULL;
  if (system) system = and_free(without_front(system, frame->before[SYSTEM]), system);
  if (system) system = and_free(without_end(system, frame->behind[SYSTEM]), system);
  if (system && *system) frame->system = memory_copy_string(system);
  free(system);
  free(front);
  free(text);
}

static void append_message(Buffer *text, const Frame *frame, int role, const char *content) {
  buffer_append_string(text, frame->before[role]);
  buffer_append_string(text, content);
  buffer_append_string(text, frame->behind[role]);
}

// Whether what Ollama will make of the frame is what the chat template makes of the same conversation.
static bool agrees(const Frame *frame, const ChatTemplate *chat, const char *bos, int first, int count) {
  char *expected = render(chat, first, count, true);
  Buffer text = {0};
  if (bos && expected && strncmp(expected, bos, strlen(bos)) == 0) buffer_append_string(&text, bos);
  if (first > 0 && frame->system) append_message(&text, frame, SYSTEM, frame->system);
  for (int i = first; i < count; i++) append_message(&text, frame, i == 3 ? USER : i, words[i]);
  buffer_append_string(&text, frame->prompt);
  bool same = expected && strcmp(expected, text.data) == 0;
  free(expected);
  buffer_release(&text);
  return same;
}

// A text that would end TEMPLATE, or be taken for a part of its language, cannot be said in it.
static bool is_plain(const Frame *frame) {
  const char *texts[2 * ROLES + 2] = {frame->prompt, frame->system ? frame->system : ""};
  for (int i = 0; i < ROLES; i++) texts[2 + 2 * i] = frame->before[i], texts[3 + 2 * i] = frame->behind[i];
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (strstr(texts[i], "{{") || strstr(texts[i], "}}") || strstr(texts[i], "\"\"\"")) return false;
  return true;
}

static void append_template(Buffer *out, const Frame *frame) {
  static const char *const tests[ROLES] = {"{{- range .Messages }}{{ if eq .Role \"system\" }}", "{{ else if eq .Role \"user\" }}",
                                           "{{ else if eq .Role \"assistant\" }}"};
  buffer_append_string(out, "TEMPLATE \"\"\"");
  for (int role = 0; role < ROLES; role++) {
    buffer_append_string(out, tests[role]);
    append_message(out, frame, role, "{{ .Content }}");
  }
  buffer_append_string(out, "{{ end }}{{ end }}");
  buffer_append_string(out, frame->prompt);
  buffer_append_string(out, "\"\"\"\n");
  if (frame->system) append_and_free(out, memory_format("SYSTEM \"\"\"%s\"\"\"\n", frame->system));
}

static void append_stop(Buffer *out, const char *stop) {
  json_t *quoted = json_string(stop);
  char *text = json_dumps(quoted, JSON_ENCODE_ANY);
  append_and_free(out, memory_format("PARAMETER stop %s\n", text));
  free(text);
  json_decref(quoted);
}

static void append_chat(Buffer *out, const ChatTemplate *chat, const Tokenizer *tokenizer) {
  Frame frame = {0};
  int32_t first = tokenizer_adds_bos(tokenizer) ? tokenizer_bos(tokenizer) : -1;  // then Ollama adds it, too
  const char *bos = first >= 0 ? tokenizer_text(tokenizer, first) : NULL, *stop = chat_template_stop(chat);
  bool is_found = find_frame(&frame, chat, bos);
  if (is_found) find_default_system(&frame, chat, bos);
  static const int cases[][2] = {{0, 2}, {0, 4}, {1, 2}, {1, 4}};
  for (int i = 0; is_found && i < 4; i++) is_found = agrees(&frame, chat, bos, cases[i][0], cases[i][1]);
  if (is_found && is_plain(&frame)) {
    append_template(out, &frame);
  } else {
    append_and_free(out,
                    memory_format("# %s does more than put texts around messages, so it cannot be said here: Ollama uses the base's own.\n",
                                  chat_template_name(chat)));
    log_warning("%s does more than put texts around messages: the Modelfile has no TEMPLATE, and Ollama will use the base's own",
                chat_template_name(chat));
  }
  if (*stop) append_stop(out, stop);
  frame_release(&frame);
}

Status ollama_write_modelfile(const char *path, const char *base, const char *adapter, const ChatTemplate *chat,
                              const Tokenizer *tokenizer) {
  Buffer out = {0};
  append_and_free(&out, memory_format("# ollama create NAME -f %s\nFROM %s\nADAPTER %s\n", path_name(path), base, adapter));
  if (chat) append_chat(&out, chat, tokenizer);
  Status status = file_write_whole(path, out.data, out.length);
  buffer_release(&out);
  return status;
}
