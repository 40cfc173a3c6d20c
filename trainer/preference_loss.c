// Each loss with its slopes by hand; the equations are in the header.
#include "trainer/preference_loss.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/text.h"

static double sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
static double log_sigmoid(double x) { return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x)); }

// A value and its derivative by its one argument.
typedef struct Curve {
  double value, slope;
} Curve;

// -(1-e) log s(x) - e log s(-x)
static Curve smoothed(double x, double e) {
  return (Curve){-(1 - e) * log_sigmoid(x) - e * log_sigmoid(-x), -(1 - e) * sigmoid(-x) + e * sigmoid(x)};
}

static double ratio(const ReplyScore *reply) { return reply->policy - reply->reference; }
static double mean_of(const ReplyScore *reply) { return reply->tokens ? 1 / (double)reply->tokens : 0; }

typedef Curve (*Margin)(double x, const PreferenceSettings *settings);

// Losses of x = beta (u - v) alone.
static void sum_margins(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight, Margin f) {
  for (int64_t i = 0; i < pairs; i++) {
    ReplyScore *w = &replies[2 * i], *l = w + 1;
    Curve curve = f(settings->beta * (ratio(w) - ratio(l)), settings);
    *loss += weight * curve.value;
    w->slope += weight * settings->beta * curve.slope;
    l->slope -= weight * settings->beta * curve.slope;
  }
}

static Curve sigmoid_curve(double x, const PreferenceSettings *settings) { return smoothed(x, settings->label_smoothing); }

static Curve hinge_curve(double x, const PreferenceSettings *settings) {
  (void)settings;
  return x < 1 ? (Curve){1 - x, -1} : (Curve){0, 0};
}

static Curve robust_curve(double x, const PreferenceSettings *settings) {
  double e = settings->label_smoothing, rest = 1 - 2 * e;
  return (Curve){(-(1 - e) * log_sigmoid(x) + e * log_sigmoid(-x)) / rest, (-(1 - e) * sigmoid(-x) - e * sigmoid(x)) / rest};
}

static Curve exo_curve(double x, const PreferenceSettings *settings) {
  double e = settings->label_smoothing, w = sigmoid(x), l = sigmoid(-x);
  double at_w = log_sigmoid(x) - log1p(-e), at_l = log_sigmoid(-x) - log(e);
  // d/dx of w at_w is w l at_w + w l, and of l at_l is -w l at_l - w l.
  return (Curve){w * at_w + l * at_l, w * l * (at_w - at_l)};
}

static Curve discopop_curve(double x, const PreferenceSettings *settings) {
  (void)settings;
  const double tau = 0.05;  // TRL's discopop_tau
  double m = sigmoid(x / tau), dm = m * (1 - m) / tau, logistic = -log_sigmoid(x), exponential = exp(-x);
  return (Curve){logistic * (1 - m) + exponential * m, -sigmoid(-x) * (1 - m) - exponential * m + dm * (exponential - logistic)};
}

#define MARGIN_LOSS(name)                                                                                                        \
  static void name##_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) { \
    sum_margins(loss, replies, pairs, settings, weight, name##_curve);                                                           \
  }
MARGIN_LOSS(sigmoid)
MARGIN_LOSS(hinge)
MARGIN_LOSS(robust)
MARGIN_LOSS(exo)
MARGIN_LOSS(discopop)

// Losses of u / n_w - v / n_l.
static void sum_normed(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight, Margin f) {
  for (int64_t i = 0; i < pairs; i++) {
    ReplyScore *w = &replies[2 * i], *l = w + 1;
    Curve curve = f(ratio(w) * mean_of(w) - ratio(l) * mean_of(l), settings);
    *loss += weight * curve.value;
    w->slope += weight * curve.slope * mean_of(w);
    l->slope -= weight * curve.slope * mean_of(l);
  }
}

static Curve ipo_curve(double h, const PreferenceSettings *settings) {
  double distance = h - 1 / (2 * settings->beta);
  return (Curve){distance * distance, 2 * distance};
}

static Curve sigmoid_norm_curve(double h, const PreferenceSettings *settings) {
  Curve curve = smoothed(settings->beta * h, 0);
  return (Curve){curve.value, settings->beta * curve.slope};
}

static void ipo_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_normed(loss, replies, pairs, settings, weight, ipo_curve);
}

static void sigmoid_norm_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_normed(loss, replies, pairs, settings, weight, sigmoid_norm_curve);
}

// Losses that are a sum of one over u and one over v.
static void sum_apart(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight, Margin of_better,
                      Margin of_worse) {
  for (int64_t i = 0; i < 2 * pairs; i++) {
    Curve curve = (i % 2 ? of_worse : of_better)(ratio(&replies[i]), settings);
    *loss += weight * curve.value;
    replies[i].slope += weight * curve.slope;
  }
}

static Curve attract_curve(double u, const PreferenceSettings *settings) {  // -log s(beta u)
  return (Curve){-log_sigmoid(settings->beta * u), -settings->beta * sigmoid(-settings->beta * u)};
}

