// A micro-batch: the reference's log-probabilities, the policy's forward pass, the loss and its slopes on the host, the policy's backward pass.
#include "trainer/preference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

Status preference_open(Preference **out, const Recipe *recipe, Adapter *adapter, Step *step, bool is_base) {
  Preference *preference = *out = memory_new(1, sizeof *preference);
  *preference = (Preference){.settings = preference_settings(recipe), .adapter = adapter, .step = step};
  step->is_likelihood = true;
  if (is_base || !preference_has_reference(&preference->settings)) return STATUS_OK;
  Backend *backend = adapter->model->backend;
  void *copy;
  TRY(backend->allocate(&copy, adapter->size * (int64_t)sizeof(float), "the reference's adapter", backend));
  preference->start = copy;
  backend->kernels->copy(copy, adapter->data, adapter->size, backend);
  return STATUS_OK;
}

void preference_close(Preference *preference) {
  if (!preference) return;
  Backend *backend = preference->adapter->model->backend;
  if (preference->start) backend->release(preference->start, backend);
  batch_release(&preference->rotated);
  free(preference->replies);
  free(preference->mismatched);
  free(preference);
}

static void reserve(Preference *preference, const Batch *batch) {
  if (batch->reply_count <= preference->capacity) return;
  preference->capacity = batch->reply_count;
  size_t count = (size_t)batch->reply_count;
  preference->replies = memory_grow(preference->replies, count, sizeof *preference->replies);
  preference->mismatched = memory_grow(preference->mismatched, count, sizeof *preference->mismatched);
}

// Whether tokens of a reply, or of prompts (-1), count in the likelihood's term.
static bool counts_in_nll(const Preference *preference, int64_t reply) {
  return preference->settings.nll_weight > 0 && (reply < 0 ? preference->settings.nll_has_prompt : reply % 2 == 0);
}

// Through a micro-batch's tokens in ascending order.
typedef struct Walk {
  const Batch *batch;
  int64_t next;  // the first reply that does not end before the token
} Walk;

// The reply that a token is in; -1: none, it is one of a prompt.
static int64_t reply_of(Walk *walk, int64_t token) {
  while (walk->next < walk->batch->reply_count && walk->batch->replies[walk->next].end <= token) walk->next++;
  return walk->next < walk->batch->reply_count && walk->batch->replies[walk->next].begin <= token ? walk->next : -1;
}

void preference_count(PreferenceShare *share, const Preference *preference, const Batch *batch) {
  Walk walk = {.batch = batch};
  share->rows += batch->row_count;
  for (int64_t t = 0; t < batch->tokens; t++)
    if (batch->targets[t] >= 0) share->nll_tokens += counts_in_nll(preference, reply_of(&walk, t));
}

// Sums of log-probabilities by reply: into `policy`, or into `reference`.
static void sum_replies(ReplyScore *replies, const Batch *batch, const Likelihood *likelihood, bool is_reference) {
  Walk walk = {.batch = batch};
  for (int64_t i = 0; i < likelihood->count; i++) {
    int64_t reply = reply_of(&walk, likelihood->rows[i]);
    if (reply < 0) continue;
    if (is_reference) {
      replies[reply].reference -= likelihood->nll[i];
    } else {
      replies[reply].policy -= likelihood->nll[i];
      replies[reply].tokens++;
    }
  }
}

static Status score(ReplyScore *replies, Preference *preference, const Batch *batch, bool is_reference) {
  Likelihood likelihood;
  Adapter *adapter = preference->adapter;
  float *own = NULL;
  if (is_reference && preference->start) own = adapter_set_data(adapter, preference->start);
  else if (is_reference) adapter_set_enabled(adapter, false);
  Status status = step_likelihood(&likelihood, preference->step, batch, TAPE_FORWARD);
  if (own) (void)adapter_set_data(adapter, own);
  else if (is_reference) adapter_set_enabled(adapter, true);
  if (status == STATUS_OK) sum_replies(replies, batch, &likelihood, is_reference);
  return status;
}

