#include "models/shards.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "models/parts.h"
#include "models/quantize.h"

enum { ALIGNMENT = 256, BUFFERS = 2, NO_LAYER = -1 };

typedef struct ShardedLayer {
  Matrix **matrices;  // [count]
  int64_t count;
  int64_t part_bytes;  // a K-th of the image, rounded up
  char *part;  // this rank's
} ShardedLayer;

typedef struct Shards {
  TapeWatcher watcher;
  Group *group;
  Backend *backend;
  ShardedLayer *layers;
  int64_t layer_count;
  int64_t largest;  // image
  char *buffers[BUFFERS];
  int64_t held[BUFFERS];  // the layer whose image is in the buffer, or on its way
  int64_t gather[BUFFERS];  // its number while it is on its way; -1
  bool is_complete[BUFFERS];
  int64_t present;  // the layer that is computed; NO_LAYER
  int segment;  // that was entered last
} Shards;

static int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

bool shards_are_wanted(const Model *model) {
  const Group *group = model->options.group;
  if (!model->options.is_sharded || !group || group->size == 1) return false;
  return model->backend->upload_matrix || group->machines > 1;
}

// ---- The arrays of a matrix

static int64_t grouped_lines(const Matrix *w) { return (w->rows + w->grouped->row_group - 1) / w->grouped->row_group; }
static int64_t scale_bytes(const Grouped *g) { return g->scale_type == BLOCK_F32 ? 4 : 2; }

// Where an array will be: a copy at place + *at, which moves on. place NULL: only counts.
static void *move_array(int64_t *at, char *place, const void *array, int64_t bytes) {
  char *to = (char *)(uintptr_t)array;
  if (!array) return NULL;
  if (place) memcpy(to = place + *at, array, (size_t)bytes);
  *at += aligned(bytes);
  return to;
}

// Bytes of the host's arrays of a matrix; with a place, they are copied there and the matrix reads them there.
static int64_t move_matrix(Matrix *w, char *place, Arena *arena) {
  int64_t at = 0, values = w->rows * w->columns, blocks = (values + NF4_BLOCK - 1) / NF4_BLOCK;
  if (w->type == BLOCK_NF4) {
    int64_t nested = (blocks + NF4_NESTED_BLOCK - 1) / NF4_NESTED_BLOCK;
    w->nf4.nested_scales = move_array(&at, place, w->nf4.nested_scales, nested * (int64_t)sizeof(float));
    w->nf4.packed = move_array(&at, place, w->nf4.packed, (values + 1) / 2);
    w->nf4.scales = move_array(&at, place, w->nf4.scales, blocks);
  } else if (w->type == BLOCK_GROUPED) {
    Grouped g = *w->grouped;
    g.codes = move_array(&at, place, g.codes, grouped_code_bytes(&g, w->rows));
    g.scales = move_array(&at, place, g.scales, grouped_lines(w) * g.groups * scale_bytes(&g));
    g.zeros = move_array(&at, place, g.zeros, grouped_lines(w) * g.groups * (int64_t)sizeof *g.zeros);
    g.group_of = move_array(&at, place, g.group_of, g.columns * (int64_t)sizeof *g.group_of);
    if (!place) return at;
    Grouped *moved = arena_new(arena, 1, sizeof *moved);
    *moved = g;
    w->grouped = moved;
  } else {
    const void *source = w->data;
    int64_t bytes = block_row_bytes(w->type, w->columns) * w->rows;
    w->data = move_array(&at, place, source, bytes);
    if (place) file_map_forget(source, (size_t)bytes);
  }
  return at;
}

// ---- Opening

// The frozen matrices of a layer, but for what is left whole: linear layers, in the model's order, then experts.
static void list_matrices(ShardedLayer *out, Model *model, int64_t index) {
  Layer *layer = &model->layers[index];
  int linears = family_linear_count(model->family);
  int64_t experts = layer->kind->is_sparse ? model->config.experts : 0;
  out->matrices = arena_new(&model->arena, (size_t)(linears + 3 * experts), sizeof *out->matrices);
  for (int i = 0; i < linears; i++) {
    Linear *linear = (Linear *)((char *)layer + model->family->linears[i].offset);
    if (linear_is_there(linear)) out->matrices[out->count++] = &linear->weight;
  }
  const ExpertMatrices *e = &layer->experts.matrices;
  const Matrix *const kinds[] = {e->gate, e->up, e->down};
  for (int kind = 0; kind < 3; kind++)
    for (int64_t i = 0; i < experts; i++) out->matrices[out->count++] = (Matrix *)(uintptr_t)&kinds[kind][i];
}