static Curve repel_curve(double v, const PreferenceSettings *settings) {  // -log s(-beta v)
  return (Curve){-log_sigmoid(-settings->beta * v), settings->beta * sigmoid(settings->beta * v)};
}

static Curve half_repel_curve(double v, const PreferenceSettings *settings) {
  Curve curve = repel_curve(v, settings);
  return (Curve){curve.value / 2, curve.slope / 2};
}

static Curve nca_better_curve(double u, const PreferenceSettings *settings) {
  Curve attract = attract_curve(u, settings), repel = half_repel_curve(u, settings);
  return (Curve){attract.value + repel.value, attract.slope + repel.slope};
}

static Curve sppo_better_curve(double u, const PreferenceSettings *settings) {
  double distance = u - 0.5 / settings->beta;
  return (Curve){distance * distance, 2 * distance};
}

static Curve sppo_worse_curve(double v, const PreferenceSettings *settings) {
  double distance = v + 0.5 / settings->beta;
  return (Curve){distance * distance, 2 * distance};
}

static Curve rising_curve(double v, const PreferenceSettings *settings) {  // s(beta v)
  double s = sigmoid(settings->beta * v);
  return (Curve){s, settings->beta * s * (1 - s)};
}

static Curve falling_curve(double u, const PreferenceSettings *settings) {  // 1 - s(beta u)
  Curve rising = rising_curve(u, settings);
  return (Curve){1 - rising.value, -rising.slope};
}

static Curve no_curve(double v, const PreferenceSettings *settings) {
  (void)v, (void)settings;
  return (Curve){0, 0};
}

static Curve falling_margin_curve(double x, const PreferenceSettings *settings) {  // 1 - s(x)
  (void)settings;
  double s = sigmoid(x);
  return (Curve){1 - s, -s * (1 - s)};
}

static void nca_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_apart(loss, replies, pairs, settings, weight, nca_better_curve, half_repel_curve);
}

static void bco_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_apart(loss, replies, pairs, settings, weight, attract_curve, repel_curve);
}

static void sppo_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_apart(loss, replies, pairs, settings, weight, sppo_better_curve, sppo_worse_curve);
}

static void apo_zero_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_apart(loss, replies, pairs, settings, weight, falling_curve, rising_curve);
}

static void apo_down_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_apart(loss, replies, pairs, settings, weight, rising_curve, no_curve);
  sum_margins(loss, replies, pairs, settings, weight, falling_margin_curve);
}

// A sortable number and the pair that it is of.
typedef struct Ranked {
  double value;
  int64_t pair;
} Ranked;

static int compare_ranked(const void *a, const void *b) {
  const Ranked *x = a, *y = b;
  if (x->value != y->value) return x->value < y->value ? -1 : 1;
  return x->pair < y->pair ? -1 : x->pair > y->pair;
}

// The k-th smallest of one list less the k-th smallest of the other, through the smoothed sigmoid. A rank's slope belongs to the pair that has it.
static void sum_ranked(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight,
                       bool is_paired) {
  Ranked *first = memory_new((size_t)pairs, sizeof *first), *second = memory_new((size_t)pairs, sizeof *second);
  for (int64_t i = 0; i < pairs; i++) {
    const ReplyScore *w = &replies[2 * i], *l = w + 1;
    first[i] = (Ranked){is_paired ? w->policy - l->policy : ratio(w), i};
    second[i] = (Ranked){is_paired ? w->reference - l->reference : ratio(l), i};
  }
  qsort(first, (size_t)pairs, sizeof *first, compare_ranked);
  qsort(second, (size_t)pairs, sizeof *second, compare_ranked);
  for (int64_t k = 0; k < pairs; k++) {
    Curve curve = smoothed(settings->beta * (first[k].value - second[k].value), settings->label_smoothing);
    double slope = weight * settings->beta * curve.slope;
    *loss += weight * curve.value;
    replies[2 * first[k].pair].slope += slope;
    replies[2 * (is_paired ? first[k].pair : second[k].pair) + 1].slope -= slope;
  }
  free(first);
  free(second);
}

static void aot_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_ranked(loss, replies, pairs, settings, weight, true);
}

static void aot_unpaired_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  sum_ranked(loss, replies, pairs, settings, weight, false);
}

static void simpo_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  for (int64_t i = 0; i < pairs; i++) {
    ReplyScore *w = &replies[2 * i], *l = w + 1;
    Curve curve = smoothed(settings->beta * (w->policy * mean_of(w) - l->policy * mean_of(l)) - settings->gamma, 0);
    *loss += weight * curve.value;
    w->slope += weight * settings->beta * curve.slope * mean_of(w);
    l->slope -= weight * settings->beta * curve.slope * mean_of(l);
  }
}

// The log-odds of a mean log-probability m < 0: m - log(1 - exp m), whose derivative is 1 / (1 - exp m).
static Curve log_odds(double m) {
  double rest = -expm1(m);
  return (Curve){m - log(rest), 1 / rest};
}

