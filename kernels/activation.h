// The functions f of gated layers: f(gate) * up (Shazeer 2020), or f(gate) alone.
#ifndef KERNELS_ACTIVATION_H
#define KERNELS_ACTIVATION_H

typedef enum Activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_COUNT } Activation;

#endif