// Quantises what the options ask for, into storage of its own, which the caller frees.
static Status quantize_layer(void **storage, const ShardedLayer *layer, const Model *model) {
  TRY(memory_try(storage, (size_t)quantize_bytes(layer->matrices, layer->count, model->options), "a layer's quantised weights"));
  quantize_matrices(layer->matrices, layer->count, *storage, model->options, model->backend->pool);
  return STATUS_OK;
}

static int64_t device_bytes(Matrix *w, const Model *model) {
  return aligned(model->backend->upload_matrix ? model->backend->matrix_bytes(w) : move_matrix(w, NULL, NULL));
}

// The matrices go to `image`, one after another.
static Status place_layer(ShardedLayer *layer, char *image, Model *model) {
  Backend *backend = model->backend;
  const char *end = image + layer->part_bytes * model->options.group->size;
  for (int64_t i = 0; i < layer->count; i++) {
    Matrix *w = layer->matrices[i];
    int64_t bytes = device_bytes(w, model);
    assert(image + bytes <= end);
    if (backend->upload_matrix) TRY(backend->upload_matrix(w, image, backend));
    else (void)move_matrix(w, image, &model->arena);
    image += bytes;
  }
  (void)end;
  return STATUS_OK;
}

static Status keep_part(ShardedLayer *layer, const char *image, const Shards *shards) {
  Backend *backend = shards->backend;
  TRY(backend->allocate((void **)&layer->part, layer->part_bytes, "base weights", backend));
  backend->kernels->copy((float *)(void *)layer->part, (const float *)(const void *)(image + shards->group->rank * layer->part_bytes),
                         layer->part_bytes / (int64_t)sizeof(float), backend);
  return STATUS_OK;
}

// What a matrix will be, by type and shape alone: sizes are known before anything is quantised.
static int64_t planned_bytes(const Matrix *w, const Model *model) {
  static float nothing[2];
  Matrix planned = *w;
  planned.type = quantize_type(w, model->options);
  if (planned.type == BLOCK_NF4 && w->type != BLOCK_NF4) planned.nf4 = (Nf4){(uint8_t *)nothing, (uint8_t *)nothing, nothing, 0};
  return device_bytes(&planned, model);
}

static Status plan_layers(Shards *shards, Model *model) {
  for (int64_t l = 0; l < shards->layer_count; l++) {
    ShardedLayer *layer = &shards->layers[l];
    int64_t image = 0;
    list_matrices(layer, model, l);
    for (int64_t i = 0; i < layer->count; i++) image += planned_bytes(layer->matrices[i], model);
    layer->part_bytes = aligned((image + shards->group->size - 1) / shards->group->size);
    if (layer->part_bytes * shards->group->size > shards->largest) shards->largest = layer->part_bytes * shards->group->size;
  }
  for (int b = 0; b < BUFFERS; b++)
    TRY(shards->backend->allocate((void **)&shards->buffers[b], shards->largest, "gathered layers", shards->backend));
  return STATUS_OK;
}

static Status open_layer(Shards *shards, int64_t index, Buffer *bytes, Model *model) {
  ShardedLayer *layer = &shards->layers[index];
  char *image = shards->buffers[index % BUFFERS];
  void *storage;
  TRY(quantize_layer(&storage, layer, model));
  for (int i = 0; i < family_linear_count(model->family); i++) {
    const Linear *linear = layer_linear(&model->layers[index], &model->family->linears[i]);
    if (linear_is_there(linear)) model_hash_linear(bytes, linear);
  }
  Status status = place_layer(layer, image, model);
  if (status == STATUS_OK) status = keep_part(layer, image, shards);
  if (status == STATUS_OK) status = shards->backend->check(shards->backend);
  shards->held[index % BUFFERS] = index;
  shards->is_complete[index % BUFFERS] = true;
  free(storage);
  return status;
}

static void watch(TapeWatcher *watcher, int segment, int next);

Status shards_open(Model *model) {
  Shards *shards = model->shards = memory_new(1, sizeof *shards);
  *shards = (Shards){.watcher = {watch},
                     .group = model->options.group,
                     .backend = model->backend,
                     .layers = memory_new((size_t)model->config.layers, sizeof *shards->layers),
                     .layer_count = model->config.layers,
                     .held = {NO_LAYER, NO_LAYER},
                     .gather = {-1, -1},
                     .present = NO_LAYER};
  TRY(plan_layers(shards, model));
  Buffer bytes = {0};
  Status status = STATUS_OK;
  for (int64_t l = 0; status == STATUS_OK && l < shards->layer_count; l++) status = open_layer(shards, l, &bytes, model);
  model->quantized_mapped_bytes = 0;
  if (status == STATUS_OK) sha256_bytes(model->hash, bytes.data ? bytes.data : "", bytes.length);
  buffer_release(&bytes);
  return status;
}

