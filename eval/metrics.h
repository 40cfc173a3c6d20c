// What a task's verdicts amount to. A metric is a ratio: each item brings a sum and a count (accuracy: 1 or 0 of 1; the share of
// instructions followed: so many of so many), and its value is all sums by all counts; of a perplexity exp of that. With n items and the
// residuals d_i = sum_i - ratio * count_i, the standard error is sqrt(n / (n - 1) * sum of d_i^2) / (sum of counts), times the derivative
// of exp where there is one: for counts of 1 the sample's deviation by sqrt(n), as lm-evaluation-harness has it, and else the estimate of
// a ratio whose items are independent (Cochran 1977, Sampling Techniques, 6.3).
#ifndef EVAL_METRICS_H
#define EVAL_METRICS_H

#include <stdbool.h>
#include <stdint.h>

enum { METRICS_MAX = 4 };  // of one task

typedef struct Metric {
  const char *name;  // "acc"
  bool is_perplexity;  // exp of the mean of items' negative log-likelihoods; smaller is better
} Metric;

typedef struct Score {
  double sum, count;  // count 0: the item is not scored
} Score;

typedef struct Estimate {
  double value;  // NaN where nothing is scored
  double error;  // its standard error; NaN of fewer than two items
  int64_t count;  // what the ratio is of: items that are scored, or the sum of their counts
} Estimate;

Estimate metric_estimate(const Metric *metric, const Score *scores, int64_t count);

// Two models over the same items, by the differences of each item (Miller 2024, "Adding error bars to evals", 4): what both find hard or
// easy is not taken for chance.
typedef struct Comparison {
  double difference;  // second - first
  double error;  // its standard error
  double low, high;  // the 95% confidence interval by the normal distribution
  int64_t better, worse, same;  // items of the second beside the first (what McNemar's test counts)
} Comparison;

// Items that are scored in both.
Comparison metric_compare(const Metric *metric, const Score *first, const Score *second, int64_t count);

#endif
