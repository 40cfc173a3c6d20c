// A mixture of experts by this instruction set's products (kernels/experts.c).
#include "kernels/cpu/cpu.h"

void cpu_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                         bool in_int8, float *scratch, Backend *backend) {
  experts_forward_by_parts(&ISA_NAME(kernels), y, x, experts, chosen, weights, n, in_int8, scratch, backend);
}

void cpu_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                          const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  experts_backward_by_parts(&ISA_NAME(kernels), dx, dweights, dy, x, experts, chosen, weights, n, accumulate, scratch, backend);
}
