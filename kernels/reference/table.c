// The table of the plain-C kernels. Every member of Kernels is here, in its order; tests/kernels/test_backends.c
// fails when one is missing.
#include "kernels/reference/reference.h"

const Kernels kernels_scalar = {
    .name = "scalar",
    .linear_forward = reference_linear_forward,
    .linear_forward_int8 = reference_linear_forward_int8,
    .linear_backward = reference_linear_backward,
    .weight_backward = reference_weight_backward,
    .low_rank_backward = reference_low_rank_backward,
    .embedding_forward = reference_embedding_forward,
    .rmsnorm_forward = reference_rmsnorm_forward,
    .rmsnorm_backward = reference_rmsnorm_backward,
    .rope = reference_rope,
    .attention_forward = reference_attention_forward,
    .attention_backward = reference_attention_backward,
    .gated_forward = reference_gated_forward,
    .gated_backward = reference_gated_backward,
    .cross_entropy = reference_cross_entropy,
    .linear_cross_entropy = reference_linear_cross_entropy,
    .dropout = reference_dropout,
    .gather_rows = reference_gather_rows,
    .scatter_rows = reference_scatter_rows,
    .fill = reference_fill,
    .copy = reference_copy,
    .add = reference_add,
    .adamw = reference_adamw,
    .sum_of_squares = reference_sum_of_squares,
    .peak_flops = reference_peak_flops,
};
