// How fast the processor can multiply and add at most: the yardstick that kernels are held to. Each table of the CPU has a
// loop of its instruction set (kernels/cpu/peak.c, kernels/reference/peak.c) and measures it by peak_measure.
#ifndef KERNELS_PEAK_H
#define KERNELS_PEAK_H

#include "kernels/backend.h"

// Runs `rounds` rounds of independent multiply-adds on registers; the result keeps the compiler from leaving them out.
typedef float (*PeakLoop)(int64_t rounds);

// Flop/s of the loop, a multiply-add being two, on all threads of the pool at once: the best of three stretches of
// about 50 ms each. Allocates nothing.
double peak_measure(PeakLoop loop, double flop_per_round, Backend *backend);

// The type that the device multiplies faster, by kernels->peak_flops, and that rate.
FloatType peak_fastest(double *flops, Backend *backend);

#endif
