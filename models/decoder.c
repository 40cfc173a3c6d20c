// The decoder that families share: h += attention of norm(h), then h += MLP of norm(h), layer after layer; a segment of the tape
// each. Of the last layer only the wanted rows are computed, but for keys and values.
#include <math.h>

#include "models/parts.h"

Tensor *add_to_stream(Tape *tape, const Linear *linear, Tensor *x, const NormSettings *post_norm, Tensor *h) {
  if (!post_norm->weight) return linear_apply(tape, linear, x, h);
  return op_norm(tape, linear_apply(tape, linear, x, NULL), post_norm, h);
}

static Turns turns_new(Tape *tape, const Positions *positions, const Rope *rope, int64_t context) {
  bool is_one = !rope_depends_on_length(rope) || positions->length > 0;
  int64_t count = is_one ? 1 : positions->span_count;
  int64_t pairs = rope->rotary / 2;
  RopeRows *rows = arena_new(&tape->arena, (size_t)count, sizeof *rows);
  float *frequencies = arena_new(&tape->arena, (size_t)(count * pairs), sizeof *frequencies);
  for (int64_t i = 0; i < count; i++) {
    const AttentionSpan *span = &positions->spans[i];
    rope_frequencies(frequencies + i * pairs, rope, is_one ? positions->length : span->key_end - span->key_begin, context);
    rows[i] = is_one ? (RopeRows){0, positions->rows} : (RopeRows){span->query_begin, span->query_end};
  }
  return (Turns){tape_input(tape, frequencies, count, pairs), rows, count};
}

static void set_turns(Positions *positions, Tape *tape, const ModelConfig *config) {
  positions->turns = turns_new(tape, positions, &config->rope, config->context_length);
  if (config->local_rope.base != 0) positions->local_turns = turns_new(tape, positions, &config->local_rope, config->context_length);
}

// The wanted rows as queries of their documents.
static Queries wanted_queries(Tape *tape, const ModelConfig *config, const DecoderInput *input, Tensor *rows, const Positions *all) {
  int32_t *positions = arena_new(&tape->arena, (size_t)input->row_count, sizeof *positions);
  int32_t *ends = arena_new(&tape->arena, (size_t)input->row_count, sizeof *ends);
  AttentionSpan *spans = arena_new(&tape->arena, (size_t)input->span_count, sizeof *spans);
  int64_t row = 0;
  for (int64_t s = 0; s < input->span_count; s++) {
    spans[s] = input->spans[s];
    spans[s].query_begin = row;
    for (; row < input->row_count && input->rows[row] < input->spans[s].query_end; row++) {
      positions[row] = input->positions[input->rows[row]];
      ends[row] = (int32_t)(spans[s].key_end - input->spans[s].query_end + input->rows[row] + 1);
    }
    spans[s].query_end = row;
  }
  Queries queries = {.rows = rows, .positions = *all, .spans = spans, .span_count = input->span_count};
  queries.positions.input = tape_input(tape, positions, input->row_count, 1);
  queries.positions.spans = spans;
  queries.positions.rows = input->row_count;
  set_turns(&queries.positions, tape, config);
  queries.ends = tape_input(tape, ends, input->row_count, 1);
  return queries;
}

// Rows of an embedding that the device has not.
typedef struct RowsTask {
  float *out;
  const Matrix *weight;
  const int32_t *ids;
  int64_t tokens;
  float scale;
} RowsTask;

enum { TASK_ROWS = 64 };

static void look_up_rows(void *argument, int64_t task, int thread) {
  (void)thread;
  const RowsTask *job = argument;
  int64_t columns = job->weight->columns, end = (task + 1) * TASK_ROWS < job->tokens ? (task + 1) * TASK_ROWS : job->tokens;
  for (int64_t i = task * TASK_ROWS; i < end; i++) {
    float *row = job->out + i * columns;
    matrix_dequantize(row, job->weight, job->ids[i], 0, columns);
    for (int64_t j = 0; j < columns; j++) row[j] *= job->scale;
  }
}

