// POST /v1/embeddings: of each text the mean of its hidden states after the last norm, scaled to length 1.
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/generate.h"
#include "server/completion.h"
#include "server/routes.h"

typedef struct Embeddings {
  TokenList *inputs;
  int count;
  AnswerSet answers;
} Embeddings;

static void embeddings_free(void *pointer) {
  Embeddings *embeddings = pointer;
  answers_release(&embeddings->answers);
  token_lists_release(embeddings->inputs, embeddings->count);
  free(embeddings);
}

static void normalize(float *vector, int64_t columns) {
  double square = 0;
  for (int64_t i = 0; i < columns; i++) square += (double)vector[i] * vector[i];
  double scale = square > 0 ? 1 / sqrt(square) : 0;
  for (int64_t i = 0; i < columns; i++) vector[i] = (float)(vector[i] * scale);
}

// The bytes of float32, little-endian, in base64 (RFC 4648).
static json_t *base64_of(const float *vector, int64_t columns) {
  int bytes = (int)(columns * 4);
  uint8_t *raw = memory_new((size_t)bytes, 1);
  char *text = memory_new(4 * ((size_t)bytes / 3 + 1) + 1, 1);
  for (int64_t i = 0; i < columns; i++) {
    uint32_t bits;
    memcpy(&bits, &vector[i], sizeof bits);
    for (int byte = 0; byte < 4; byte++) raw[4 * i + byte] = (uint8_t)(bits >> (8 * byte));
  }
  EVP_EncodeBlock((unsigned char *)text, raw, bytes);
  json_t *string = json_string(text);
  free(text);
  free(raw);
  return string;
}

static json_t *list_of(const float *vector, int64_t columns) {
  json_t *list = json_array();
  for (int64_t i = 0; i < columns; i++) json_array_append_new(list, json_real(vector[i]));
  return list;
}

static Status reply(Call *call, Embeddings *embeddings, const char *model, bool as_base64) {
  json_t *data = json_array();
  json_int_t tokens = 0;
  for (int i = 0; i < embeddings->count; i++) {
    Answer *answer = &embeddings->answers.answers[i];
    normalize(answer->embedding, answer->columns);
    json_t *vector = as_base64 ? base64_of(answer->embedding, answer->columns) : list_of(answer->embedding, answer->columns);
    json_array_append_new(data, json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", i, "embedding", vector));
    tokens += embeddings->inputs[i].count;
  }
  return call_reply_json(call, MHD_HTTP_OK,
                         json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model", model, "usage",
                                   "prompt_tokens", tokens, "total_tokens", tokens));
}

static Status compute(Call *call, Embeddings *embeddings, int adapter) {
  answers_new(&embeddings->answers, call->server, embeddings->count, NULL, 0, false);
  for (int i = 0; i < embeddings->count; i++) {
    EngineRequest request = {.prompt = embeddings->inputs[i].ids,
                             .prompt_count = embeddings->inputs[i].count,
                             .sampling = {.top_p = 1, .repetition_penalty = 1},
                             .adapter = adapter,
                             .wants_embedding = true,
                             .is_repeatable = true};
    TRY(answer_submit(&embeddings->answers.answers[i], &request));
  }
  return call_await(&embeddings->answers, call);
}

Status handle_embeddings(Call *call) {
  Fields *fields = &call->fields;
  const ServedModel *served = &call->server->served;
  const char *format = "float", *model;
  int adapter;
  TRY(completion_adapter(&adapter, &model, call));
  TRY(fields_string(&format, fields, "encoding_format"));
  bool as_base64 = strcmp(format, "base64") == 0;
  if (!as_base64 && strcmp(format, "float") != 0)
    return fields_fail(fields, "encoding_format", "\"encoding_format\" must be \"float\" or \"base64\", and is \"%s\"", format);
  if (fields_get(fields, "dimensions"))
    return fields_fail(fields, "dimensions", "\"dimensions\" is not supported: an embedding has as many as the model's hidden states");
  Embeddings *embeddings = call->work = memory_new(1, sizeof *embeddings);
  call->release = embeddings_free;
  TRY(fields_texts(&embeddings->inputs, &embeddings->count, fields, "input", served->tokenizer, served->model->config.vocabulary,
                   generate_encode, TEXTS_MOST));
  TRY(call_check_room(call, embeddings->inputs, embeddings->count, 1, "input", false));
  TRY(compute(call, embeddings, adapter));
  return reply(call, embeddings, model, as_base64);
}
