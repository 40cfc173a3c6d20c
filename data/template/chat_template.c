// The built-in chat templates: each message becomes head + content + stop + tail by a table of forms.
#include "data/template/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"

typedef struct ChatForm {
  const char *name;
  const char *stop;  // the end-of-turn marker; NULL: EOS
  Status (*render)(ChatText *out, const ChatTemplate *chat, const json_t *messages, bool generation_prompt);
} ChatForm;

struct ChatTemplate {
  const ChatForm *form;
  char *bos, *eos, *stop;
  char *default_system;  // NULL: none
  bool knows_tools;
};

typedef struct ChatMessage {
  const char *role, *content;
  size_t role_length, content_length;
} ChatMessage;

static Status message_read(ChatMessage *message, const json_t *messages, size_t index) {
  const json_t *object = json_array_get(messages, index);
  const json_t *role = json_object_get(object, "role"), *content = json_object_get(object, "content");
  if (!json_is_string(role)) return status_fail(STATUS_BAD_INPUT, "message %zu has no role", index + 1);
  if (!json_is_string(content)) {
    return status_fail(STATUS_BAD_INPUT, "message %zu (%s) has no text content%s", index + 1, json_string_value(role),
                       json_object_get(object, "tool_calls") ? "; tool calls need a template that prints them" : "");
  }
  *message = (ChatMessage){json_string_value(role), json_string_value(content), json_string_length(role), json_string_length(content)};
  return STATUS_OK;
}

// The length of the white space character at `p`, as Python's str.strip() sees it; else 0.
static size_t space_length(const char *p, size_t available) {
  static const char *const wide[] = {"\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
                                     "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
                                     "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
                                     "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};
  unsigned char c = (unsigned char)*p;
  if (c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F)) return 1;
  for (size_t i = 0; c >= 0x80 && i < sizeof wide / sizeof *wide; i++) {
    size_t length = strlen(wide[i]);
    if (length <= available && memcmp(p, wide[i], length) == 0) return length;
  }
  return 0;
}

static size_t message_trim(ChatMessage *message) {
  size_t front = 0, end = message->content_length;
  for (size_t step; front < end && (step = space_length(message->content + front, end - front)); front += step) continue;
  for (bool found = true; found && end > front;) {
    found = false;
    for (size_t step = 1; step <= 3 && step <= end - front && !found; step++)
      if (space_length(message->content + end - step, step) == step) end -= step, found = true;
  }
  message->content += front;
  message->content_length = end - front;
  return front;
}

static void print_content(ChatText *out, int64_t index, const char *content, size_t length, size_t cut, const char *stop) {
  ChatSpan span = {.message = index, .begin = out->text.length, .cut = cut};
  buffer_append(&out->text, content, length);
  span.end = span.stop_begin = out->text.length;
  buffer_append_string(&out->text, stop);
  span.stop_end = out->text.length;
  ARRAY_PUSH(out->spans, out->count, out->capacity) = span;
}

static void print_turn(ChatText *out, const ChatTemplate *chat, int64_t index, const ChatMessage *message, size_t cut, const char *open,
                       const char *close) {
  buffer_append_string(&out->text, open);
  buffer_append(&out->text, message->role, message->role_length);
  buffer_append_string(&out->text, close);
  print_content(out, index, message->content, message->content_length, cut, chat->stop);
}

static bool message_is_system(const ChatMessage *message) { return strcmp(message->role, "system") == 0; }

static ChatMessage default_system(const ChatTemplate *chat) {
  return (ChatMessage){"system", chat->default_system, strlen("system"), strlen(chat->default_system)};
}

static Status render_chatml(ChatText *out, const ChatTemplate *chat, const json_t *messages, bool generation_prompt) {
  for (size_t i = 0; i < json_array_size(messages); i++) {
    ChatMessage message;
    TRY(message_read(&message, messages, i));
    if (i == 0 && chat->default_system && !message_is_system(&message)) {
      ChatMessage first = default_system(chat);
      print_turn(out, chat, -1, &first, 0, "<|im_start|>", "\n");
      buffer_append_string(&out->text, "\n");
    }
    print_turn(out, chat, (int64_t)i, &message, 0, "<|im_start|>", "\n");
    buffer_append_string(&out->text, "\n");
  }
  if (generation_prompt) buffer_append_string(&out->text, "<|im_start|>assistant\n");
  return STATUS_OK;
}

static Status render_llama3(ChatText *out, const ChatTemplate *chat, const json_t *messages, bool generation_prompt) {
  for (size_t i = 0; i < json_array_size(messages); i++) {
    ChatMessage message;
    TRY(message_read(&message, messages, i));
    if (i == 0) buffer_append_string(&out->text, chat->bos);
    if (i == 0 && chat->default_system && !message_is_system(&message)) {
      ChatMessage first = default_system(chat);
      print_turn(out, chat, -1, &first, message_trim(&first), "<|start_header_id|>", "<|end_header_id|>\n\n");
    }
    size_t cut = message_trim(&message);
    print_turn(out, chat, (int64_t)i, &message, cut, "<|start_header_id|>", "<|end_header_id|>\n\n");
  }
  if (generation_prompt) buffer_append_string(&out->text, "<|start_header_id|>assistant<|end_header_id|>\n\n");
  return STATUS_OK;
}

