// The body of a request for a completion, a conversation or embeddings, as handlers read it; and the heads that are compared with names and keys.
#include <stdlib.h>
#include <string.h>

#include "data/jinja/jinja.h"
#include "server/chat_messages.h"
#include "server/completion.h"
#include "server/routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Tokenizer *vocabulary_of_bytes(void) {
  static Tokenizer *tokenizer;
  static const char json[] =
      "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"<|end|>\": 0, \"a\": 1, \"b\": 2, \"c\": 3}, \"merges\": []}, \"added_tokens\": "
      "[{\"id\": 0, "
      "\"content\": \"<|end|>\", \"special\": true}], \"pre_tokenizer\": {\"type\": \"ByteLevel\"}}";
  if (!tokenizer && tokenizer_from_json(&tokenizer, "own", json, strlen(json)) != STATUS_OK) abort();
  return tokenizer;
}

static ChatTemplate *template_of_chatml(const Tokenizer *tokenizer) {
  static ChatTemplate *chat;
  if (!chat && chat_template_open(&chat, &(ChatTemplateOptions){.name = "chatml"}, tokenizer) != STATUS_OK) abort();
  return chat;
}

static Status encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length) {
  return tokenizer_encode(out, tokenizer, text, length, TOKENIZE_PARSE_SPECIAL);
}

static void read_heads(const char *bytes, size_t size) {
  char *text = memory_format("%.*s", (int)(size < 256 ? size : 256), bytes);
  uint8_t hash[32] = {0};
  const KeyList keys = {.hashes = &hash, .count = 1};
  if (key_list_allows(&keys, text)) abort();
  host_is_local(text, "box");
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  enum { VOCABULARY = 4 };
  static Model model = {.config = {.vocabulary = VOCABULARY}};
  static Server server;
  server.served = (ServedModel){.name = "own", .model = &model, .tokenizer = vocabulary_of_bytes()};
  server.served.chat = template_of_chatml(server.served.tokenizer);
  Call call = {.server = &server};
  read_heads((const char *)data, size);
  if (json_body_read(&call.json, (const char *)data, size) != STATUS_OK) return 0;
  call.fields.object = call.json;
  TokenList *lists = NULL, prompt = {0};
  int count = 0;
  static const CompletionForm form = {.id_prefix = "own-"};
  Completion *completion;
  completion_new(&completion, &call, &form);
  call.release(call.work);
  if (fields_texts(&lists, &count, &call.fields, "prompt", server.served.tokenizer, VOCABULARY, encode, 16) == STATUS_OK && count == 0)
    abort();
  token_lists_release(lists, count);
  ChatTools tools;
  if (chat_tools_read(&tools, &call.fields, server.served.chat) == STATUS_OK)
    chat_messages_encode(&prompt, &call.fields, &tools, server.served.chat, server.served.tokenizer);
  chat_tools_release(&tools);
  for (int64_t i = 0; i < prompt.count; i++)
    if (prompt.ids[i] < 0 || prompt.ids[i] >= VOCABULARY) abort();
  token_list_release(&prompt);
  json_decref(call.json);
  return 0;
}
