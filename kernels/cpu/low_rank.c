// The backward pass of LoRA's b: by tiles dy is read once for all that is wanted of it (weight_backward_bf16.c); else by two products.
#include "kernels/cpu/weight_backward.h"

static void round_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const LowRankGradient *g = argument;
  for (int64_t i = begin; i < end; i++)
    for (int64_t j = 0; j < g->out; j += VL) {
      Vec values;
      BY_TYPE(g->dy.type, values = typed_load(g->dy.data, i * g->dy.step + j, g->out - j, TYPE));
      BY_TYPE(g->rounded.type, typed_store(g->rounded.data, i * g->rounded.step + j, values, g->out - j, TYPE));
    }
}

static void differentiate(const LowRankGradient *g, int64_t n, Backend *backend) {
#ifdef __AMX_BF16__
  if (g->h.type == FLOAT_BF16 && (!g->rounded.data || g->rounded.type == FLOAT_BF16)) {
    WeightProduct turned = {.wide = g->dy, .n = n, .width = g->out, .is_turned = true, .low = g, .backend = backend};
    turned.narrow[turned.narrow_count++] = (NarrowOperand){g->h, g->rank, g->db, g->rank, 1};
    weight_product_tiles(&turned);
    return;
  }
#endif
  cpu_weight_backward(&(WeightGradient){.dw = g->db, .dy = g->dy, .rows = g->out, .alpha = 1}, 1, g->h, g->rank, n, backend);
  Matrix b = matrix_f32(g->b, g->out, g->rank);
  cpu_linear_backward(g->dh, &(Projection){.w = &b, .alpha = g->scale, .y = g->dy}, 1, n, false, backend);
  if (g->rounded.data) run_rows(backend, n, g->out, round_rows, (void *)(uintptr_t)g);
}

void cpu_low_rank_backward(const LowRankGradient *gradients, int count, int64_t n, Backend *backend) {
  for (const LowRankGradient *g = gradients; n > 0 && g < gradients + count; g++) differentiate(g, n, backend);
}
