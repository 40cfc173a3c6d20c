// Choosing a template, giving it its variables, and rendering.
#include "data/template/chat_template.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/template/builtin.h"
#include "data/template/chat_spans.h"
#include "data/jinja/jinja.h"

struct ChatTemplate {
  char *name, *source;
  Jinja *jinja;
  json_t *variables;  // special tokens and chat_template_kwargs
  char *default_system;  // NULL: none
  StopList stops;
  char *stop;
  bool argument_text;
};

// ---- Which template

static Status compile(ChatTemplate *chat, const char *name, const char *source) {
  chat->name = memory_copy_string(name);
  chat->source = memory_copy_string(source);
  return status_context(jinja_compile(&chat->jinja, name, source, strlen(source)), "chat template");
}

static Status use_builtin(ChatTemplate *chat, const char *name) {
  char *title = memory_format("the %s template", name);
  Status status = compile(chat, title, builtin_template(name));
  free(title);
  return status;
}

static Status use_own(ChatTemplate *chat, const Tokenizer *tokenizer, const char *fallback) {
  const char *own = tokenizer ? tokenizer_chat_template(tokenizer) : NULL;
  if (own) return compile(chat, "the model's own template", own);
  if (fallback && builtin_template(fallback)) return use_builtin(chat, fallback);
  return status_fail(STATUS_BAD_INPUT, "the model has no chat template; choose one in the recipe, as `chat_template: chatml`");
}

// The template itself, or the path of its file: text without a brace and a newline is a path.
static Status use_jinja(ChatTemplate *chat, const char *jinja) {
  if (!jinja) return status_fail(STATUS_USAGE, "chat_template: jinja needs chat_template_jinja, the template or the path of its file");
  if (strchr(jinja, '\n') || strchr(jinja, '{')) return compile(chat, "chat_template_jinja", jinja);
  Buffer text = {0};
  Status status = file_read(&text, jinja, 1 << 22);
  if (status == STATUS_OK) status = compile(chat, jinja, text.length ? text.data : "");
  buffer_release(&text);
  return status;
}

static Status choose(ChatTemplate *chat, const ChatTemplateOptions *options, const Tokenizer *tokenizer) {
  static const char prefix[] = "tokenizer_default_fallback_";
  const char *name = options->name;
  if (!name || strcmp(name, "tokenizer_default") == 0) return use_own(chat, tokenizer, NULL);
  if (text_starts_with(name, prefix)) return use_own(chat, tokenizer, name + strlen(prefix));
  if (strcmp(name, "jinja") == 0) return use_jinja(chat, options->jinja);
  if (builtin_template(name)) return use_builtin(chat, name);
  log_notice("chat_template: %s is not built in; the model's own template is taken", name);
  return use_own(chat, tokenizer, NULL);
}

// ---- What it is given

static void set_token(json_t *variables, const char *name, const Tokenizer *tokenizer, int32_t id) {
  const char *text = id >= 0 ? tokenizer_text(tokenizer, id) : NULL;
  if (text) json_object_set_new(variables, name, json_string(text));
}

// A value of chat_template_kwargs: YAML's scalars as they would be in JSON, else text.
static json_t *read_value(const char *text) {
  json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
  return value ? value : json_string(text);
}

static json_t *fixed_variables(const ChatTemplateOptions *options, const Tokenizer *tokenizer) {
  json_t *variables = json_object();
  if (tokenizer) {
    set_token(variables, "bos_token", tokenizer, tokenizer_bos(tokenizer));
    set_token(variables, "eos_token", tokenizer, tokenizer_eos(tokenizer));
    set_token(variables, "pad_token", tokenizer, tokenizer_pad(tokenizer));
    set_token(variables, "unk_token", tokenizer, tokenizer_unknown(tokenizer));
  }
  for (int i = 0; options->variables && i < options->variables->count; i++)
    json_object_set_new(variables, options->variables->keys[i], read_value(options->variables->values[i]));
  return variables;
}

