// LoRA's pairs in an adapter file: dW = scale * B A with A [rank, in] and B [out, rank], row-major in either format.
//   |dW|_F^2 = scale^2 * sum_ij (A A^T)_ij (B^T B)_ij
// so that the product, which is as large as the model's matrix, is never made.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "inspect/parts.h"

enum { MAXIMUM_GRAM = 4096 };  // ranks above it have no delta_norm

typedef struct Pair {
  char *module;
  const ReportTensor *a, *b;
  int64_t rank, in, out;
  double delta;  // |B A|_F; -1: not computed
} Pair;

// Ends of names, A's and B's: of layers, and of an embedding.
static const char *const endings[3][2] = {
    {".lora_A.weight", ".lora_B.weight"}, {".lora_embedding_A", ".lora_embedding_B"}, {".lora_a", ".lora_b"}};

// The row of endings that a name has, and in *which whether it is A's (0) or B's (1); -1: none.
static int find_ending(int *which, const char *name, bool is_gguf) {
  for (int kind = is_gguf ? 2 : 0; kind < (is_gguf ? 3 : 2); kind++)
    for (*which = 0; *which < 2; ++*which)
      if (text_ends_with(name, endings[kind][*which])) return kind;
  return -1;
}

bool pairs_are_there(const Report *report, bool is_gguf) {
  int which;
  for (int64_t i = 0; i < report->tensor_count; i++)
    if (find_ending(&which, report->tensors[i].name, is_gguf) >= 0) return true;
  return false;
}

// "base_model.model.MODULE.lora_A.weight" or "MODULE.weight.lora_a" gives MODULE.
static char *module_of(const char *name, bool is_gguf, const char *ending) {
  static const char prefix[] = "base_model.model.";
  if (!is_gguf && text_starts_with(name, prefix)) name += sizeof prefix - 1;
  char *module = memory_copy_string(name);
  module[strlen(module) - strlen(ending)] = 0;
  if (is_gguf && text_ends_with(module, ".weight")) module[strlen(module) - strlen(".weight")] = 0;
  return module;
}

static const ReportTensor *partner(const Report *report, const ReportTensor *tensor, const char *own, const char *other) {
  char *name = memory_format("%.*s%s", (int)(strlen(tensor->name) - strlen(own)), tensor->name, other);
  const ReportTensor *found = report_find_tensor(report, name);
  free(name);
  return found;
}

// What PEFT keeps beside pairs: modules trained in full, rows of tokens, and the base's own weight of an adapted embedding or head.
static bool is_in_full(const char *name) {
  return text_starts_with(name, "base_model.model.") && !strstr(name, ".lora_") &&
         (text_ends_with(name, ".weight") || text_ends_with(name, ".bias") || text_ends_with(name, ".trainable_tokens_delta"));
}

// G[i][j] += sum_k x_ik x_jk over rows i of A, or over columns i of B.
static double *gram(const ReportTensor *tensor, int64_t rank, int64_t length, bool by_rows) {
  double *values = memory_new((size_t)(rank * length), sizeof *values), *products = memory_new((size_t)(rank * rank), sizeof *products);
  values_read(values, &tensor->source, 0, rank * length);
  int64_t step = by_rows ? 1 : rank, start = by_rows ? length : 1;
  for (int64_t i = 0; i < rank; i++)
    for (int64_t j = 0; j <= i; j++) {
      double sum = 0;
      for (int64_t k = 0; k < length; k++) sum += values[i * start + k * step] * values[j * start + k * step];
      products[i * rank + j] = products[j * rank + i] = sum;
    }
  free(values);
  return products;
}

static void pair_measure(void *argument, int64_t task, int thread) {
  (void)thread;
  Pair *pair = (Pair *)argument + task;
  if (pair->rank > MAXIMUM_GRAM || !pair->a->measured || !pair->b->measured) return;
  double *a = gram(pair->a, pair->rank, pair->in, true), *b = gram(pair->b, pair->rank, pair->out, false), sum = 0;
  for (int64_t i = 0; i < pair->rank * pair->rank; i++) sum += a[i] * b[i];
  pair->delta = sqrt(fmax(sum, 0));
  free(a);
  free(b);
}

static bool pair_shape(Pair *pair, bool is_gguf) {
  const ReportTensor *a = pair->a, *b = pair->b;
  if (a->dimensions != 2 || b->dimensions != 2) return false;
  pair->rank = a->shape[is_gguf ? 1 : 0];
  pair->in = a->shape[is_gguf ? 0 : 1];
  pair->out = b->shape[is_gguf ? 1 : 0];
  return pair->rank > 0 && b->shape[is_gguf ? 0 : 1] == pair->rank;
}

static double norm_of(const ReportTensor *tensor) { return tensor->statistics.rms * sqrt((double)tensor->statistics.count); }

static bool is_zero(const ReportTensor *tensor) { return tensor->measured && tensor->statistics.zeros == tensor->elements; }

// DoRA's, under the name that PEFT writes or the one that it has in memory.
static bool is_magnitude(const char *name) {
  return text_ends_with(name, ".lora_magnitude_vector") || text_ends_with(name, ".lora_magnitude_vector.weight");
}

