// Which rows stand together in an epoch: shuffle, packing by first-fit decreasing or next-fit, lengths.
#include "data/batch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

BatchOptions batch_options_from_recipe(const Recipe *recipe, bool evaluation) {
  BatchOptions options = {
      .packing = recipe->sample_packing,
      .sequentially = recipe->sample_packing_sequentially,
      .in_order = recipe->curriculum_sampling,
      .by_length = recipe->group_by_length,
      .sequence_len = recipe->sequence_len,
      .group_size = recipe->sample_packing_group_size,
      .bin_size = recipe->sample_packing_bin_size,
      .micro_batch_size = recipe->micro_batch_size,
      .seed = recipe->seed,
      .shares_prompts = recipe->rl != NULL,
      .trains_prompts = recipe->rl && strcmp(recipe->rl, "orpo") == 0,
  };
  if (!evaluation) return options;
  options.in_order = true;
  options.by_length = false;
  if (recipe->eval_sample_packing == CHOICE_FALSE || recipe->eval_sample_packing == CHOICE_TRUE)
    options.packing = recipe->eval_sample_packing == CHOICE_TRUE && !recipe->rl;  // pairs are not packed
  if (recipe->eval_batch_size > 0) options.micro_batch_size = recipe->eval_batch_size;
  if (recipe->eval_sequence_len > 0) options.sequence_len = recipe->eval_sequence_len;
  return options;
}

// Sequences being put together: each row's bin, by its place in the epoch's order.
typedef struct Packer {
  const RowSet *rows;
  const int64_t *order;  // [count] row numbers
  int64_t *bin;  // [count] the sequence of the row at that place
  int64_t bins;
  const BatchOptions *options;
} Packer;

static int64_t row_length(const Packer *packer, int64_t place) { return packer->rows->rows[packer->order[place]].count; }

static void pack_sequentially(Packer *packer, int64_t count) {
  int64_t room = 0, documents = 0;
  for (int64_t place = 0; place < count; place++) {
    int64_t length = row_length(packer, place);
    if (packer->bins == 0 || length > room || documents == packer->options->bin_size) {
      packer->bins++;
      room = packer->options->sequence_len;
      documents = 0;
    }
    room -= length;
    documents++;
    packer->bin[place] = packer->bins - 1;
  }
}

typedef struct Item {
  int64_t length, place;
} Item;

static int compare_items(const void *a, const void *b) {
  const Item *x = a, *y = b;
  if (x->length != y->length) return x->length > y->length ? -1 : 1;
  return x->place < y->place ? -1 : x->place > y->place;
}

// First-fit decreasing over the places begin .. end-1. A tree over the bins holds the largest room in each
// subtree, so that the first bin with enough room is found in O(log n).
static void pack_group(Packer *packer, int64_t begin, int64_t end) {
  int64_t count = end - begin, leaves = 1;
  while (leaves < count) leaves *= 2;
  Item *items = memory_new((size_t)count, sizeof *items);
  int64_t *room = memory_new(2 * (size_t)leaves, sizeof *room);  // [2 * leaves] 1 is the root; unopened bins are whole
  int64_t *documents = memory_new((size_t)leaves, sizeof *documents);
  for (int64_t i = 0; i < count; i++) items[i] = (Item){row_length(packer, begin + i), begin + i};
  qsort(items, (size_t)count, sizeof *items, compare_items);
  for (int64_t node = 1; node < 2 * leaves; node++) room[node] = packer->options->sequence_len;
  int64_t opened = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t node = 1;
    while (node < leaves) node = 2 * node + (room[2 * node] < items[i].length);
    int64_t bin = node - leaves;
    packer->bin[items[i].place] = packer->bins + bin;
    opened = max_i64(opened, bin + 1);
    room[node] -= items[i].length;
    if (++documents[bin] == packer->options->bin_size) room[node] = -1;
    for (node /= 2; node; node /= 2) room[node] = max_i64(room[2 * node], room[2 * node + 1]);
  }
  packer->bins += opened;
  free(items);
  free(room);
  free(documents);
}

// Lists the places of each bin in order, and the bins in the order of `sequence` (a permutation of them).
static void plan_collect(BatchPlan *plan, const Packer *packer, int64_t count, const int64_t *sequence) {
  int64_t bins = packer->bins;
  int64_t *rank = memory_new((size_t)bins, sizeof *rank);
  for (int64_t s = 0; s < bins; s++) rank[sequence[s]] = s;
  plan->sequence_count = bins;
  plan->sequence_begin = memory_new((size_t)bins + 1, sizeof *plan->sequence_begin);
  plan->documents = memory_new((size_t)count, sizeof *plan->documents);
  for (int64_t place = 0; place < count; place++) plan->sequence_begin[rank[packer->bin[place]] + 1]++;
  for (int64_t s = 0; s < bins; s++) plan->sequence_begin[s + 1] += plan->sequence_begin[s];
  int64_t *next = memory_new((size_t)bins, sizeof *next);
  memcpy(next, plan->sequence_begin, (size_t)bins * sizeof *next);
  for (int64_t place = 0; place < count; place++) plan->documents[next[rank[packer->bin[place]]]++] = packer->order[place];
  free(next);
  free(rank);
}

