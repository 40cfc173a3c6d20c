// Reading adapters of either format into a model's slots.
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "adapters/peft_trained.h"
#include "adapters/trained.h"

static const PairSource *find_pair(const AdapterSource *source, const Linear *linear) {
  for (int i = 0; i < source->count; i++)
    if (source->pairs[i].linear == linear) return &source->pairs[i];
  return NULL;
}

// Puts the sources' pairs of one layer behind one another along the rank. A lone one keeps its scale apart, as it was
// trained; of several each one's scale goes into its B.
static void stack_pairs(LowRank *pair, const Linear *linear, const AdapterSource *sources, const double *scales, int count,
                        const Model *model) {
  Backend *backend = model->backend;
  bool is_embedding = linear == &model->embedding;  // whose A has the ranks along its rows, too
  int64_t rank = pair->b.columns, in = is_embedding ? pair->a.rows : pair->a.columns, out = pair->b.rows, first = 0;
  float *a = memory_new((size_t)(rank * in), sizeof *a), *b = memory_new((size_t)(rank * out), sizeof *b);
  for (int s = 0; s < count; s++) {
    const PairSource *source = find_pair(&sources[s], linear);
    if (!source) continue;
    double factor = count == 1 ? 1 : source->scale * (scales ? scales[s] : 1);
    if (!is_embedding) memcpy(a + first * in, source->a, (size_t)(source->rank * in) * sizeof *a);
    for (int64_t row = 0; is_embedding && row < in; row++)
      memcpy(a + row * rank + first, source->a + row * source->rank, (size_t)source->rank * sizeof *a);
    for (int64_t row = 0; row < out; row++)
      for (int64_t r = 0; r < source->rank; r++) b[row * rank + first + r] = (float)(factor * source->b[row * source->rank + r]);
    first += source->rank;
  }
  backend->upload(pair->a.data, a, rank * in * (int64_t)sizeof *a, backend);
  backend->upload(pair->b.data, b, rank * out * (int64_t)sizeof *b, backend);
  if (pair->magnitude.data) backend->upload(pair->magnitude.data, find_pair(sources, linear)->magnitude, out * (int64_t)sizeof *b, backend);
  free(a);
  free(b);
}

// The pairs of one layer, if any source has some.
static void add_pairs(Adapter *adapter, Linear *linear, const AdapterSource *sources, const double *scales, int count) {
  int64_t rank = 0;
  double scale = 1;
  for (int s = 0; s < count; s++) {
    const PairSource *source = find_pair(&sources[s], linear);
    if (!source) continue;
    rank += source->rank;
    if (count == 1) scale = source->scale * (scales ? scales[0] : 1);
  }
  if (rank) adapter_add_pair(adapter, linear, rank, scale);
}

// What is trained in full replaces what the base has: it cannot be added up, or be scaled.
static Status add_trained(Adapter *adapter, const AdapterSource *sources, const double *scales, int count, const char *const *paths) {
  for (int s = 0; s < count; s++) {
    if (sources[s].trained_count + sources[s].token_count == 0) continue;
    if (count > 1 || (scales && scales[s] != 1))
      return status_fail(STATUS_USAGE, "%s: holds modules or tokens that were trained in full, so it works alone and unscaled", paths[s]);
    TRY(peft_add_trained(adapter, &sources[s], paths[s]));
  }
  return STATUS_OK;
}

static Status fill(Adapter *adapter, const AdapterSource *sources, const double *scales, int count, bool trainable) {
  TRY(adapter_allocate(adapter, trainable));
  TRY(trained_begin_at_base(adapter));
  for (int i = 0; i < adapter->count; i++) stack_pairs(&adapter->pairs[i], adapter->linears[i], sources, scales, count, adapter->model);
  if (count == 1) peft_put_trained(adapter, &sources[0]);
  return adapter->dora ? adapter_open_magnitudes(adapter, false, !trainable) : STATUS_OK;
}

static Status adapter_build(Adapter **out, Model *model, const AdapterSource *sources, const double *scales, int count,
                            const char *const *paths, bool trainable) {
  Adapter *adapter = *out = adapter_new(model);
  if (count == 1) {
    adapter->rank = sources[0].rank;
    adapter->alpha = sources[0].alpha;
    adapter->dropout = sources[0].dropout;
    adapter->rslora = sources[0].rslora;
    adapter->dora = sources[0].dora;
    adapter->rank_patterns = patterns_copy(&adapter->arena, sources[0].rank_patterns, sources[0].rank_pattern_count);
    adapter->alpha_patterns = patterns_copy(&adapter->arena, sources[0].alpha_patterns, sources[0].alpha_pattern_count);
    adapter->rank_pattern_count = sources[0].rank_pattern_count;
    adapter->alpha_pattern_count = sources[0].alpha_pattern_count;
    adapter->layers = layers_copy(&adapter->arena, &sources[0].layers);
  }
  for (int i = 0; i < model->linear_count; i++) add_pairs(adapter, model->linears[i], sources, scales, count);
  add_pairs(adapter, &model->embedding, sources, scales, count);
  add_pairs(adapter, &model->head, sources, scales, count);
  Status status = add_trained(adapter, sources, scales, count, paths);
  if (status == STATUS_OK) status = fill(adapter, sources, scales, count, trainable);
  if (!trainable) adapter_set_dropout(adapter, 0);  // files record the training's
  if (status != STATUS_OK) {
    adapter_close(adapter);
    *out = NULL;
  }
  return status;
}

// DoRA divides by the norm of the weight and all that is added to it: neither sums nor shares of such adapters mean anything.
static Status check_sum(const AdapterSource *sources, const char *const *paths, const double *scales, int count) {
  for (int i = 0; i < count; i++) {
    if (!sources[i].dora) continue;
    if (count > 1)
      return status_fail(STATUS_USAGE, "%s: a DoRA adapter cannot be added to others; give it alone, or merge it first", paths[i]);
    if (scales && scales[i] != 1)
      return status_fail(STATUS_USAGE, "%s: a DoRA adapter has no share of its effect; leave the scale out", paths[i]);
  }
  return STATUS_OK;
}

Status adapter_open(Adapter **out, Model *model, const char *const *paths, const double *scales, int path_count, bool trainable) {
  *out = NULL;
  AdapterSource *sources = memory_new((size_t)path_count, sizeof *sources);
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < path_count; i++) {
    status = directory_exists(paths[i]) ? peft_read(&sources[i], model, paths[i]) : gguf_adapter_read(&sources[i], model, paths[i]);
    if (status == STATUS_OK && sources[i].count + sources[i].trained_count + sources[i].token_count == 0)
      status = status_fail(STATUS_BAD_INPUT, "%s: holds no adapter for any linear layer of %s", paths[i], model->path);
  }
  if (status == STATUS_OK) status = check_sum(sources, paths, scales, path_count);
  if (status == STATUS_OK) status = adapter_build(out, model, sources, scales, path_count, paths, trainable);
  for (int i = 0; i < path_count; i++) {
    arena_release(&sources[i].arena);
    free(sources[i].pairs);
    free(sources[i].trained);
  }
  free(sources);
  return status;
}