static json_t *all_variables(const ChatTemplate *chat, const json_t *messages, const json_t *tools, bool generation_prompt) {
  json_t *variables = json_object();
  json_object_set(variables, "messages", (json_t *)(uintptr_t)messages);
  if (json_array_size(tools)) json_object_set(variables, "tools", (json_t *)(uintptr_t)tools);
  else json_object_set_new(variables, "tools", json_null());
  json_object_set_new(variables, "documents", json_null());
  json_object_set_new(variables, "add_generation_prompt", json_boolean(generation_prompt));
  json_object_update(variables, chat->variables);
  return variables;
}

// As transformers has them before it renders: without fields that are null, and with thoughts under each name that a template may read
// (transformers/utils/chat_template_utils.py, "reasoning fields").
static json_t *normal_message(const json_t *message) {
  static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
  json_t *normal = json_object(), *value, *thoughts = NULL;
  const char *key;
  for (size_t i = 0; i < sizeof names / sizeof *names && !thoughts; i++) {
    thoughts = json_object_get(message, names[i]);
    if (json_is_null(thoughts)) thoughts = NULL;
  }
  if (thoughts) json_object_set(normal, "thinking", thoughts);
  json_object_foreach((json_t *)(uintptr_t)message, key, value) if (!json_is_null(value)) json_object_set(normal, key, value);
  if (thoughts) json_object_set(normal, "reasoning_content", thoughts);
  return normal;
}

// New: the messages, behind the default system message where that is wanted.
static json_t *all_messages(const ChatTemplate *chat, const json_t *messages) {
  const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
  json_t *all = json_array();
  if (chat->default_system && !(role && strcmp(role, "system") == 0))
    json_array_append_new(all, json_pack("{s:s, s:s}", "role", "system", "content", chat->default_system));
  for (size_t i = 0; i < json_array_size(messages); i++) json_array_append_new(all, normal_message(json_array_get(messages, i)));
  return all;
}

// ---- Rendering

static Status render(JinjaText *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, bool generation_prompt,
                     const SourceMap *sources) {
  json_t *variables = all_variables(chat, messages, tools, generation_prompt);
  JinjaInput input = {.variables = variables, .marks = sources ? sources->marks : NULL, .mark_count = sources ? sources->count : 0};
  input.now = time(NULL);
  Status status = jinja_render(out, chat->jinja, &input);
  json_decref(variables);
  return status;
}

// Where a reply begins whose first bytes may be the template's: behind what a prompt for it has in common with the text. Where the
// prompt goes on in another way (it opens a thought, say), back to where a word or a mark ends.
static bool prompt_end(size_t *end, const ChatTemplate *chat, const json_t *messages, const json_t *tools, int64_t message,
                       const Buffer *text) {
  JinjaText prompt = {0};
  json_t *before = json_array();
  for (int64_t i = 0; i < message; i++) json_array_append(before, json_array_get(messages, (size_t)i));
  bool good = message > 0 && render(&prompt, chat, before, tools, true, NULL) == STATUS_OK;
  size_t common = 0;
  while (good && common < prompt.text.length && common < text->length && prompt.text.data[common] == text->data[common]) common++;
  if (common < prompt.text.length)
    while (common > 0 && !strchr(" \n>]", text->data[common - 1])) common--;
  *end = common;
  jinja_text_release(&prompt);
  json_decref(before);
  return good;
}

static void extend_replies(ChatText *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, int64_t shift) {
  for (int64_t s = 0; s < out->count; s++) {
    ChatSpan *span = &out->spans[s];
    size_t floor = s ? out->spans[s - 1].stop_end : 0, end;
    if (span_begins_with_content(out, span)) continue;
    if (prompt_end(&end, chat, messages, tools, span->message + shift, &out->text) && end >= floor && end < span->begin)
      span->reply_begin = end;
  }
}

static Status check_messages(const json_t *messages) {
  if (json_array_size(messages) == 0) return status_fail(STATUS_BAD_INPUT, "there are no messages");
  for (size_t i = 0; i < json_array_size(messages); i++)
    if (!json_is_object(json_array_get(messages, i))) return status_fail(STATUS_BAD_INPUT, "message %zu is not an object", i + 1);
  return STATUS_OK;
}