static Tensor *rows_of_host(Tape *tape, const Model *model, const DecoderInput *input, float scale) {
  const Matrix *weight = &model->embedding.weight;
  RowsTask job = {arena_new(&tape->arena, (size_t)(input->tokens * weight->columns), sizeof(float)), weight, input->ids, input->tokens,
                  scale};
  pool_run(tape->backend->pool, (input->tokens + TASK_ROWS - 1) / TASK_ROWS, look_up_rows, &job);
  return tape_input(tape, job.out, input->tokens, weight->columns);
}

static Tensor *embed(Tape *tape, const Model *model, const DecoderInput *input) {
  const Linear *embedding = &model->embedding;
  const EmbeddingPart part = {&embedding->weight, embedding->weight_gradient, embedding->adapter, embedding->tokens};
  float scale = model->family->scales_embedding ? (float)sqrt((double)model->config.hidden) : 1;
  if (model->embedding_on_host) return rows_of_host(tape, model, input, scale);
  return op_embedding_part(tape, tape_input(tape, input->ids, input->tokens, 1), &part, scale);
}

Tensor *decoder_hidden(Tape *tape, const Model *model, const DecoderInput *input) {
  const ModelConfig *c = &model->config;
  const PagedInput *paged = input->paged;
  PagedRowsInput paged_rows;
  if (paged)
    paged_rows = (PagedRowsInput){tape_input(tape, paged->slots, input->tokens, 1), tape_input(tape, paged->tables, paged->table_count, 1),
                                  &paged->batch};
  tape->row_kinds = paged ? &paged->kinds : NULL;
  Positions positions = {.input = tape_input(tape, input->positions, input->tokens, 1),
                         .spans = input->spans,
                         .span_count = input->span_count,
                         .rows = input->tokens,
                         .length = paged ? paged->context : 0};
  set_turns(&positions, tape, c);
  RepeatedRows repeated;
  if (input->key_rows) {
    repeated = repeated_rows(tape, input->key_rows, input->key_count, input->tokens);
    positions.repeated = &repeated;
  }
  const Queries all = {.positions = positions, .spans = input->spans, .span_count = input->span_count};
  Queries last = all;
  // In generation one graph serves many passes, whose texts move on: there the rows are taken at the end.
  bool takes_rows = input->rows && input->row_count < input->tokens;
  Tensor *rows = takes_rows ? tape_input(tape, input->rows, input->row_count, 1) : NULL;
  if (rows && !paged) last = wanted_queries(tape, c, input, rows, &positions);
  Tensor *h = embed(tape, model, input);
  if (input->noise > 0 && tape->mode == TAPE_TRAIN) h = op_noise(tape, h, input->spans, input->span_count, input->noise);
  for (int i = 0; i < c->layers; i++) {
    tape_segment(tape);
    h = attention_block(tape, model, &model->layers[i], paged ? &paged_rows : NULL, paged ? &paged->layers[i] : NULL, h, &positions,
                        i + 1 == c->layers ? &last : &all);
    h = mlp_block(tape, model, &model->layers[i], h);
  }
  tape_segment(tape);
  if (paged) tape->row_kinds = &paged->wanted_kinds;
  if (rows && paged) h = op_gather_rows(tape, h, rows);
  return op_norm(tape, h, &model->final_norm, NULL);
}

Tensor *decoder_loss(Tape *tape, const Model *model, Tensor *hidden, Tensor *targets, LossGradient gradient) {
  return op_head_cross_entropy(tape, hidden, linear_part(&model->head), model->head.tokens, targets, gradient,
                               (float)model->config.final_softcap);
}

Tensor *decoder_taught_loss(Tape *tape, Tensor **kl, const Model *model, Tensor *hidden, Tensor *targets, const Teacher *teacher,
                            LossGradient gradient) {
  return op_taught_cross_entropy(tape, kl, hidden, linear_part(&model->head), model->head.tokens, targets, teacher, gradient,
                                 (float)model->config.final_softcap);
}

Tensor *decoder_logits(Tape *tape, const Model *model, Tensor *hidden) {
  Tensor *logits = linear_apply(tape, &model->head, hidden, NULL);
  if (model->head.tokens && model->head.tokens->enabled) logits = op_token_logits(tape, logits, hidden, model->head.tokens);
  return model->config.final_softcap > 0 ? op_softcap(tape, logits, (float)model->config.final_softcap) : logits;
}