// max(0, mean over rows of log p - log r) of the replies that belong to other prompts.
static Status estimate_kl(double *kl, Preference *preference, const BatchPlan *plan, int64_t index) {
  Batch *batch = &preference->rotated;
  ReplyScore *replies = preference->mismatched;
  batch_fill_mismatched(batch, plan, index);
  memset(replies, 0, (size_t)batch->reply_count * sizeof *replies);
  TRY(score(replies, preference, batch, true));
  TRY(score(replies, preference, batch, false));
  double sum = 0;
  for (int64_t i = 0; i < batch->reply_count; i++) sum += replies[i].policy - replies[i].reference;
  *kl = fmax(0, sum / (double)batch->reply_count);
  return STATUS_OK;
}

static int64_t replies_per_row(const Preference *preference) { return preference->settings.method == METHOD_KTO ? 1 : 2; }

static void sum_up(PreferenceSums *sums, const Preference *preference, const Batch *batch) {
  bool is_paired = replies_per_row(preference) == 2;
  for (int64_t i = 0; i < batch->reply_count; i++) {
    const ReplyScore *reply = &preference->replies[i];
    bool is_worse = is_paired ? i % 2 == 1 : reply->is_undesirable;
    (is_worse ? &sums->worse : &sums->better)->reward += reply->reward;
    double length = preference_has_reference(&preference->settings) ? 1 : fmax(1, (double)reply->tokens);
    (is_worse ? &sums->worse : &sums->better)->policy += reply->policy / length;
    (is_worse ? &sums->worse : &sums->better)->count++;
    sums->right += is_paired && is_worse && preference->replies[i - 1].reward > reply->reward;
  }
}

// The derivative of the step's loss by each labelled token's nll; also sums up the likelihood's term.
static void set_slopes(PreferenceSums *sums, const Preference *preference, const Batch *batch, const Likelihood *likelihood,
                       const PreferenceShare *share, double loss_scale) {
  Walk walk = {.batch = batch};
  double nll_slope = share->nll_tokens ? preference->settings.nll_weight / (double)share->nll_tokens : 0;
  for (int64_t i = 0; i < likelihood->count; i++) {
    int64_t reply = reply_of(&walk, likelihood->rows[i]);
    double slope = reply < 0 ? 0 : -preference->replies[reply].slope / (double)share->rows;
    if (counts_in_nll(preference, reply)) {
      slope += nll_slope;
      sums->nll += likelihood->nll[i];
    }
    likelihood->slopes[i] = (float)(loss_scale * slope);
  }
}

Status preference_run(PreferenceSums *sums, Preference *preference, const BatchPlan *plan, int64_t index, const Batch *batch, TapeMode mode,
                      const PreferenceShare *share, double loss_scale, ReferenceScores reference) {
  reserve(preference, batch);
  ReplyScore *replies = preference->replies;
  memset(replies, 0, (size_t)batch->reply_count * sizeof *replies);
  int64_t each = replies_per_row(preference);
  for (int64_t i = 0; i < batch->reply_count; i++) {
    int64_t row = batch->rows[i / each];
    replies[i].is_undesirable = plan->rows->rows[row].is_undesirable;
    if (reference) replies[i].reference = reference[2 * row + i % each];
  }
  double kl = 0, loss;
  if (preference->settings.method == METHOD_KTO) TRY(estimate_kl(&kl, preference, plan, index));
  if (!reference && preference_has_reference(&preference->settings)) TRY(score(replies, preference, batch, true));
  Likelihood likelihood;
  TRY(step_likelihood(&likelihood, preference->step, batch, mode));
  sum_replies(replies, batch, &likelihood, false);
  preference_loss(&loss, replies, batch->reply_count, kl, &preference->settings);
  sum_up(sums, preference, batch);
  sums->loss += loss;
  sums->kl += kl;
  sums->micro_batches++;
  set_slopes(sums, preference, batch, &likelihood, share, loss_scale);
  if (mode == TAPE_TRAIN) step_likelihood_backward(preference->step);
  return STATUS_OK;
}