Status chat_template_render(ChatText *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, bool generation_prompt) {
  TRY(check_messages(messages));
  json_t *all = all_messages(chat, messages);
  int64_t shift = (int64_t)(json_array_size(all) - json_array_size(messages));
  JinjaText text = {0};
  SourceMap sources = {0};
  source_map_fill(&sources, messages);
  Status status = render(&text, chat, all, tools, generation_prompt, &sources);
  if (status == STATUS_OK) {
    chat_text_fill(out, &text, &sources, jinja_has_generation(chat->jinja));
    find_stops(out, &chat->stops);
    extend_replies(out, chat, all, tools, shift);
  }
  source_map_release(&sources);
  jinja_text_release(&text);
  json_decref(all);
  return status;
}

Status chat_template_write(Buffer *out, const ChatTemplate *chat, const json_t *messages, const json_t *tools, const json_t *variables,
                           bool generation_prompt) {
  TRY(check_messages(messages));
  json_t *all = all_messages(chat, messages), *given = all_variables(chat, all, tools, generation_prompt), *value;
  const char *key;
  json_object_foreach((json_t *)(uintptr_t)variables, key, value) if (strcmp(key, "messages") != 0 && strcmp(key, "tools") != 0)
      json_object_set(given, key, value);
  JinjaText text = {0};
  Status status = jinja_render(&text, chat->jinja, &(JinjaInput){.variables = given, .now = time(NULL)});
  if (status == STATUS_OK) buffer_append(out, text.text.data ? text.text.data : "", text.text.length);
  jinja_text_release(&text);
  json_decref(given);
  json_decref(all);
  return status;
}

// ---- What can be known of a template by trying it

// What stands behind the replies of a conversation: of the last one, and of the one before it (NULL where the template refuses a
// second exchange). False where it refuses even one.
static bool try_conversation(char **last, char **before, const ChatTemplate *chat, int exchanges) {
  static const char *const roles[] = {"user", "assistant"}, *const contents[] = {"\xE2\x98\x83q", "\xE2\x98\x83r"};
  json_t *messages = json_array();
  for (int i = 0; i < 2 * exchanges; i++)
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", roles[i % 2], "content", contents[i % 2]));
  ChatText text = {0};
  bool good = chat_template_render(&text, chat, messages, NULL, false) == STATUS_OK && text.count == 2 * exchanges;
  *last = *before = NULL;
  if (good) *last = memory_copy_string(text.text.data + text.spans[text.count - 1].end);
  if (good && exchanges > 1)
    *before = memory_format("%.*s", (int)(text.spans[2].begin - text.spans[1].end), text.text.data + text.spans[1].end);
  chat_text_release(&text);
  json_decref(messages);
  return good;
}

static bool has_stop(const ChatTemplate *chat, const char *text) {
  size_t begin, end;
  return stop_list_find(&begin, &end, &chat->stops, text, 0, strlen(text));
}

// The first end of turn that the vocabulary knows, else its first control token; else NULL.
static char *find_token(const ChatTemplate *chat, const char *behind, const Tokenizer *tokenizer) {
  size_t begin, end, length = strlen(behind);
  if (stop_list_find(&begin, &end, &chat->stops, behind, 0, length)) return memory_format("%.*s", (int)(end - begin), behind + begin);
  TokenList ids = {0};
  char *stop = NULL;
  if (tokenizer) tokenizer_encode(&ids, tokenizer, behind, length, TOKENIZE_PARSE_SPECIAL);
  for (int64_t i = 0; i < ids.count && !stop; i++)
    if (tokenizer_is_special(tokenizer, ids.ids[i])) stop = memory_copy_string(tokenizer_text(tokenizer, ids.ids[i]));
  token_list_release(&ids);
  return stop;
}

// The first word behind a reply, where it is the same behind both.
static char *find_word(const char *last, const char *before) {
  size_t skip = strspn(last, " \t\r\n"), length = strcspn(last + skip, " \t\r\n");
  if (before && strncmp(last, before, skip + length) != 0) return memory_copy_string("");
  return memory_format("%.*s", (int)length, last + skip);
}

