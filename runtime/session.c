// Incremental decoding: a pass over n new tokens at positions length .. length + n - 1 reads the keys and values of the
// whole context from the cache, behind which op_attention puts the new ones. A prompt goes through in chunks; only the
// last chunk pays for the output layer, and only on its last row. The graph of one token is built once and run again.
#include "runtime/session.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct Pass {
  Tape tape;
  int64_t tokens;  // rows that the graph was built for; 0: none
  Tensor *logits;  // [1, vocabulary]; NULL: only the cache is filled
} Pass;

struct Session {
  const Model *model;
  int64_t capacity, length, chunk;
  int32_t *tokens;  // [capacity]
  KvLayer *cache;  // [layers]
  float *cache_block;
  float *logits;  // [vocabulary]
  // What the passes read; they are run again with new values in the same places.
  int32_t *ids, *positions;  // [chunk]
  int32_t last_row;
  AttentionSpan span;
  Pass prompt, step;
};

static Status cache_new(Session *session) {
  const ModelConfig *config = &session->model->config;
  Backend *backend = session->model->backend;
  size_t key = (size_t)(config->kv_heads * config->head_size), value = (size_t)(config->kv_heads * config->value_size), layer, bytes;
  if (!size_multiply(&layer, key + value, (size_t)session->capacity) ||
      !size_multiply(&bytes, layer, (size_t)config->layers * sizeof(float)) || bytes > INT64_MAX)
    return status_fail(STATUS_USAGE, "a context of %" PRId64 " tokens is more than any memory holds", session->capacity);
  TRY(backend->allocate((void **)&session->cache_block, (int64_t)bytes,
                        "the keys and values of the context; a smaller --context needs less", backend));
  session->cache = memory_new((size_t)config->layers, sizeof *session->cache);
  for (int64_t i = 0; i < config->layers; i++) {
    float *keys = session->cache_block + (size_t)i * layer;
    session->cache[i] = (KvLayer){keys, keys + key * (size_t)session->capacity};
  }
  return STATUS_OK;
}

Status session_new(Session **out, const Model *model, SessionOptions options) {
  Session *session = memory_new(1, sizeof *session);
  int64_t capacity = options.capacity;
  session->model = model;
  session->capacity = capacity;
  session->chunk = options.chunk > 0 ? options.chunk : SESSION_CHUNK;
  if (session->chunk > capacity) session->chunk = capacity;
  tape_new(&session->prompt.tape, model->backend);
  tape_new(&session->step.tape, model->backend);
  session->prompt.tape.int8_rows = session->step.tape.int8_rows = options.is_exact ? 0 : SESSION_INT8_ROWS;
  Status status = cache_new(session);
  if (status != STATUS_OK) {
    session_free(session);
    return status;
  }
  session->tokens = memory_new((size_t)capacity, sizeof *session->tokens);
  session->ids = memory_new((size_t)session->chunk, sizeof *session->ids);
  session->positions = memory_new((size_t)session->chunk, sizeof *session->positions);
  session->logits = memory_new((size_t)model->config.vocabulary, sizeof *session->logits);
  *out = session;
  return STATUS_OK;
}

void session_free(Session *session) {
  if (!session) return;
  tape_free(&session->prompt.tape);
  tape_free(&session->step.tape);
  if (session->cache_block) session->model->backend->release(session->cache_block, session->model->backend);
  free(session->cache);
  free(session->tokens);
  free(session->ids);
  free(session->positions);
  free(session->logits);
  free(session);
}

// Builds the graph of `tokens` rows, unless it is the one that stands.
static Status pass_prepare(Pass *pass, Session *session, int64_t tokens, bool with_logits) {
  if (pass->tokens == tokens && (pass->logits != NULL) == with_logits) return STATUS_OK;
  pass->tokens = 0;
  tape_begin(&pass->tape, TAPE_FORWARD);
  DecoderInput input = {.ids = session->ids,
                        .positions = session->positions,
                        .tokens = tokens,
                        .spans = &session->span,
                        .span_count = 1,
                        .cache = session->cache,
                        .context = session->capacity,
                        .rows = &session->last_row,
                        .row_count = 1};
  Tensor *hidden = decoder_hidden(&pass->tape, session->model, &input);
  pass->logits = with_logits ? decoder_logits(&pass->tape, session->model, hidden) : NULL;
  tape_keep(with_logits ? pass->logits : hidden);
  tape_plan(&pass->tape, 0);
  TRY(tape_reserve(&pass->tape));
  pass->tokens = tokens;
  return STATUS_OK;
}

static Status feed_chunk(Session *session, const int32_t *ids, int64_t count, bool with_logits) {
  Pass *pass = count == 1 && with_logits ? &session->step : &session->prompt;
  TRY(pass_prepare(pass, session, count, with_logits));
  for (int64_t i = 0; i < count; i++) {
    session->ids[i] = ids[i];
    session->positions[i] = (int32_t)(session->length + i);
  }
  session->last_row = (int32_t)(count - 1);
  session->span = (AttentionSpan){.query_begin = 0, .query_end = count, .key_begin = 0, .key_end = session->length + count};
  tape_forward(&pass->tape);
  if (with_logits) {
    tape_read(session->logits, &pass->tape, pass->logits);
    TRY(session->model->backend->check(session->model->backend));
  }
  memcpy(session->tokens + session->length, ids, (size_t)count * sizeof *ids);
  session->length += count;
  return STATUS_OK;
}

Status session_feed(Session *session, const int32_t *ids, int64_t count) {
  if (count > session->capacity - session->length)
    return status_fail(STATUS_USAGE,
                       "the context is full: it holds %" PRId64 " of %" PRId64 " tokens, and %" PRId64
                       " more are to be read; shorten the text or raise the context",
                       session->length, session->capacity, count);
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= session->model->config.vocabulary)
      return status_fail(STATUS_BAD_INPUT,
                         "%s: the tokenizer gives the token %d, but the model has only %" PRId64 "; they do not belong together",
                         session->model->path, ids[i], session->model->config.vocabulary);
  int64_t before = session->length;
  for (int64_t done = 0; done < count;) {
    int64_t n = count - done < session->chunk ? count - done : session->chunk;
    Status status = feed_chunk(session, ids + done, n, done + n == count);
    if (status != STATUS_OK) {
      session->length = before;
      return status;
    }
    done += n;
  }
  return STATUS_OK;
}

void session_truncate(Session *session, int64_t length) {
  if (length < session->length) session->length = length;
}

Status session_match(Session *session, const int32_t *ids, int64_t count, int64_t *reused) {
  int64_t before = session->length, common = 0;
  while (common < before && common < count - 1 && session->tokens[common] == ids[common]) common++;
  session_truncate(session, common);
  Status status = session_feed(session, ids + common, count - common);
  // Nothing beyond `common` was written unless it was fed whole; a refused text leaves the old one in place.
  if (status == STATUS_USAGE || status == STATUS_BAD_INPUT) session->length = before;
  if (status == STATUS_OK && reused) *reused = common;
  return status;
}

const float *session_logits(const Session *session) { return session->logits; }
const int32_t *session_tokens(const Session *session) { return session->tokens; }
int64_t session_length(const Session *session) { return session->length; }
int64_t session_capacity(const Session *session) { return session->capacity; }
int64_t session_vocabulary(const Session *session) { return session->model->config.vocabulary; }
