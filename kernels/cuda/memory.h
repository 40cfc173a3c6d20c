// The device's memory, and the way into it.
#ifndef KERNELS_CUDA_MEMORY_H
#define KERNELS_CUDA_MEMORY_H

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/cuda.h"

extern "C" {
#include "core/log.h"
}

// Blocks that were given back are kept for the next request of about their size, for the driver's own calls wait for the device. Blocks
// are used by work of one stream, so that one may be taken while kernels that read its old contents are still to run.
struct Pool *pool_new_device(void);
void pool_free_all(struct Pool *pool);
// 256-byte aligned; NULL when there is no memory. `purpose` is kept, and must stay.
void *pool_take(struct Pool *pool, int64_t bytes, const char *purpose);
void pool_give(struct Pool *pool, void *block);  // NULL is nothing
int64_t pool_available(struct Pool *pool);  // what the driver has free, and what is kept here
int64_t pool_peak(const struct Pool *pool);  // the most that was in use at once
cudaError_t pool_error(const struct Pool *pool);  // why pool_take gave NULL: no memory, or a failure of the device before
void pool_describe(Buffer *text, const struct Pool *pool);  // what is in use by purpose, the largest first, a line each

// Pinned memory as a ring: a copy to the device is under way while the host goes on, and a piece of the ring is written to again only after
// its copy has run.
struct Staging *staging_new(Device *device);
void staging_free(struct Staging *staging);
void staging_send(struct Staging *staging, void *to, const void *host, int64_t bytes, Device *device);
const void *staging_copy(struct Staging *staging, const void *host, int64_t bytes, Device *device);  // device_stage

// Copies in a stream of their own: backend.h's allocate_host, release_host, offload, fetch and await_copy.
struct Copies *copies_new(Device *device);
void copies_free(struct Copies *copies);
Status copies_allocate_host(void **block, int64_t bytes, const char *purpose, Backend *backend);
void copies_release_host(void *block, Backend *backend);
int64_t copies_offload(void *host, const void *from, int64_t bytes, Backend *backend);
int64_t copies_fetch(void *to, const void *host, int64_t bytes, Backend *backend);
void copies_await(int64_t copy, Backend *backend);
// What else goes beside the kernels in their order: it is put into the stream that copies_begin gives, and copies_end gives its number.
cudaStream_t copies_begin(Device *device);
int64_t copies_end(Device *device);
bool copies_are_busy(Device *device);
void copies_wait(Device *device);

#endif
