// The methods, each in the file that is named beside it. Their equations are in kernels/backend.h (AdamW), kernels/update.h, and in the
// files of those that take more than one kernel.
#ifndef OPTIM_METHODS_H
#define OPTIM_METHODS_H

#include "optim/optimizer.h"

// adamw.c. Moments in 8 bits (Dettmers et al. 2022; kernels/adamw_8bit.h) are a byte each and a scale for every 256: 2.03 bytes a parameter
// in place of 8. bitsandbytes leaves tensors of fewer than 4096 elements in float32; here all are in 8 bits, for neighbours of the same
// settings are one range in which tensors have no borders, and such small ones are few in an adapter. Blocks begin at a range's first
// parameter.
extern const OptimizerMethod optimizer_adamw, optimizer_adamw_8bit;
// element.c
extern const OptimizerMethod optimizer_lion, optimizer_lion_8bit, optimizer_ademamix, optimizer_ademamix_8bit, optimizer_sgd,
    optimizer_sgd_momentum, optimizer_rmsprop, optimizer_rmsprop_8bit, optimizer_adagrad, optimizer_schedule_free;
// adafactor.c, muon.c
extern const OptimizerMethod optimizer_adafactor, optimizer_muon;

// AdamW's step of a range, with m and v at its first parameter.
void adamw_range(Optimizer *optimizer, float *parameters, float *m, float *v, const float *gradients, const ParameterRange *range,
                 double learning_rate, double gradient_scale);

#endif