static Status render_alpaca(ChatText *out, const ChatTemplate *chat, const json_t *messages, bool generation_prompt) {
  size_t count = json_array_size(messages);
  buffer_append_string(&out->text, chat->bos);
  for (size_t i = 0; i < count; i++) {
    ChatMessage message;
    TRY(message_read(&message, messages, i));
    if (i == 0 && chat->default_system && !message_is_system(&message)) {
      print_content(out, -1, chat->default_system, strlen(chat->default_system), 0, "");
      buffer_append_string(&out->text, "\n\n");
    }
    if (i == 0 && message_is_system(&message)) {
      print_content(out, 0, message.content, message.content_length, 0, "");
    } else if (strcmp(message.role, "user") == 0) {
      buffer_append_string(&out->text, "### Instruction:\n");
      print_content(out, (int64_t)i, message.content, message.content_length, 0, "");
    } else if (strcmp(message.role, "assistant") == 0) {
      buffer_append_string(&out->text, "### Response:\n");
      print_content(out, (int64_t)i, message.content, message.content_length, 0, chat->stop);
    }
    if (i + 1 < count) buffer_append_string(&out->text, "\n\n");
  }
  if (generation_prompt) buffer_append_string(&out->text, "\n\n### Response:\n");
  return STATUS_OK;
}

static const ChatForm forms[] = {
    {"chatml", "<|im_end|>", render_chatml},
    {"llama3", "<|eot_id|>", render_llama3},
    {"alpaca", NULL, render_alpaca},
};
enum { FORM_COUNT = sizeof forms / sizeof *forms };

static const ChatForm *find_form(const char *name) {
  for (int i = 0; i < FORM_COUNT; i++)
    if (strcmp(forms[i].name, name) == 0) return &forms[i];
  return NULL;
}

static bool contains_any(const char *text, const char *const *words) {
  for (; *words; words++)
    if (strstr(text, *words)) return true;
  return false;
}

// The text of the literal system message that a ChatML template prints where a conversation has none:
// what stands between `<|im_start|>system\n` and `<|im_end|>` unless the literal ends first. False when
// two of them differ, or one is computed.
static bool find_default_system(char **out, const char *source) {
  *out = NULL;
  for (const char *p = source; (p = strstr(p, "<|im_start|>system"));) {
    p += strlen("<|im_start|>system");
    p += *p == '\n' ? 1 : strncmp(p, "\\n", 2) == 0 ? 2 : 0;
    const char *end = strstr(p, "<|im_end|>");
    size_t length = end ? (size_t)(end - p) : 0;
    if (*p == '\'' || *p == '"') continue;
    bool plain = length > 0 && !memchr(p, '\'', length) && !memchr(p, '"', length) && !memchr(p, '{', length) && !memchr(p, '\\', length);
    if (!plain || (*out && (strlen(*out) != length || memcmp(*out, p, length) != 0))) {
      free(*out);
      *out = NULL;
      return false;
    }
    if (!*out) *out = memory_format("%.*s", (int)length, p);
  }
  return true;
}

// Recognises a template by its marks, and by the absence of all that would make it print anything else.
static const ChatForm *recognise(ChatTemplate *chat, const char *source) {
  static const char *const beyond_chatml[] = {"think",   "reasoning",       "trim",      "strip",         "split",
                                              "replace", "raise_exception", "bos_token", "upper",         "capitalize",
                                              "title",   "strftime",        "eos_token", "generation %}", NULL};
  static const char *const beyond_llama3[] = {"strftime", "date_string", "Environment", "tool", "think", "raise_exception", NULL};
  if (!strstr(source, "add_generation_prompt")) return NULL;
  if (strstr(source, "<|im_start|>") && strstr(source, "<|im_end|>") && !contains_any(source, beyond_chatml)) {
    // `loop.last` in the tools part closes a run of tool replies; elsewhere it changes the end of the text.
    if (strstr(source, "loop.last") && !strstr(source, "<tool_response>")) return NULL;
    char *system;
    if (!find_default_system(&system, source)) return NULL;
    if (!chat->default_system) chat->default_system = system;
    else free(system);
    chat->knows_tools = strstr(source, "tool") != NULL;
    return find_form("chatml");
  }
  bool llama3 =
      strstr(source, "<|start_header_id|>") && strstr(source, "<|eot_id|>") && strstr(source, "trim") && strstr(source, "bos_token");
  return llama3 && !contains_any(source, beyond_llama3) ? find_form("llama3") : NULL;
}

