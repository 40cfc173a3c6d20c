// KL(P || Q) = sum_v p_v (log p_v - log q_v) of the next-token distributions of two models, position by position; logits of all
// positions are never held: hidden states of a group of texts first, then the heads on CHUNK_ROWS rows at a time.
#include "adapters/divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

enum { GROUP_TOKENS = 512, CHUNK_ROWS = 64 };

// One model's side of the measurement.
typedef struct Side {
  const Model *model;
  Tape tape, head_tape;
  float *hidden;  // [group's tokens, hidden] on the host
  float *host_logits;  // [CHUNK_ROWS, vocabulary]
} Side;

typedef struct Position {
  double divergence;
  bool agrees;
} Position;

typedef struct Chunk {
  const float *reference, *other;  // [rows, vocabulary]
  int64_t vocabulary;
  Position *positions;  // [rows]
} Chunk;

static double log_sum(const float *logits, int64_t count, int64_t *best) {
  *best = 0;
  for (int64_t i = 1; i < count; i++)
    if (logits[i] > logits[*best]) *best = i;
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += exp((double)logits[i] - logits[*best]);
  return logits[*best] + log(sum);
}

static void compare_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const Chunk *chunk = argument;
  const float *p = chunk->reference + row * chunk->vocabulary, *q = chunk->other + row * chunk->vocabulary;
  int64_t p_best, q_best;
  double p_log = log_sum(p, chunk->vocabulary, &p_best), q_log = log_sum(q, chunk->vocabulary, &q_best), sum = 0;
  for (int64_t i = 0; i < chunk->vocabulary; i++) {
    double log_p = p[i] - p_log;
    sum += exp(log_p) * (log_p - (q[i] - q_log));
  }
  chunk->positions[row] = (Position){.divergence = sum > 0 ? sum : isnan(sum) ? sum : 0, .agrees = p_best == q_best};
}

static Status side_open(Side *side, const Model *model) {
  Backend *backend = model->backend;
  *side = (Side){.model = model};
  tape_new(&side->tape, backend);
  tape_new(&side->head_tape, backend);
  return memory_try((void **)&side->host_logits, (size_t)(CHUNK_ROWS * model->config.vocabulary) * sizeof(float), "logits");
}

static void side_close(Side *side) {
  tape_free(&side->tape);
  tape_free(&side->head_tape);
  free(side->host_logits);
  free(side->hidden);
}

static Status side_run(Side *side, const DecoderInput *input) {
  free(side->hidden);
  side->hidden = NULL;
  TRY(memory_try((void **)&side->hidden, (size_t)(input->tokens * side->model->config.hidden) * sizeof(float), "hidden states"));
  tape_begin(&side->tape, TAPE_FORWARD);
  Tensor *hidden = decoder_hidden(&side->tape, side->model, input);
  tape_keep(hidden);
  tape_plan(&side->tape, 0);
  TRY(tape_reserve(&side->tape));
  tape_forward(&side->tape);
  tape_read(side->hidden, &side->tape, hidden);
  return STATUS_OK;
}

// By the decoder's own output layer, whatever of it is trained.
static Status side_logits(Side *side, int64_t first, int64_t rows) {
  const Model *model = side->model;
  Tape *tape = &side->head_tape;
  tape_begin(tape, TAPE_FORWARD);
  Tensor *logits = decoder_logits(tape, model, tape_input(tape, side->hidden + first * model->config.hidden, rows, model->config.hidden));
  tape_keep(logits);
  tape_plan(tape, 0);
  TRY(tape_reserve(tape));
  tape_forward(tape);
  tape_read(side->host_logits, tape, logits);
  return STATUS_OK;
}

// Adds one group of texts to the sums in `out`.
static Status measure_group(Divergence *out, Side sides[2], const DecoderInput *input) {
  for (int i = 0; i < 2; i++) TRY(side_run(&sides[i], input));
  Position positions[CHUNK_ROWS];
  Chunk chunk = {.reference = sides[0].host_logits,
                 .other = sides[1].host_logits,
                 .vocabulary = sides[0].model->config.vocabulary,
                 .positions = positions};
  for (int64_t first = 0; first < input->tokens; first += CHUNK_ROWS) {
    int64_t rows = input->tokens - first < CHUNK_ROWS ? input->tokens - first : CHUNK_ROWS;
    for (int i = 0; i < 2; i++) TRY(side_logits(&sides[i], first, rows));
    pool_run(sides[0].model->backend->pool, rows, compare_row, &chunk);
    for (int64_t i = 0; i < rows; i++) {
      if (!isfinite(positions[i].divergence)) return status_fail(STATUS_FAILED, "%s: a logit is not finite", sides[1].model->path);
      out->mean += positions[i].divergence;
      out->agreement += positions[i].agrees;
      out->largest = fmax(out->largest, positions[i].divergence);
    }
    out->tokens += rows;
  }
  return STATUS_OK;
}

static Status check_texts(const Model *reference, const Model *other, const DivergenceTexts *texts) {
  int64_t vocabulary = reference->config.vocabulary;
  if (other->config.vocabulary != vocabulary)
    return status_fail(STATUS_BAD_INPUT, "%s and %s have vocabularies of different sizes", reference->path, other->path);
  for (int64_t i = 0; i < texts->begins[texts->count]; i++)
    if (texts->ids[i] < 0 || texts->ids[i] >= vocabulary)
      return status_fail(STATUS_BAD_INPUT, "token %d is outside the vocabulary of %s (%lld)", texts->ids[i], reference->path,
                         (long long)vocabulary);
  return STATUS_OK;
}

static Status measure_all(Divergence *out, Side sides[2], const DivergenceTexts *texts) {
  int64_t total = texts->begins[texts->count];
  Arena arena = {0};
  int32_t *positions = arena_new(&arena, (size_t)total, sizeof *positions);
  AttentionSpan *spans = arena_new(&arena, (size_t)texts->count, sizeof *spans);
  Status status = STATUS_OK;
  for (int64_t first = 0, last; status == STATUS_OK && first < texts->count; first = last) {
    int64_t begin = texts->begins[first];
    for (last = first; last < texts->count && (last == first || texts->begins[last + 1] - begin <= GROUP_TOKENS); last++) {
      int64_t from = texts->begins[last] - begin, to = texts->begins[last + 1] - begin;
      spans[last - first] = (AttentionSpan){from, to, from, to};
      for (int64_t i = from; i < to; i++) positions[i] = (int32_t)(i - from);
    }
    int64_t tokens = texts->begins[last] - begin;
    DecoderInput input = {.ids = texts->ids + begin, .positions = positions, .tokens = tokens, .spans = spans, .span_count = last - first};
    progress_show(begin, total, "measuring");
    if (tokens > 0) status = measure_group(out, sides, &input);
  }
  progress_clear();
  arena_release(&arena);
  return status;
}

Status divergence_measure(Divergence *out, const Model *reference, const Model *other, const DivergenceTexts *texts) {
  *out = (Divergence){0};
  TRY(check_texts(reference, other, texts));
  Side sides[2] = {{.model = reference}, {.model = other}};
  Status status = side_open(&sides[0], reference);
  if (status == STATUS_OK) status = side_open(&sides[1], other);
  if (status == STATUS_OK) status = measure_all(out, sides, texts);
  for (int i = 0; i < 2; i++) side_close(&sides[i]);
  if (status != STATUS_OK) return status;
  if (out->tokens == 0) return status_fail(STATUS_BAD_INPUT, "there is no text to measure on");
  out->mean /= (double)out->tokens;
  out->agreement /= (double)out->tokens;
  return STATUS_OK;
}
