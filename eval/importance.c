// One pass of the decoder a chunk; the tape shows each linear operation's x to an observer before it multiplies, and the rows of routed
// experts, of which what their last matrix sees is computed here.
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
  Map layers;  // the address of a weight, or of a layer's experts -> its number; of experts that of gate, before those of up and down
  float *x;  // [tokens, columns] on the host
  double *squares;  // [columns]
  int32_t *chosen;  // [tokens, used] on the host
  float *gathered;  // [tokens, columns]: one expert's rows on the host
  float *device, *inner[3];  // on the device: [tokens, hidden]; gate, up and their product [tokens, width]
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

static void add_squares(Collector *collector, int64_t entry, int64_t expert, int64_t rows) {
  int64_t columns = collector->importance->entries[entry].columns;
  for (int64_t i = 0; i < columns; i++) collector->sums[entry][expert * columns + i] += collector->squares[i];
  collector->importance->entries[entry].counts[expert] += (float)rows;
}

// What gate and up of an expert see, and what down sees of the product of the two.
static void collect_expert(Collector *collector, const ExpertMatrices *experts, int64_t entry, int64_t e, int64_t rows) {
  Backend *backend = collector->model->backend;
  square_columns(collector->squares, collector->gathered, rows, experts->hidden);
  add_squares(collector, entry, e, rows);
  add_squares(collector, entry + 1, e, rows);
  backend->upload(collector->device, collector->gathered, rows * experts->hidden * (int64_t)sizeof(float), backend);
  const Projection projections[] = {projection_f32(collector->inner[0], &experts->gate[e], 1),
                                    projection_f32(collector->inner[1], &experts->up[e], 1)};
  backend->kernels->linear_forward(projections, 2, rows_f32(collector->device, experts->hidden), rows, backend);
  backend->kernels->gated_forward(collector->inner[2], collector->inner[0], collector->inner[1], FLOAT_32, rows * experts->width,
                                  experts->activation, backend);
  backend->download(collector->gathered, collector->inner[2], rows * experts->width * (int64_t)sizeof(float), backend);
  square_columns(collector->squares, collector->gathered, rows, experts->width);
  add_squares(collector, entry + 2, e, rows);
}

static void collect_experts(TapeObserver *observer, const ExpertMatrices *experts, const int32_t *chosen, const Tensor *x) {
  Collector *collector = (Collector *)observer;
  Backend *backend = collector->model->backend;
  int64_t entry, used = experts->used;
  if (!map_get(&collector->layers, &experts, sizeof experts, &entry)) return;
  backend->download(collector->x, x->data, x->rows * x->columns * (int64_t)sizeof(float), backend);
  backend->download(collector->chosen, chosen, x->rows * used * (int64_t)sizeof *chosen, backend);
  for (int64_t e = 0; e < experts->experts; e++) {
    int64_t rows = 0;
    for (int64_t i = 0; i < x->rows * used; i++)
      if (collector->chosen[i] == e)
        memcpy(collector->gathered + rows++ * x->columns, collector->x + i / used * x->columns, (size_t)x->columns * sizeof(float));
    if (rows > 0) collect_expert(collector, experts, entry, e, rows);
  }
}

static int64_t entry_new(Collector *collector, const char *name, int64_t columns, int64_t experts) {
  Importance *out = collector->importance;
  out->entries[out->count] = (ImatrixEntry){.name = arena_format(&out->arena, "%s.weight", name),
                                            .columns = columns,
                                            .experts = experts,
                                            .sums = arena_new(&out->arena, (size_t)(columns * experts), sizeof(float)),
                                            .counts = arena_new(&out->arena, (size_t)experts, sizeof(float))};
  collector->sums[out->count] = arena_new(&out->arena, (size_t)(columns * experts), sizeof **collector->sums);
  return out->count++;
}

static void experts_new(Collector *collector, int layer) {
  const ExpertMatrices *experts = &collector->model->layers[layer].experts.matrices;
  int64_t first = collector->importance->count;
  for (int kind = 0; kind < EXPERT_KINDS; kind++) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s", layer, expert_gguf_names[kind]);
    entry_new(collector, name, kind == EXPERT_DOWN ? experts->width : experts->hidden, experts->experts);
  }
  map_set(&collector->layers, &experts, sizeof experts, first);
}

// What the experts need beside the rest.
static Status expert_buffers_new(Collector *collector, int64_t context, int64_t widest) {
  const ModelConfig *config = &collector->model->config;
  Backend *backend = collector->model->backend;
  Arena *arena = &collector->importance->arena;
  if (config->experts == 0) return STATUS_OK;
  collector->chosen = arena_new(arena, (size_t)(context * config->experts_used), sizeof *collector->chosen);
  collector->gathered = arena_new(arena, (size_t)(context * widest), sizeof *collector->gathered);
  TRY(backend->allocate((void **)&collector->device, context * config->hidden * (int64_t)sizeof(float), "an expert's rows", backend));
  for (int i = 0; i < 3; i++)
    TRY(backend->allocate((void **)&collector->inner[i], context * config->expert_feed_forward * (int64_t)sizeof(float), "an expert's rows",
                          backend));
  return STATUS_OK;
}

static void collector_free(Collector *collector) {
  Backend *backend = collector->model->backend;
  if (collector->device) backend->release(collector->device, backend);
  for (int i = 0; i < 3; i++)
    if (collector->inner[i]) backend->release(collector->inner[i], backend);
  map_release(&collector->layers);
}

static Status collector_new(Collector *collector, Importance *out, const Model *model, int64_t context) {
  *collector = (Collector){.observer = {collect, collect_experts}, .model = model, .importance = out};
  size_t most = (size_t)(model->linear_count + 3 * model->config.layers);
  int64_t widest = model->config.hidden > model->config.expert_feed_forward ? model->config.hidden : model->config.expert_feed_forward;
  out->entries = arena_new(&out->arena, most, sizeof *out->entries);
  collector->sums = arena_new(&out->arena, most, sizeof *collector->sums);
  Map names = {0};  // parts of one fused matrix have one name and one input: the first stands for all
  for (int i = 0; i < model->linear_count; i++) {
    const Linear *linear = model->linears[i];
    const Matrix *weight = &linear->weight;
    if (map_get_string(&names, linear->gguf_name, NULL)) continue;
    map_set_string(&names, linear->gguf_name, i);
    map_set(&collector->layers, &weight, sizeof weight, entry_new(collector, linear->gguf_name, weight->columns, 1));
    if (weight->columns > widest) widest = weight->columns;
  }
  map_release(&names);
  for (int layer = 0; layer < model->config.layers; layer++)
    if (model->layers[layer].kind->is_sparse) experts_new(collector, layer);
  collector->squares = arena_new(&out->arena, (size_t)widest, sizeof *collector->squares);
  collector->x = arena_new(&out->arena, (size_t)(context * widest), sizeof *collector->x);
  return expert_buffers_new(collector, context, widest);
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
    for (int64_t i = 0; i < out->entries[layer].columns * out->entries[layer].experts; i++) {
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
  ChunkPass pass = {0};
  Status status = collector_new(&collector, out, model, context);
  if (status == STATUS_OK) status = pass_new(&pass, &collector, context);
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
  collector_free(&collector);
  return status;
}

void importance_release(Importance *importance) {
  arena_release(&importance->arena);
  *importance = (Importance){0};
}