// How turns end: a token of the vocabulary, or a text that this vocabulary has no token for. A marker that stands behind the last
// turn alone ends a conversation, and another one its turns.
static void try_stop(ChatTemplate *chat, const Tokenizer *tokenizer) {
  char *last, *before;
  if (!try_conversation(&last, &before, chat, 2)) try_conversation(&last, &before, chat, 1);
  chat->stop = last ? find_token(chat, last, tokenizer) : NULL;
  if (chat->stop) stop_list_add(&chat->stops, chat->stop);
  if (last && (!chat->stop || (before && !has_stop(chat, before)))) {
    free(chat->stop);
    chat->stop = find_word(last, before);
    stop_list_add(&chat->stops, chat->stop);
  }
  if (!chat->stop) chat->stop = memory_copy_string("");
  free(last);
  free(before);
}

static bool renders_arguments(const ChatTemplate *chat, json_t *arguments) {
  json_t *messages =
      json_pack("[{s:s, s:s}, {s:s, s:s, s:[{s:s, s:s, s:{s:s, s:o}}]}]", "role", "user", "content", "q", "role", "assistant", "content",
                "", "tool_calls", "id", "123456789", "type", "function", "function", "name", "f", "arguments", arguments);
  ChatText text = {0};
  bool good = chat_template_render(&text, chat, messages, NULL, false) == STATUS_OK;
  chat_text_release(&text);
  json_decref(messages);
  return good;
}

static void try_arguments(ChatTemplate *chat) {
  chat->argument_text = !renders_arguments(chat, json_pack("{s:s}", "a", "b")) && renders_arguments(chat, json_string("{\"a\": \"b\"}"));
}

// ---- Opening

static void list_stops(StopList *stops, const ChatTemplateOptions *options, const Tokenizer *tokenizer) {
  for (int i = 0; options->stops && i < options->stops->count; i++) stop_list_add(stops, options->stops->items[i]);
  for (int64_t id = 0; tokenizer && id < tokenizer_size(tokenizer); id++)
    if (tokenizer_is_end(tokenizer, (int32_t)id)) stop_list_add(stops, tokenizer_text(tokenizer, (int32_t)id));
}

ChatTemplateOptions chat_template_options(const Recipe *recipe, const DatasetRecipe *dataset) {
  bool own = dataset->chat_template != NULL;
  ChatTemplateOptions options = {.name = own ? dataset->chat_template : recipe->chat_template,
                                 .jinja = dataset->chat_template_jinja ? dataset->chat_template_jinja : recipe->chat_template_jinja,
                                 .default_system = recipe->default_system_message,
                                 .variables = &recipe->chat_template_kwargs,
                                 .stops = &recipe->eot_tokens};
  if (!options.name && options.jinja) options.name = "jinja";
  return options;
}

Status chat_template_open(ChatTemplate **out, const ChatTemplateOptions *options, const Tokenizer *tokenizer) {
  ChatTemplate *chat = memory_new(1, sizeof *chat);
  *out = NULL;
  Status status = choose(chat, options, tokenizer);
  if (status != STATUS_OK) {
    chat_template_free(chat);
    return status;
  }
  chat->variables = fixed_variables(options, tokenizer);
  chat->default_system = memory_copy_string(options->default_system);
  list_stops(&chat->stops, options, tokenizer);
  try_stop(chat, tokenizer);
  try_arguments(chat);
  *out = chat;
  return STATUS_OK;
}

void chat_template_free(ChatTemplate *chat) {
  if (!chat) return;
  jinja_free(chat->jinja);
  json_decref(chat->variables);
  stop_list_release(&chat->stops);
  free(chat->default_system);
  free(chat->stop);
  free(chat->source);
  free(chat->name);
  free(chat);
}

const char *chat_template_source(const ChatTemplate *chat) { return chat->source; }
const char *chat_template_name(const ChatTemplate *chat) { return chat->name; }
const char *chat_template_stop(const ChatTemplate *chat) { return chat->stop; }
bool chat_template_knows_tools(const ChatTemplate *chat) { return jinja_reads(chat->jinja, "tools"); }
bool chat_template_wants_argument_text(const ChatTemplate *chat) { return chat->argument_text; }
