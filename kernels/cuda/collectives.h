// Sums and gathers between processes, each with a device of its own (kernels/collectives.h), by NCCL: its library, opened at run time.
// Communicators do not block: wherever the host waits for other processes, Backend.while_waiting is called and may leave them.
#ifndef KERNELS_CUDA_COLLECTIVES_H
#define KERNELS_CUDA_COLLECTIVES_H

#include "kernels/cuda/cuda.h"

extern const Collectives cuda_collectives;

// Called now and then while the host waits for the device. What NCCL has met since becomes the device's error, and the other processes are
// left, as the stream would wait for them for ever.
void ranks_watch(Device *device);
// At once.
void ranks_close(Device *device);

#endif
