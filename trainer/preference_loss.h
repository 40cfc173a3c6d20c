// The losses of preference training, as functions of the log-probabilities of replies, with their slopes. Nothing here knows a model.
// With p the policy's sum of log-probabilities over a reply's n tokens, r the reference's, and of a pair (the better reply w, the worse l)
//   u = p_w - r_w,   v = p_l - r_l,   x = beta (u - v),   s = sigmoid,   e = label smoothing
// the losses of `dpo_loss_type` are, as TRL 1.16 has them (trl/trainer/dpo_trainer.py):
//   sigmoid       -(1-e) log s(x) - e log s(-x)                     Rafailov et al. 2023, arXiv 2305.18290; smoothed: Mitchell 2023, cDPO
//   hinge         max(0, 1 - x)                                     Zhao et al. 2023, arXiv 2305.10425
//   ipo           (u / n_w - v / n_l - 1 / (2 beta))^2              Azar et al. 2023, arXiv 2310.12036
//   robust        (-(1-e) log s(x) + e log s(-x)) / (1 - 2e)        Chowdhury et al. 2024, arXiv 2403.00409
//   exo_pair      s(x) (log s(x) - log(1-e)) + s(-x) (log s(-x) - log e)      Ji et al. 2024, arXiv 2402.00856
//   nca_pair      -log s(beta u) - (log s(-beta u) + log s(-beta v)) / 2      Chen et al. 2024, arXiv 2402.05369
//   bco_pair      -log s(beta u) - log s(-beta v)                   Jung et al. 2024, arXiv 2404.04656
//   sppo_hard     (u - 1 / (2 beta))^2 + (v + 1 / (2 beta))^2       Wu et al. 2024, arXiv 2405.00675
//   apo_zero      1 - s(beta u) + s(beta v)                         D'Oosterlinck et al. 2024, arXiv 2408.06266
//   apo_down      s(beta u) + 1 - s(x)                              the same
//   discopop      -log s(x) (1 - m) + exp(-x) m,  m = s(x / 0.05)   Lu et al. 2024, arXiv 2406.08414
//   sigmoid_norm  -log s(beta (u / n_w - v / n_l))                  Lambert et al. 2024, arXiv 2411.15124
//   aot           sigmoid of x over differences p_w - p_l and r_w - r_l sorted within the micro-batch; aot_unpaired: u and v sorted
//                                                                   Melnyk et al. 2024, arXiv 2406.05882
//   sft           the better replies' negative log-likelihood, a mean over tokens
// and those of other methods, with m = p / n the mean over a reply's tokens:
//   simpo         -log s(beta (m_w - m_l) - gamma)                  Meng et al. 2024, arXiv 2405.14734
//   orpo          -beta log s(o_w - o_l),  o = m - log(1 - exp m)   Hong et al. 2024, arXiv 2403.07691
//   kto, a row    w (1 - s(beta (u - kl))) of a good reply, w (1 - s(beta (kl - u))) of a bad one: Ethayarajh et al. 2024, arXiv 2402.01306
// A reply's reward, which is only reported, is beta (p - r), of simpo and orpo beta m.
#ifndef TRAINER_PREFERENCE_LOSS_H
#define TRAINER_PREFERENCE_LOSS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "recipes/recipe.h"

typedef enum PreferenceMethod { METHOD_DPO, METHOD_SIMPO, METHOD_ORPO, METHOD_KTO } PreferenceMethod;

// What is known of a reply.
typedef struct ReplyScore {
  double policy, reference;  // log-probabilities, summed over its tokens; reference 0 where the method has none
  int64_t tokens;
  bool is_undesirable;  // of KTO
  double reward;  // set by preference_loss
  double slope;  // and the loss's derivative by `policy`
} ReplyScore;

struct PreferenceSettings;
// One loss over a micro-batch's pairs, replies [2 pairs] better ones first: adds weight * sum over pairs to *loss and to their slopes.
typedef void (*PairLoss)(double *loss, ReplyScore *replies, int64_t pairs, const struct PreferenceSettings *settings, double weight);

enum { PREFERENCE_LOSSES = 16 };  // as many as a recipe may name

typedef struct PreferenceSettings {
  PreferenceMethod method;
  double beta, gamma;
  double label_smoothing;
  double desirable_weight, undesirable_weight;  // of KTO
  PairLoss losses[PREFERENCE_LOSSES];
  double weights[PREFERENCE_LOSSES];
  int loss_count;
  double nll_weight;  // of the better replies' negative log-likelihood, a mean over tokens; 0: none
  bool nll_has_prompt;  // it counts the prompts' tokens, too
} PreferenceSettings;

// What a recipe's `rl` asks for; recipes/check.c has refused what does not go together.
PreferenceSettings preference_settings(const Recipe *recipe);

static inline bool preference_has_reference(const PreferenceSettings *settings) {
  return settings->method == METHOD_DPO || settings->method == METHOD_KTO;
}

// Sets *loss to the sum over the micro-batch's pairs (KTO: rows), without the likelihood's term, and rewards and slopes of its replies.
// kl: KTO's estimate, 0 or more.
void preference_loss(double *loss, ReplyScore *replies, int64_t count, double kl, const PreferenceSettings *settings);

#endif