void preference_idle(Preference *preference, TapeMode mode, ReferenceScores reference) {
  bool has_kl = preference->settings.method == METHOD_KTO, has_reference = !reference && preference_has_reference(&preference->settings);
  for (int pass = 0; pass < 2 * has_kl + has_reference; pass++) step_idle(preference->step, TAPE_FORWARD);
  step_idle(preference->step, mode);
}

Status preference_precompute(ReferenceScores *scores, Preference *preference, const BatchPlan *plan, Group *group) {
  *scores = memory_new(2 * (size_t)plan->rows->count, sizeof **scores);
  Batch batch = {0};
  Status status = STATUS_OK;
  int64_t each = replies_per_row(preference);
  for (int64_t b = group->rank; b < plan->batch_count + group->rank && status == STATUS_OK; b += group->size) {
    if (b >= plan->batch_count) {
      step_idle(preference->step, TAPE_FORWARD);
      continue;
    }
    batch_fill(&batch, plan, b);
    reserve(preference, &batch);
    memset(preference->replies, 0, (size_t)batch.reply_count * sizeof *preference->replies);
    status = score(preference->replies, preference, &batch, true);
    for (int64_t i = 0; i < batch.reply_count; i++) (*scores)[2 * batch.rows[i / each] + i % each] = preference->replies[i].reference;
    progress_show(b + 1, plan->batch_count, "the reference's log-probabilities");
  }
  progress_clear();
  batch_release(&batch);
  if (status == STATUS_OK) status = group_sum(*scores, 2 * plan->rows->count, "the reference's log-probabilities", group);
  return status;
}

Status preference_share_sum(PreferenceShare *share, Group *group) {
  double values[] = {(double)share->rows, (double)share->nll_tokens};
  TRY(group_sum(values, 2, "the counts of a step", group));
  share->rows = (int64_t)values[0], share->nll_tokens = (int64_t)values[1];
  return STATUS_OK;
}

Status preference_sums_sum(PreferenceSums *sums, Group *group) {
  double values[] = {sums->loss,
                     sums->nll,
                     sums->kl,
                     sums->better.reward,
                     sums->better.policy,
                     (double)sums->better.count,
                     sums->worse.reward,
                     sums->worse.policy,
                     (double)sums->worse.count,
                     (double)sums->right,
                     (double)sums->micro_batches};
  TRY(group_sum(values, sizeof values / sizeof *values, "the losses of a step", group));
  *sums = (PreferenceSums){.loss = values[0],
                           .nll = values[1],
                           .better = {values[3], values[4], (int64_t)values[5]},
                           .worse = {values[6], values[7], (int64_t)values[8]},
                           .right = (int64_t)values[9],
                           .kl = values[2],
                           .micro_batches = (int64_t)values[10]};
  return STATUS_OK;
}

static double mean_nll(const PreferenceSums *sums, const PreferenceShare *share) {
  return share->nll_tokens ? sums->nll / (double)share->nll_tokens : 0;
}

double preference_mean_loss(const PreferenceSums *sums, const PreferenceShare *share, const Preference *preference) {
  if (share->rows == 0) return 0;
  return sums->loss / (double)share->rows + preference->settings.nll_weight * mean_nll(sums, share);
}

void preference_figures(Figures *figures, const PreferenceSums *sums, const PreferenceShare *share, const Preference *preference) {
  bool is_kto = preference->settings.method == METHOD_KTO;
  double better = sums->better.reward / (double)sums->better.count, worse = sums->worse.reward / (double)sums->worse.count;
  figures_add(figures, "rewards/chosen", NULL, better);
  figures_add(figures, "rewards/rejected", NULL, worse);
  if (!is_kto) figures_add(figures, "rewards/accuracies", "accuracy", (double)sums->right / (double)share->rows);
  figures_add(figures, "rewards/margins", "margin", better - worse);
  figures_add(figures, "logps/chosen", NULL, sums->better.policy / (double)sums->better.count);
  figures_add(figures, "logps/rejected", NULL, sums->worse.policy / (double)sums->worse.count);
  if (is_kto) figures_add(figures, "kl", "kl", sums->kl / (double)sums->micro_batches);
  if (preference->settings.nll_weight > 0) figures_add(figures, "nll_loss", NULL, mean_nll(sums, share));
}