static Status choose_own(ChatTemplate *chat, const char *source, const char *whose, const char *fallback) {
  const ChatForm *form = source ? recognise(chat, source) : NULL;
  if (!form && !source && fallback) form = find_form(fallback);
  chat->form = form;
  if (form) return STATUS_OK;
  if (!source) return status_fail(STATUS_BAD_INPUT, "the model has no chat template; choose one in the recipe, as `chat_template: chatml`");
  return status_fail(
      STATUS_BAD_INPUT,
      "%s chat template is not one of those that are built in (chatml, llama3, alpaca); choose one, as `chat_template: chatml`", whose);
}

static Status choose_jinja(ChatTemplate *chat, const char *jinja) {
  if (!jinja) return status_fail(STATUS_USAGE, "chat_template: jinja needs chat_template_jinja, the template or the path of its file");
  Buffer buffer = {0};
  Status status = STATUS_OK;
  if (!strchr(jinja, '\n') && file_exists(jinja)) status = file_read(&buffer, jinja, 1 << 20);
  else buffer_append_string(&buffer, jinja);
  if (status == STATUS_OK) status = choose_own(chat, buffer.data, "chat_template_jinja: this", NULL);
  buffer_release(&buffer);
  return status;
}

static Status choose_form(ChatTemplate *chat, const ChatTemplateOptions *options, const Tokenizer *tokenizer) {
  static const char fallback_prefix[] = "tokenizer_default_fallback_";
  const char *own = tokenizer ? tokenizer_chat_template(tokenizer) : NULL, *name = options->name;
  if (!name || strcmp(name, "tokenizer_default") == 0) return choose_own(chat, own, "the model's own", NULL);
  if (text_starts_with(name, fallback_prefix)) return choose_own(chat, own, "the model's own", name + strlen(fallback_prefix));
  if (strcmp(name, "jinja") == 0) return choose_jinja(chat, options->jinja);
  chat->form = find_form(name);
  if (chat->form) return STATUS_OK;
  log_notice("chat_template: %s is not built in; the model's own template is taken", name);
  return choose_own(chat, own, "the model's own", NULL);
}

static char *special_text(const Tokenizer *tokenizer, int32_t id) {
  const char *text = tokenizer && id >= 0 ? tokenizer_text(tokenizer, id) : NULL;
  return memory_copy_string(text ? text : "");
}

Status chat_template_open(ChatTemplate **out, const ChatTemplateOptions *options, const Tokenizer *tokenizer) {
  ChatTemplate *chat = memory_new(1, sizeof *chat);
  *out = NULL;
  chat->default_system = memory_copy_string(options->default_system);
  chat->bos = special_text(tokenizer, tokenizer ? tokenizer_bos(tokenizer) : -1);
  chat->eos = special_text(tokenizer, tokenizer ? tokenizer_eos(tokenizer) : -1);
  Status status = choose_form(chat, options, tokenizer);
  if (status != STATUS_OK) {
    chat_template_free(chat);
    return status;
  }
  chat->stop = memory_copy_string(chat->form->stop ? chat->form->stop : chat->eos);
  *out = chat;
  return STATUS_OK;
}

void chat_template_free(ChatTemplate *chat) {
  if (!chat) return;
  free(chat->default_system);
  free(chat->bos);
  free(chat->eos);
  free(chat->stop);
  free(chat);
}

static Status refuse_tools(const ChatTemplate *chat, const json_t *messages, const json_t *tools) {
  if (!chat->knows_tools) return STATUS_OK;
  if (json_array_size(tools) > 0) {
    return status_fail(STATUS_BAD_INPUT,
                       "the row has tools, which the built-in form of the model's template does not print; "
                       "with `chat_template: chatml` they are left out");
  }
  for (size_t i = 0; i < json_array_size(messages); i++) {
    const json_t *object = json_array_get(messages, i);
    const char *role = json_string_value(json_object_get(object, "role"));
    if (json_object_get(object, "tool_calls") || (role && strcmp(role, "tool") == 0))
      return status_fail(STATUS_BAD_INPUT, "message %zu is about a tool, which the built-in form of this template does not print", i + 1);
  }
  return STATUS_OK;
}

Status chat_template_render(ChatText *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, bool generation_prompt) {
  if (json_array_size(messages) == 0) return status_fail(STATUS_BAD_INPUT, "there are no messages");
  TRY(refuse_tools(chat, messages, tools));
  buffer_reserve(&out->text, 0);
  out->text.data[out->text.length] = 0;
  return chat->form->render(out, chat, messages, generation_prompt);
}

void chat_text_release(ChatText *text) {
  buffer_release(&text->text);
  free(text->spans);
  *text = (ChatText){0};
}

const char *chat_template_name(const ChatTemplate *chat) { return chat->form->name; }
const char *chat_template_stop(const ChatTemplate *chat) { return chat->stop; }
bool chat_template_knows_tools(const ChatTemplate *chat) { return chat->knows_tools; }
