// A mixture of experts (Shazeer et al. 2017): a router scores all experts for each token, and the token goes through the best few.
//   scores = softmax(logits) or sigmoid(logits),   chosen = the `used` best of scores + bias,   weights = scores of the chosen
//   y_i += sum_s weights[i, s] down_e(f(gate_e x_i) * up_e x_i),   e = chosen[i, s]
// The choice may be within the best groups of experts alone (DeepSeek-V2, arXiv 2405.04434; by two, and with the bias: DeepSeek-V3,
// arXiv 2412.19437). No gradient goes through the choice.
#ifndef KERNELS_EXPERTS_H
#define KERNELS_EXPERTS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/activation.h"
#include "kernels/matrix.h"
#include "kernels/rows.h"

// Added to the sum by which weights are divided.
#define ROUTER_LEAST_SUM 1e-20f

typedef struct RouterSettings {
  int64_t experts, used;  // `used` of them for each token
  bool is_sigmoid;  // scores = sigmoid(logits), else softmax over all experts
  const float *bias;  // [experts] or NULL: added to the scores for the choice alone
  int64_t groups, groups_used;  // the choice is within the best groups_used of `groups` equal groups; groups <= 1: among all
  bool groups_by_two;  // a group's score is the sum of its two best, else its best
  bool is_normalized;  // weights are divided by their sum (+ ROUTER_LEAST_SUM)
  float scale;  // and multiplied by this
} RouterSettings;

typedef struct ExpertMatrices {
  const Matrix *gate, *up, *down;  // [experts] each: [width, hidden], [width, hidden], [hidden, width]
  int64_t experts, used, hidden, width;
  Activation activation;
} ExpertMatrices;

struct Kernels;
struct Backend;

// The choice itself, for tables of the CPU: chosen[used], the highest first and ties to the lower number, of choice[experts] = scores + bias,
// which is written over.
void router_choose(int32_t *chosen, float *choice, const RouterSettings *router);

// By the linear_forward (linear_forward_int8), gated_forward, gated_backward and linear_backward of a table of the CPU, with the rows of
// one expert at a time, in the order of experts and of rows. Contracts: Kernels.experts_forward and experts_backward.
// The scratch is that of some rows at once, however many there are, and of either type and direction.
int64_t experts_scratch_floats_by_parts(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, struct Backend *backend);
void experts_forward_by_parts(const struct Kernels *kernels, Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                              const float *weights, int64_t n, bool in_int8, float *scratch, struct Backend *backend);
void experts_backward_by_parts(const struct Kernels *kernels, Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts,
                               const int32_t *chosen, const float *weights, int64_t n, bool accumulate, float *scratch,
                               struct Backend *backend);

#endif
