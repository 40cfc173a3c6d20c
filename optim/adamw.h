// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), by the backend's kernels `adamw` and `adamw_8bit`.
// The latter keeps m and v in a byte each and a scale for every 256 of them (Dettmers et al. 2022; kernels/adamw_8bit.h): 2.03 bytes a parameter
// in place of 8. bitsandbytes leaves tensors of fewer than 4096 elements in float32; here all are in 8 bits, for parameters are one flat
// buffer in which tensors have no borders, and such small ones are few in an adapter. Blocks begin at a group's first parameter.
#ifndef OPTIM_ADAMW_H
#define OPTIM_ADAMW_H

#include "optim/optimizer.h"

extern const OptimizerMethod optimizer_adamw;
extern const OptimizerMethod optimizer_adamw_8bit;

#endif
