#include "trainer/deal.h"

#include <stdlib.h>

struct DealItem {
  int64_t tokens, number;
};

struct DealHand {
  int64_t tokens, count;
};

void deal_open(Deal *deal, int64_t step_batches, const Group *group) {
  *deal = (Deal){.ranks = group->size, .rank = group->rank, .most = (step_batches + group->size - 1) / group->size};
  deal->items = memory_new((size_t)step_batches, sizeof *deal->items);
  deal->hands = memory_new((size_t)group->size, sizeof *deal->hands);
  deal->own = memory_new((size_t)deal->most, sizeof *deal->own);
}

void deal_close(Deal *deal) {
  free(deal->own);
  free(deal->items);
  free(deal->hands);
  *deal = (Deal){0};
}

static int by_tokens(const void *a, const void *b) {
  const struct DealItem *x = a, *y = b;
  if (x->tokens != y->tokens) return x->tokens > y->tokens ? -1 : 1;
  return (x->number > y->number) - (x->number < y->number);
}

static int by_number(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static int next_rank(const Deal *deal) {
  int best = -1;
  for (int r = 0; r < deal->ranks; r++) {
    const struct DealHand *hand = &deal->hands[r];
    if (hand->count < deal->most && (best < 0 || hand->tokens < deal->hands[best].tokens)) best = r;
  }
  return best;
}

void deal_micro_batches(Deal *deal, const BatchPlan *plan, int64_t first, int64_t count) {
  deal->own_count = 0;
  for (int r = 0; r < deal->ranks; r++) deal->hands[r] = (struct DealHand){0};
  for (int64_t i = 0; i < count; i++) deal->items[i] = (struct DealItem){batch_plan_tokens(plan, first + i), i};
  qsort(deal->items, (size_t)count, sizeof *deal->items, by_tokens);
  for (int64_t i = 0; i < count; i++) {
    int rank = next_rank(deal);
    deal->hands[rank].tokens += deal->items[i].tokens;
    deal->hands[rank].count++;
    if (rank == deal->rank) deal->own[deal->own_count++] = deal->items[i].number;
  }
  deal->rounds = 0;
  for (int r = 0; r < deal->ranks; r++)
    if (deal->hands[r].count > deal->rounds) deal->rounds = deal->hands[r].count;
  qsort(deal->own, (size_t)deal->own_count, sizeof *deal->own, by_number);
}