void shards_close(Model *model) {
  Shards *shards = model->shards;
  if (!shards) return;
  for (int64_t l = 0; l < shards->layer_count; l++) {
    ShardedLayer *layer = &shards->layers[l];
    for (int64_t i = 0; i < layer->count; i++)
      if (layer->matrices[i]->type == BLOCK_DEVICE) shards->backend->release_matrix(layer->matrices[i], shards->backend);
    if (layer->part) shards->backend->release(layer->part, shards->backend);
  }
  for (int b = 0; b < BUFFERS; b++)
    if (shards->buffers[b]) shards->backend->release(shards->buffers[b], shards->backend);
  free(shards->layers);
  free(shards);
  model->shards = NULL;
}

// ---- Passes

static void finish(Shards *shards, int buffer) {
  if (shards->is_complete[buffer]) return;
  Status status = group_await_gather(shards->gather[buffer], "a layer's weights", shards->group);
  if (status != STATUS_OK) group_abort(shards->group, status);
  shards->is_complete[buffer] = true;
}

// Begins to gather a layer's image. Its buffer is that of a layer which has been computed: kernels that read it were called before.
static void begin(Shards *shards, int64_t layer) {
  if (layer < 0 || layer >= shards->layer_count) return;
  int b = (int)(layer % BUFFERS);
  if (shards->held[b] == layer || (shards->present >= 0 && shards->present % BUFFERS == b)) return;
  if (shards->held[b] >= 0) finish(shards, b);
  const ShardedLayer *l = &shards->layers[layer];
  shards->group->doing = "a layer's weights";
  Status status = group_gather(&shards->gather[b], shards->buffers[b], l->part, l->part_bytes, shards->group);
  if (status != STATUS_OK) group_abort(shards->group, status);
  shards->held[b] = layer;
  shards->is_complete[b] = false;
}

static void await(Shards *shards, int64_t layer) {
  shards->present = NO_LAYER;
  begin(shards, layer);
  shards->present = layer;
  finish(shards, (int)(layer % BUFFERS));
}

// Segment 0 is the embedding, the last one the output layer (models/decoder.c).
static void watch(TapeWatcher *watcher, int segment, int next) {
  Shards *shards = (Shards *)watcher;
  int64_t layer = segment - 1;
  bool is_layer = layer >= 0 && layer < shards->layer_count;
  shards->segment = segment;
  if (!is_layer) shards->present = NO_LAYER;
  else if (layer != shards->present) await(shards, layer);
  begin(shards, (int64_t)next - 1);
  group_progress(shards->group);
}

static int last_segment(const Shards *shards) { return (int)shards->layer_count + 1; }

void shards_finish_backward(const Model *model) {
  Shards *shards = model->shards;
  while (shards && shards->segment > 0) watch(&shards->watcher, shards->segment - 1, shards->segment - 2);
}

void shards_idle_forward(const Model *model) {
  Shards *shards = model->shards;
  for (int segment = 0; shards && segment <= last_segment(shards); segment++) watch(&shards->watcher, segment, segment + 1);
}

void shards_idle_backward(const Model *model) {
  if (!model->shards) return;
  watch(&model->shards->watcher, last_segment(model->shards), last_segment(model->shards) - 1);
  shards_finish_backward(model);
}

void shards_watch(const Model *model, Tape *tape) { tape->watcher = model->shards ? &model->shards->watcher : NULL; }

void shards_hold(const Model *model, const Linear *linear) {
  if (!model->shards || linear == &model->embedding || linear == &model->head) return;
  await(model->shards, (int64_t)(((const char *)linear - (const char *)model->layers) / (ptrdiff_t)sizeof *model->layers));
}

int64_t shards_bytes(const Model *model) {
  if (!model->shards) return 0;
  int64_t bytes = BUFFERS * model->shards->largest;
  for (int64_t l = 0; l < model->shards->layer_count; l++) bytes += model->shards->layers[l].part_bytes;
  return bytes;
}

static int64_t received_bytes(const Shards *shards, int64_t first, int64_t end) {
  int64_t bytes = 0;
  for (int64_t l = first; l < end; l++) bytes += (shards->group->size - 1) * shards->layers[l].part_bytes;
  return bytes;
}

// The first two layers are there after the pass back, the last two after the pass forward.
int64_t shards_step_bytes(const Model *model) {
  const Shards *shards = model->shards;
  if (!shards) return 0;
  return received_bytes(shards, BUFFERS, shards->layer_count) + received_bytes(shards, 0, shards->layer_count - BUFFERS);
}

int64_t shards_forward_bytes(const Model *model) {
  const Shards *shards = model->shards;
  return !shards || shards->layer_count <= BUFFERS ? 0 : received_bytes(shards, 0, shards->layer_count);
}