// Packing sorts by length, so bins leave it from the longest row to the shortest: they are shuffled
// again, or, where rows keep their order, put in the order of their first rows.
static void order_sequences(int64_t *sequence, const Packer *packer, int64_t count, Rng *rng) {
  if (packer->options->in_order || packer->options->sequentially) {
    int64_t *seen = memory_new((size_t)packer->bins, sizeof *seen), next = 0;
    for (int64_t place = 0; place < count; place++)
      if (!seen[packer->bin[place]]++) sequence[next++] = packer->bin[place];
    free(seen);
    return;
  }
  for (int64_t s = 0; s < packer->bins; s++) sequence[s] = s;
  rng_shuffle(rng, sequence, packer->bins);
}

// group_by_length: within runs of 50 micro-batches the shuffled rows are sorted by length, longest first.
static void order_by_length(int64_t *order, int64_t count, const RowSet *rows, int64_t micro_batch_size) {
  int64_t run = 50 * micro_batch_size;
  Item *items = memory_new((size_t)count, sizeof *items);
  for (int64_t i = 0; i < count; i++) items[i] = (Item){rows->rows[order[i]].count, i};
  int64_t *shuffled = memory_new((size_t)count, sizeof *shuffled);
  memcpy(shuffled, order, (size_t)count * sizeof *order);
  for (int64_t begin = 0; begin < count; begin += run)
    qsort(items + begin, (size_t)min_i64(run, count - begin), sizeof *items, compare_items);
  for (int64_t i = 0; i < count; i++) order[i] = shuffled[items[i].place];
  free(items);
  free(shuffled);
}

static int64_t first_document(const BatchPlan *plan, int64_t batch) {
  return plan->sequence_begin[min_i64(batch * plan->micro_batch_size, plan->sequence_count)];
}

int64_t batch_plan_tokens(const BatchPlan *plan, int64_t index) {
  int64_t tokens = 0;
  for (int64_t d = first_document(plan, index); d < first_document(plan, index + 1); d++)
    tokens += batch_row_tokens(&plan->rows->rows[plan->documents[d]], plan->shares_prompts);
  return tokens;
}

static void plan_measure(BatchPlan *plan, const BatchOptions *options) {
  int64_t total = 0;
  plan->shares_prompts = options->shares_prompts;
  plan->trains_prompts = options->trains_prompts;
  plan->micro_batch_size = options->micro_batch_size;
  plan->batch_count = (plan->sequence_count + options->micro_batch_size - 1) / options->micro_batch_size;
  for (int64_t b = 0; b < plan->batch_count; b++) {
    int64_t first = first_document(plan, b), last = first_document(plan, b + 1);
    int64_t tokens = batch_plan_tokens(plan, b), documents = 0;
    for (int64_t d = first; d < last; d++) documents += plan->rows->rows[plan->documents[d]].rejected > 0 ? 2 : 1;
    if (tokens > plan->most_tokens) {
      plan->largest = b;
      plan->most_tokens = tokens;
    }
    plan->most_documents = max_i64(plan->most_documents, documents);
    plan->most_rows = max_i64(plan->most_rows, last - first);
    total += tokens;
  }
  plan->efficiency = options->packing ? (double)total / ((double)plan->sequence_count * (double)options->sequence_len) : 1;
}

static Status check_rows(const RowSet *rows, const BatchOptions *options) {
  if (rows->count == 0) return status_fail(STATUS_BAD_INPUT, "there are no rows to make batches of");
  if (!options->packing) return STATUS_OK;
  for (int64_t r = 0; r < rows->count; r++) {
    if (rows->rows[r].count > options->sequence_len)
      return status_fail(STATUS_BAD_INPUT, "%s: %" PRId64 " tokens do not fit into a packed sequence of %" PRId64, rows->rows[r].source,
                         rows->rows[r].count, options->sequence_len);
  }
  return STATUS_OK;
}

Status batch_plan_create(BatchPlan *plan, const RowSet *rows, const BatchOptions *options, int64_t epoch) {
  *plan = (BatchPlan){.rows = rows};
  TRY(check_rows(rows, options));
  BatchOptions given = *options;
  given.micro_batch_size = max_i64(given.micro_batch_size, 1);
  given.group_size = given.group_size > 0 ? given.group_size : rows->count;
  given.bin_size = given.bin_size > 0 ? given.bin_size : INT64_MAX;
  int64_t count = rows->count, *order = memory_new((size_t)count, sizeof *order);
  Rng rng = data_rng(given.seed, DATA_ORDER_EPOCH, epoch);
  for (int64_t i = 0; i < count; i++) order[i] = i;
  if (!given.in_order) rng_shuffle(&rng, order, count);
  if (given.by_length && !given.packing && !given.in_order) order_by_length(order, count, rows, given.micro_batch_size);
  Packer packer = {.rows = rows, .order = order, .options = &given};
  packer.bin = memory_new((size_t)count, sizeof *packer.bin);
  if (!given.packing) {
    for (int64_t place = 0; place < count; place++) packer.bin[place] = place;
    packer.bins = count;
  } else if (given.sequentially) {
    pack_sequentially(&packer, count);
  } else {
    for (int64_t begin = 0; begin < count; begin += min_i64(given.group_size, count - begin))
      pack_group(&packer, begin, begin + min_i64(given.group_size, count - begin));
  }
  int64_t *sequence = memory_new((size_t)packer.bins, sizeof *sequence);
  if (given.packing) order_sequences(sequence, &packer, count, &rng);
  else
    for (int64_t s = 0; s < packer.bins; s++) sequence[s] = s;
  plan_collect(plan, &packer, count, sequence);
  plan_measure(plan, &given);
  free(sequence);
  free(packer.bin);
  free(order);
  return STATUS_OK;
}

void batch_plan_release(BatchPlan *plan) {
  free(plan->documents);
  free(plan->sequence_begin);
  *plan = (BatchPlan){0};
}