static void orpo_loss(double *loss, ReplyScore *replies, int64_t pairs, const PreferenceSettings *settings, double weight) {
  for (int64_t i = 0; i < pairs; i++) {
    ReplyScore *w = &replies[2 * i], *l = w + 1;
    Curve better = log_odds(w->policy * mean_of(w)), worse = log_odds(l->policy * mean_of(l));
    Curve curve = smoothed(better.value - worse.value, 0);
    *loss += weight * settings->beta * curve.value;
    w->slope += weight * settings->beta * curve.slope * better.slope * mean_of(w);
    l->slope -= weight * settings->beta * curve.slope * worse.slope * mean_of(l);
  }
}

static void kto_loss(double *loss, ReplyScore *replies, int64_t count, double kl, const PreferenceSettings *settings) {
  for (int64_t i = 0; i < count; i++) {
    ReplyScore *reply = &replies[i];
    double sign = reply->is_undesirable ? -1 : 1;
    double weight = reply->is_undesirable ? settings->undesirable_weight : settings->desirable_weight;
    double s = sigmoid(sign * settings->beta * (ratio(reply) - kl));
    *loss += weight * (1 - s);
    reply->slope = -weight * sign * settings->beta * s * (1 - s);
  }
}

void preference_loss(double *loss, ReplyScore *replies, int64_t count, double kl, const PreferenceSettings *settings) {
  *loss = 0;
  bool has_reference = preference_has_reference(settings);
  for (int64_t i = 0; i < count; i++) {
    replies[i].slope = 0;
    replies[i].reward = settings->beta * (has_reference ? ratio(&replies[i]) : replies[i].policy * mean_of(&replies[i]));
  }
  if (settings->method == METHOD_KTO) kto_loss(loss, replies, count, kl, settings);
  for (int i = 0; i < settings->loss_count; i++) settings->losses[i](loss, replies, count / 2, settings, settings->weights[i]);
}

// ---- What a recipe asks for

static const struct {
  const char *name;
  PairLoss loss;  // NULL: the likelihood of better replies
} pair_losses[] = {
    {"sigmoid", sigmoid_loss},
    {"hinge", hinge_loss},
    {"ipo", ipo_loss},
    {"robust", robust_loss},
    {"exo_pair", exo_loss},
    {"nca_pair", nca_loss},
    {"bco_pair", bco_loss},
    {"sppo_hard", sppo_loss},
    {"apo_zero", apo_zero_loss},
    {"apo_down", apo_down_loss},
    {"discopop", discopop_loss},
    {"sigmoid_norm", sigmoid_norm_loss},
    {"aot", aot_loss},
    {"aot_pair", aot_loss},
    {"aot_unpaired", aot_unpaired_loss},
    {"sft", NULL},
};

static void add_loss(PreferenceSettings *settings, const char *name, double weight) {
  for (size_t i = 0; i < sizeof pair_losses / sizeof *pair_losses; i++) {
    if (strcmp(pair_losses[i].name, name) != 0) continue;
    if (!pair_losses[i].loss) {
      settings->nll_weight += weight;
      return;
    }
    assert(settings->loss_count < PREFERENCE_LOSSES);
    settings->losses[settings->loss_count] = pair_losses[i].loss;
    settings->weights[settings->loss_count++] = weight;
    return;
  }
  assert(!"a name of the schema");
}

static void add_dpo_losses(PreferenceSettings *settings, const Recipe *recipe) {
  const StringList *types = &recipe->dpo_loss_type, *weights = &recipe->dpo_loss_weights;
  for (int i = 0; i < types->count; i++) add_loss(settings, types->items[i], i < weights->count ? strtod(weights->items[i], NULL) : 1);
  if (types->count == 0) add_loss(settings, "sigmoid", 1);
}

PreferenceSettings preference_settings(const Recipe *recipe) {
  PreferenceSettings settings = {.beta = recipe->rl_beta,
                                 .label_smoothing = recipe->dpo_label_smoothing,
                                 .desirable_weight = recipe->kto_desirable_weight,
                                 .undesirable_weight = recipe->kto_undesirable_weight,
                                 .gamma = recipe->simpo_gamma,
                                 .weights = {1}};
  const char *method = recipe->rl;
  bool is_orpo = strcmp(method, "orpo") == 0;
  if (strcmp(method, "kto") == 0) {
    settings.method = METHOD_KTO;
  } else if (is_orpo || strcmp(method, "simpo") == 0) {
    settings.method = is_orpo ? METHOD_ORPO : METHOD_SIMPO;
    settings.losses[settings.loss_count++] = is_orpo ? orpo_loss : simpo_loss;
    if (is_orpo) settings.beta = recipe->orpo_alpha;
    settings.nll_weight = is_orpo ? 1 : recipe->cpo_alpha;
    settings.nll_has_prompt = is_orpo;
  } else {
    settings.method = METHOD_DPO;
    settings.nll_weight = recipe->rpo_alpha;
    if (strcmp(method, "ipo") == 0) add_loss(&settings, "ipo", 1);
    else add_dpo_losses(&settings, recipe);
  }
  return settings;
}
