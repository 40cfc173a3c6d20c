// Activations of an MLP: x sigmoid(x), and Hendrycks and Gimpel 2016's GELU by tanh.
#ifndef KERNELS_ACTIVATION_H
#define KERNELS_ACTIVATION_H

typedef enum Activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_COUNT } Activation;

#endif
