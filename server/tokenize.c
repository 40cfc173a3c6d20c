// POST /tokenize and /detokenize, GET /tokenizer_info: the vocabulary, by the names that vLLM's, llama.cpp's and lm-eval's clients use.
#include <string.h>

#include "runtime/generate.h"
#include "server/token_json.h"
#include "server/routes.h"

// The text by either of its names.
static Status read_text(const char **text, Fields *fields) {
  *text = NULL;
  TRY(fields_string(text, fields, "prompt"));
  TRY(fields_string(text, fields, "content"));
  return *text ? STATUS_OK : fields_fail(fields, "content", "\"content\" is missing: the text");
}

Status handle_tokenize(Call *call) {
  Fields *fields = &call->fields;
  const ServedModel *served = &call->server->served;
  const char *text;
  bool add_special = false, with_pieces = false;
  TRY(read_text(&text, fields));
  TRY(fields_bool(&add_special, fields, "add_special"));
  TRY(fields_bool(&add_special, fields, "add_special_tokens"));
  TRY(fields_bool(&with_pieces, fields, "with_pieces"));
  TokenList ids = {0};
  int flags = TOKENIZE_PARSE_SPECIAL | (add_special ? TOKENIZE_ADD_SPECIAL : 0);
  Status status = tokenizer_encode(&ids, served->tokenizer, text, strlen(text), flags);
  json_t *tokens = json_array();
  for (int64_t i = 0; i < ids.count; i++) {
    json_t *id = json_integer(ids.ids[i]);
    json_array_append_new(tokens,
                          with_pieces ? json_pack("{s:o, s:o}", "id", id, "piece", token_string(served->tokenizer, ids.ids[i])) : id);
  }
  json_int_t count = (json_int_t)ids.count;
  token_list_release(&ids);
  json_t *object = json_pack("{s:o, s:I, s:I}", "tokens", tokens, "count", count, "max_model_len", (json_int_t)served->engine.context);
  if (status == STATUS_OK) return call_reply_json(call, MHD_HTTP_OK, object);
  json_decref(object);
  return status;
}

Status handle_detokenize(Call *call) {
  Fields *fields = &call->fields;
  const ServedModel *served = &call->server->served;
  const json_t *tokens = NULL;
  TRY(fields_array(&tokens, fields, "tokens"));
  if (!tokens) return fields_fail(fields, "tokens", "\"tokens\" is missing: a list of ids");
  TokenList ids = {0};
  Buffer bytes = {0}, text = {0};
  Status status = fields_tokens(&ids, fields, "tokens", tokens, served->model->config.vocabulary);
  if (status == STATUS_OK) tokenizer_decode(&bytes, served->tokenizer, ids.ids, ids.count, true);
  TextStream stream;  // tokens may end in the middle of a character
  text_stream_new(&stream, NULL, 0);
  text_stream_push(&text, &stream, bytes.data ? bytes.data : "", bytes.length);
  text_stream_finish(&text, &stream);
  text_stream_release(&stream);
  if (status == STATUS_OK) {
    const char *data = text.data ? text.data : "";
    status = call_reply_json(call, MHD_HTTP_OK, json_pack("{s:s%, s:s%}", "content", data, text.length, "prompt", data, text.length));
  }
  buffer_release(&text);
  buffer_release(&bytes);
  token_list_release(&ids);
  return status;
}

static const char *text_of(const Tokenizer *tokenizer, int32_t id) { return id >= 0 ? tokenizer_text(tokenizer, id) : NULL; }

Status handle_tokenizer_info(Call *call) {
  const ServedModel *served = &call->server->served;
  const Tokenizer *tokenizer = served->tokenizer;
  const char *template = served->chat ? chat_template_source(served->chat) : NULL;
  return call_reply_json(
      call, MHD_HTTP_OK,
      json_pack("{s:s?, s:s?, s:s?, s:s?, s:I, s:I, s:b, s:s?}", "eos_token", text_of(tokenizer, tokenizer_eos(tokenizer)), "bos_token",
                text_of(tokenizer, tokenizer_bos(tokenizer)), "pad_token", text_of(tokenizer, tokenizer_pad(tokenizer)), "unk_token",
                text_of(tokenizer, tokenizer_unknown(tokenizer)), "vocab_size", (json_int_t)tokenizer_size(tokenizer), "model_max_length",
                (json_int_t)served->engine.context, "add_bos_token", (int)tokenizer_adds_bos(tokenizer), "chat_template", template));
}
