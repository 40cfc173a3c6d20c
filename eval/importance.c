// One pass of the decoder a chunk; the tape shows each linear operation's x to an observer before it multiplies.
#include "eval/importance.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/log.h"
#include "core/map.h"
#include "eval/perplexity.h"

typedef struct Collector {
  TapeObserver observer;  // first: the tape hands this back
  const Model *model;
  Importance *importance;
  double **sums;  // [linear layers][columns]
  Map layers;  // a weight's address -> its number
  float *x;  // [tokens, columns] on the host
  double *squares;  // [columns]
} Collector;

static void square_columns(double *squares, const float *x, int64_t rows, int64_t columns) {
  memset(squares, 0, (size_t)columns * sizeof *squares);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < columns; i++) squares[i] += (double)x[row * columns + i] * (double)x[row * columns + i];
}

// Matrices of one operation read one x: q, k and v, or gate and up.
static void collect(TapeObserver *observer, const Matrix *const *weights, int count, const Tensor *x) {
  Collector *collector = (Collector *)observer;
  Backend *backend = collector->model->backend;
  assert(x->type == FLOAT_32);
  backend->download(collector->x, x->data, x->rows * x->columns * (int64_t)sizeof(float), backend);
  square_columns(collector->squares, collector->x, x->rows, x->columns);
  for (int w = 0; w < count; w++) {
    int64_t layer;
    if (!map_get(&collector->layers, &weights[w], sizeof weights[w], &layer)) continue;
    for (int64_t i = 0; i < x->columns; i++) collector->sums[layer][i] += collector->squares[i];
    collector->importance->entries[layer].counts[0] += (float)x->rows;
  }
}

static void collector_new(Collector *collector, Importance *out, const Model *model, int64_t context) {
  *collector = (Collector){.observer = {collect}, .model = model, .importance = out};
  int64_t widest = 0;
  out->entries = arena_new(&out->arena, (size_t)model->linear_count, sizeof *out->entries);
  collector->sums = arena_new(&out->arena, (size_t)model->linear_count, sizeof *collector->sums);
  Map names = {0};  // parts of one fused matrix have one name and one input: the first stands for all
  for (int i = 0; i < model->linear_count; i++) {
    const Linear *linear = model->linears[i];
    const Matrix *weight = &linear->weight;
    if (map_get_string(&names, linear->gguf_name, NULL)) continue;
    map_set_string(&names, linear->gguf_name, i);
    out->entries[out->count] = (ImatrixEntry){.name = arena_format(&out->arena, "%s.weight", linear->gguf_name),
                                              .columns = weight->columns,
                                              .experts = 1,
                                              .sums = arena_new(&out->arena, (size_t)weight->columns, sizeof(float)),
                                              .counts = arena_new(&out->arena, 1, sizeof(float))};
    collector->sums[out->count] = arena_new(&out->arena, (size_t)weight->columns, sizeof **collector->sums);
    map_set(&collector->layers, &weight, sizeof weight, out->count++);
    if (weight->columns > widest) widest = weight->columns;
  }
  map_release(&names);
  collector->squares = arena_new(&out->arena, (size_t)widest, sizeof *collector->squares);
  collector->x = arena_new(&out->arena, (size_t)(context * widest), sizeof *collector->x);
}

typedef struct ChunkPass {
  Tape tape;
  int32_t *ids, *positions;  // [context]
  AttentionSpan span;
} ChunkPass;

static Status pass_new(ChunkPass *pass, Collector *collector, int64_t context) {
  const Model *model = collector->model;
  Arena *arena = &collector->importance->arena;
  *pass = (ChunkPass){.span = {0, context, 0, context}};
  pass->ids = arena_new(arena, (size_t)context, sizeof *pass->ids);
  pass->positions = arena_new(arena, (size_t)context, sizeof *pass->positions);
  for (int64_t i = 0; i < context; i++) pass->positions[i] = (int32_t)i;
  tape_new(&pass->tape, model->backend);
  pass->tape.observer = &collector->observer;
  tape_begin(&pass->tape, TAPE_FORWARD);
  DecoderInput input = {.ids = pass->ids, .positions = pass->positions, .tokens = context, .spans = &pass->span, .span_count = 1};
  tape_keep(decoder_hidden(&pass->tape, model, &input));
  tape_plan(&pass->tape, 0);
  return tape_reserve(&pass->tape);
}

static Status finish(Collector *collector) {
  Importance *out = collector->importance;
  for (int64_t layer = 0; layer < out->count; layer++)
    for (int64_t i = 0; i < out->entries[layer].columns; i++) {
      double sum = collector->sums[layer][i];
      if (!isfinite((float)sum))
        return status_fail(STATUS_FAILED, "%s: the activations before %s are no numbers", collector->model->path, out->entries[layer].name);
      out->entries[layer].sums[i] = (float)sum;
    }
  return STATUS_OK;
}

Status importance_measure(Importance *out, const Model *model, const int32_t *ids, int64_t count, int64_t context, int64_t max_chunks,
                          int32_t bos) {
  *out = (Importance){0};
  TRY(perplexity_check(model, ids, count, context));
  Collector collector;
  ChunkPass pass;
  collector_new(&collector, out, model, context);
  Status status = pass_new(&pass, &collector, context);
  int64_t chunks = count / context;
  if (max_chunks > 0 && max_chunks < chunks) chunks = max_chunks;
  for (; status == STATUS_OK && out->chunks < chunks; out->chunks++) {
    progress_show(out->chunks, chunks, "importance");
    memcpy(pass.ids, ids + out->chunks * context, (size_t)context * sizeof *ids);
    if (bos >= 0) pass.ids[0] = bos;
    tape_forward(&pass.tape);
  }
  progress_clear();
  if (status == STATUS_OK) status = finish(&collector);
  tape_free(&pass.tape);
  map_release(&collector.layers);
  return status;
}

void importance_release(Importance *importance) {
  arena_release(&importance->arena);
  *importance = (Importance){0};
}
