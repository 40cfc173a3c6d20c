// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), by the backend's kernel `adamw`.
#ifndef OPTIM_ADAMW_H
#define OPTIM_ADAMW_H

#include "optim/optimizer.h"

extern const OptimizerMethod optimizer_adamw;

#endif
