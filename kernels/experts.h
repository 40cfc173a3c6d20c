// A mixture of experts (Shazeer et al. 2017; DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv 2412.19437), all of it frozen.
//   router   score_e = softmax(logits)_e or sigmoid(logits_e); the `used` experts of the best score_e + bias_e, the best first, ties to the
//            lower number; weight_s = scale * score of the s-th, divided by their sum if is_normalized
//   experts  y_i += sum_s weight_is down_e(f(gate_e x_i) up_e x_i),   e = chosen_is
#ifndef KERNELS_EXPERTS_H
#define KERNELS_EXPERTS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/activation.h"
#include "kernels/matrix.h"
#include "kernels/rows.h"

enum { ROUTER_MOST_EXPERTS = 4096, EXPERT_ROWS = 256 };

typedef struct RouterSettings {
  int64_t experts, used;
  bool is_sigmoid;
  const float *bias;  // [experts] or NULL
  int64_t groups, groups_used;  // the choice is within the best groups_used of `groups` equal groups; groups <= 1: among all
  bool groups_by_two;  // a group's score is the sum of its two best, else its best
  bool is_normalized;
  float scale;
} RouterSettings;

typedef struct ExpertMatrices {
  const Matrix *gate, *up, *down;  // [experts] each: [width, hidden], [width, hidden], [hidden, width]
  int64_t experts, used, hidden, width;
  Activation activation;
} ExpertMatrices;

// router_forward: chosen[n, used], weights[n, used]; totals[2, experts] (NULL: not wanted): += how often each expert was chosen, and
// += the sum over rows of its share of the scores. router_backward: dlogits[n, experts] is set.
// experts_forward: y[n, hidden] float32 is added to. experts_backward: dx is set or added to, dweights[n, used] is set, = dy_i . the expert's output.

// Floats of scratch that either direction needs: for the rows of one expert at a time, EXPERT_ROWS at most at once.
int64_t experts_scratch_floats(int64_t n, const ExpertMatrices *experts);

// The terms of one row's router, for tables to share.
void router_row_forward(int32_t *chosen, float *weights, float *scores, const float *logits, const RouterSettings *router);
void router_row_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router);

typedef struct Kernels Kernels;
typedef struct Backend Backend;

// By the products and the activation of a table, expert after expert.
void experts_forward_by_parts(const Kernels *kernels, Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                              const float *weights, int64_t n, bool in_int8, float *scratch, Backend *backend);
void experts_backward_by_parts(const Kernels *kernels, Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts,
                               const int32_t *chosen, const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend);

#endif
