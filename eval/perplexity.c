// Row j of a chunk predicts token j + 1; rows context/2 .. context - 2 go through the output layer and the loss.
// The graph of one chunk is built once and run for each.
#include "eval/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

double perplexity_value(const Perplexity *perplexity) { return exp(perplexity->nll / (double)perplexity->tokens); }

Status perplexity_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length) {
  int32_t bos = tokenizer_bos(tokenizer);
  if (tokenizer_adds_bos(tokenizer) && bos >= 0) token_list_push(out, bos);
  return tokenizer_encode(out, tokenizer, text, length, 0);
}

typedef struct ChunkPass {
  Tape tape;
  int64_t context, first, counted;  // counted rows begin at `first`
  int32_t *ids, *positions;  // [context]
  int32_t *rows, *targets;  // [counted]
  float *nll;  // [counted]
  AttentionSpan span;
  Tensor *loss;
} ChunkPass;

static Status pass_new(ChunkPass *pass, const Model *model, int64_t context) {
  *pass = (ChunkPass){.context = context, .first = context / 2, .span = {0, context, 0, context}};
  pass->counted = context - 1 - pass->first;
  tape_new(&pass->tape, model->backend);
  pass->ids = memory_new((size_t)context, sizeof *pass->ids);
  pass->positions = memory_new((size_t)context, sizeof *pass->positions);
  pass->rows = memory_new((size_t)pass->counted, sizeof *pass->rows);
  pass->targets = memory_new((size_t)pass->counted, sizeof *pass->targets);
  pass->nll = memory_new((size_t)pass->counted, sizeof *pass->nll);
  for (int64_t i = 0; i < context; i++) pass->positions[i] = (int32_t)i;
  for (int64_t i = 0; i < pass->counted; i++) pass->rows[i] = (int32_t)(pass->first + i);
  tape_begin(&pass->tape, TAPE_FORWARD);
  DecoderInput input = {.ids = pass->ids,
                        .positions = pass->positions,
                        .tokens = context,
                        .spans = &pass->span,
                        .span_count = 1,
                        .rows = pass->rows,
                        .row_count = pass->counted};
  Tensor *hidden = decoder_hidden(&pass->tape, model, &input);
  Tensor *targets = tape_input(&pass->tape, pass->targets, pass->counted, 1);
  pass->loss = decoder_loss(&pass->tape, model, hidden, targets, (LossGradient){.scale = 1});
  tape_plan(&pass->tape, 0);
  return tape_reserve(&pass->tape);
}

static void pass_release(ChunkPass *pass) {
  tape_free(&pass->tape);
  free(pass->ids);
  free(pass->positions);
  free(pass->rows);
  free(pass->targets);
  free(pass->nll);
}

static double chunk_nll(ChunkPass *pass, const int32_t *ids, int32_t bos) {
  memcpy(pass->ids, ids, (size_t)pass->context * sizeof *ids);
  if (bos >= 0) pass->ids[0] = bos;
  memcpy(pass->targets, ids + pass->first + 1, (size_t)pass->counted * sizeof *ids);
  tape_forward(&pass->tape);
  tape_read(pass->nll, &pass->tape, pass->loss);
  double sum = 0;
  for (int64_t i = 0; i < pass->counted; i++) sum += pass->nll[i];
  return sum;
}

Status perplexity_check(const Model *model, const int32_t *ids, int64_t count, int64_t context) {
  if (count < context)
    return status_fail(STATUS_USAGE,
                       "the text has %" PRId64 " tokens, which make no whole chunk of %" PRId64 "; give more text or a smaller --context",
                       count, context);
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= model->config.vocabulary)
      return status_fail(STATUS_BAD_INPUT,
                         "%s: the tokenizer gives the token %d, but the model has only %" PRId64 "; they do not belong together",
                         model->path, ids[i], model->config.vocabulary);
  return STATUS_OK;
}

Status perplexity_measure(Perplexity *out, const Model *model, const int32_t *ids, int64_t count, int64_t context, int32_t bos) {
  *out = (Perplexity){0};
  TRY(perplexity_check(model, ids, count, context));
  ChunkPass pass;
  Status status = pass_new(&pass, model, context);
  int64_t chunks = count / context;
  for (int64_t i = 0; i < chunks && status == STATUS_OK; i++) {
    out->nll += chunk_nll(&pass, ids + i * context, bos);
    out->tokens += pass.counted;
    out->chunks = i + 1;
    progress_show(i + 1, chunks, "perplexity %.4f", perplexity_value(out));
    status = model->backend->check(model->backend);
    if (status == STATUS_OK && !isfinite(out->nll))
      status = status_fail(STATUS_FAILED, "chunk %" PRId64 " of the text: the model's likelihood is no number", i + 1);
  }
  progress_clear();
  pass_release(&pass);
  return status;
}