static bool has_its_pair(const Report *report, const char *name) {
  for (int kind = 0; kind < 2; kind++) {
    char *a = memory_format("%.*s%s", (int)(strstr(name, ".lora_magnitude_vector") - name), name, endings[kind][0]);
    bool found = report_find_tensor(report, a) != NULL;
    free(a);
    if (found) return true;
  }
  return false;
}

static bool has_magnitudes(const Report *report) {
  for (int64_t i = 0; i < report->tensor_count; i++)
    if (is_magnitude(report->tensors[i].name)) return true;
  return false;
}

static Pair *collect(int64_t *count, json_t *in_full, Report *report, bool is_gguf) {
  Pair *pairs = NULL;
  int64_t capacity = 0;
  *count = 0;
  for (int64_t i = 0; i < report->tensor_count; i++) {
    const ReportTensor *tensor = &report->tensors[i];
    if (tensor->is_state) continue;  // a checkpoint's state lies beside its adapter
    if (!is_gguf && is_magnitude(tensor->name) && has_its_pair(report, tensor->name)) continue;
    int which, kind = find_ending(&which, tensor->name, is_gguf);
    if (kind < 0 && !is_gguf && is_in_full(tensor->name)) {
      json_array_append_new(in_full, report_text(tensor->name, strlen(tensor->name)));
      continue;
    }
    if (kind < 0) {
      report_error(report, tensor->name, "no tensor of a LoRA pair; an adapter with it cannot be applied: merge it where it was made");
      continue;
    }
    const ReportTensor *other = partner(report, tensor, endings[kind][which], endings[kind][1 - which]);
    if (!other) report_error(report, tensor->name, "the other half of its pair, %s, is missing", endings[kind][1 - which]);
    if (!other || which == 1) continue;
    Pair pair = {.a = tensor, .b = other, .delta = -1};
    if (!pair_shape(&pair, is_gguf)) {
      // token_embd's A is transposed in GGUF, so that its shapes do not tell its rank.
      if (!is_gguf || !text_starts_with(tensor->name, "token_embd"))
        report_error(report, tensor->name, "its shape and that of its B do not fit each other");
      continue;
    }
    pair.module = module_of(tensor->name, is_gguf, endings[kind][0]);
    ARRAY_PUSH(pairs, *count, capacity) = pair;
  }
  return pairs;
}

static json_t *pair_json(const Pair *pair, PairScale scale, const void *context) {
  json_t *object = json_object();
  bool measured = pair->a->measured && pair->b->measured;
  double factor = scale ? scale(context, pair->module, pair->rank) : NAN;
  json_object_set_new(object, "module", report_text(pair->module, strlen(pair->module)));
  json_object_set_new(object, "rank", json_integer(pair->rank));
  json_object_set_new(object, "in", json_integer(pair->in));
  json_object_set_new(object, "out", json_integer(pair->out));
  json_object_set_new(object, "scale", report_number(factor));
  json_object_set_new(object, "a_norm", measured ? report_number(norm_of(pair->a)) : json_null());
  json_object_set_new(object, "b_norm", measured ? report_number(norm_of(pair->b)) : json_null());
  json_object_set_new(object, "delta_norm", pair->delta >= 0 ? report_number(factor * pair->delta) : json_null());
  return object;
}

static void judge_pairs(Report *report, const Pair *pairs, int64_t count, bool has_more) {
  int64_t without_effect = 0;
  for (int64_t i = 0; i < count; i++) without_effect += is_zero(pairs[i].a) || is_zero(pairs[i].b);
  if (count == 0 && !has_more) report_error(report, NULL, "no pair of lora_A and lora_B in it: not a LoRA adapter");
  if (has_magnitudes(report)) return;  // which may have been trained where B was not
  if (count > 0 && without_effect == count && !has_more)
    report_error(report, NULL, "B or A is zero in every pair: this adapter changes nothing (it was never trained?)");
  for (int64_t i = 0; i < count && without_effect < count; i++)
    if (is_zero(pairs[i].a) || is_zero(pairs[i].b))
      report_warning(report, pairs[i].module, "its %s is zero: the adapter changes nothing here", is_zero(pairs[i].b) ? "B" : "A");
}

void pairs_inspect(Report *report, bool is_gguf, PairScale scale, const void *context) {
  int64_t count;
  json_t *in_full = json_array();
  Pair *pairs = collect(&count, in_full, report, is_gguf);
  if (report->statistics && count) pool_run(report->backend->pool, count, pair_measure, pairs);
  json_t *adapter = json_object_get(report->root, "adapter"), *list = json_array();
  if (!adapter) json_object_set_new(report->root, "adapter", adapter = json_object());
  for (int64_t i = 0; i < count; i++) json_array_append_new(list, pair_json(&pairs[i], scale, context));
  json_object_set_new(adapter, "pairs", list);
  judge_pairs(report, pairs, count, json_array_size(in_full) > 0);
  if (json_array_size(in_full)) json_object_set(adapter, "in_full", in_full);
  json_decref(in_full);
  for (int64_t i = 0; i < count; i++) free(pairs[i].module);
  free(pairs);
}
