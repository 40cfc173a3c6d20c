#include "eval/metrics.h"

#include <math.h>
#include <stddef.h>

static const double NORMAL_975 = 1.959963984540054;  // the normal distribution's 97.5% point

typedef struct Ratio {
  double ratio, counts;
  double value, slope;  // the metric, and its derivative by the ratio
} Ratio;

static bool is_scored(const Score *scores, const Score *others, int64_t i) {
  return scores[i].count > 0 && (!others || others[i].count > 0);
}

// Over the items that are scored here and in `others` (may be NULL).
static Ratio ratio_of(const Metric *metric, const Score *scores, const Score *others, int64_t count) {
  Ratio out = {0};
  double sum = 0;
  for (int64_t i = 0; i < count; i++)
    if (is_scored(scores, others, i)) sum += scores[i].sum, out.counts += scores[i].count;
  out.ratio = sum / out.counts;
  out.value = metric->is_perplexity ? exp(out.ratio) : out.ratio;
  out.slope = metric->is_perplexity ? out.value : 1;
  return out;
}

// What item i adds to the metric's deviation.
static double residual(const Ratio *ratio, const Score *score) {
  return ratio->slope * (score->sum - ratio->ratio * score->count) / ratio->counts;
}

static double error_of(double squares, int64_t items) { return items > 1 ? sqrt(squares * (double)items / (double)(items - 1)) : NAN; }

Estimate metric_estimate(const Metric *metric, const Score *scores, int64_t count) {
  Ratio ratio = ratio_of(metric, scores, NULL, count);
  Estimate out = {.value = ratio.value, .count = (int64_t)ratio.counts};
  double squares = 0;
  int64_t items = 0;
  for (int64_t i = 0; i < count; i++) {
    if (!is_scored(scores, NULL, i)) continue;
    double d = residual(&ratio, &scores[i]);
    squares += d * d;
    items++;
  }
  out.error = error_of(squares, items);
  return out;
}

Comparison metric_compare(const Metric *metric, const Score *first, const Score *second, int64_t count) {
  Ratio a = ratio_of(metric, first, second, count), b = ratio_of(metric, second, first, count);
  Comparison out = {.difference = b.value - a.value};
  double squares = 0;
  for (int64_t i = 0; i < count; i++) {
    if (!is_scored(first, second, i)) continue;
    double d = residual(&b, &second[i]) - residual(&a, &first[i]);
    squares += d * d;
    double gain = second[i].sum / second[i].count - first[i].sum / first[i].count;
    if (metric->is_perplexity) gain = -gain;
    if (gain > 0) out.better++;
    else if (gain < 0) out.worse++;
    else out.same++;
  }
  out.error = error_of(squares, out.better + out.worse + out.same);
  out.low = out.difference - NORMAL_975 * out.error;
  out.high = out.difference + NORMAL_975 * out.error;
  return out;
}
