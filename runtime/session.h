// A conversation with a model: the tokens so far, and the keys and values that they left in every layer (the KV cache,
// float32), so that each new token costs one row of the decoder and not the whole text again.
// Adapters must be in the model's slots before session_new and stay until session_free: they are applied unmerged.
#ifndef RUNTIME_SESSION_H
#define RUNTIME_SESSION_H

#include "models/model.h"

typedef struct Session Session;

enum {
  SESSION_CHUNK = 512,  // rows of one pass over a prompt: from there the matrix products are at full rate
  SESSION_INT8_ROWS = 12,  // up to so many, dot products with the blocks where they lie are faster than dequantising them
};

typedef struct SessionOptions {
  int64_t capacity;  // how many tokens the cache can hold
  int64_t chunk;  // rows of one pass; 0: SESSION_CHUNK
  bool is_exact;  // float32 throughout; else the products of a few rows see activations in 8 bits (linear_forward_int8)
} SessionOptions;

// The cache takes layers * capacity * kv_heads * (head_size + value_size) * 4 bytes, of the device's memory; STATUS_NO_SPACE names the need.
Status session_new(Session **out, const Model *model, SessionOptions options);
void session_free(Session *session);

// Appends tokens (count >= 1) and computes the logits that follow the last one. STATUS_USAGE when they do not fit in
// the context, STATUS_BAD_INPUT for an id that the model does not have; the session is then as it was before.
Status session_feed(Session *session, const int32_t *ids, int64_t count);
// Forgets all but the first `length` tokens. Logits are to be had again after the next session_feed.
void session_truncate(Session *session, int64_t length);
// Makes the session hold exactly these tokens, reusing what it has in common with them from the start; at least the last
// one is fed, so that logits are there. Errors as of session_feed; *reused (may be NULL) is how many were not fed again.
Status session_match(Session *session, const int32_t *ids, int64_t count, int64_t *reused);

const float *session_logits(const Session *session);  // [vocabulary] on the host, until the next call
const int32_t *session_tokens(const Session *session);  // [length]
int64_t session_length(const Session *session);
int64_t session_capacity(const Session *session);
int64_t session_vocabulary(const Session *session);

#endif
