// The table of this instruction set's kernels. Every member of Kernels is here, in its order; tests/kernels/test_backends.c
// fails when one is missing.
#include "kernels/cpu/cpu.h"

#define ISA_TEXT_(isa) #isa
#define ISA_TEXT(isa) ISA_TEXT_(isa)

const Kernels ISA_NAME(kernels) = {
    .name = ISA_TEXT(ISA),
    .linear_forward = cpu_linear_forward,
    .linear_forward_int8 = cpu_linear_forward_int8,
    .linear_backward = cpu_linear_backward,
    .weight_backward = cpu_weight_backward,
    .low_rank_backward = cpu_low_rank_backward,
    .embedding_forward = cpu_embedding_forward,
    .norm_forward = cpu_norm_forward,
    .norm_backward = cpu_norm_backward,
    .rope = cpu_rope,
    .attention_forward = cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .gated_forward = cpu_gated_forward,
    .gated_backward = cpu_gated_backward,
    .cross_entropy = cpu_cross_entropy,
    .linear_cross_entropy = cpu_linear_cross_entropy,
    .softcap = cpu_softcap,
    .router_forward = cpu_router_forward,
    .router_backward = cpu_router_backward,
    .experts_scratch_floats = experts_scratch_floats_by_parts,
    .experts_forward = cpu_experts_forward,
    .experts_backward = cpu_experts_backward,
    .copy_heads = cpu_copy_heads,
    .dropout = cpu_dropout,
    .gather_rows = cpu_gather_rows,
    .scatter_rows = cpu_scatter_rows,
    .fill = cpu_fill,
    .copy = cpu_copy,
    .add = cpu_add,
    .adamw = cpu_adamw,
    .adamw_8bit = cpu_adamw_8bit,
    .sum_of_squares = cpu_sum_of_squares,
    .low_rank_norms = cpu_low_rank_norms,
    .magnitude_forward = cpu_magnitude_forward,
    .magnitude_backward = cpu_magnitude_backward,
    .peak_flops = cpu_peak_flops,
};
