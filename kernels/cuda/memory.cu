#include "kernels/cuda/memory.h"

struct Block {
  void *address;
  int64_t bytes;
  bool is_used;
  const char *purpose;
};

struct Pool {
  Block *blocks;
  int64_t count, capacity;
  int64_t used, peak;  // bytes
  cudaError_t error;   // of the last call for memory
};

#ifdef __CUDACC__
static const int64_t POOL_UNIT = 256, POOL_SLACK = 8;
#else
static const int64_t POOL_UNIT = 1, POOL_SLACK = INT64_MAX;  // the simulated device sees what goes beyond a block's own bytes
#endif

Pool *pool_new_device(void) { return static_cast<Pool *>(memory_new(1, sizeof(Pool))); }

void pool_free_all(Pool *pool) {
  for (int64_t i = 0; i < pool->count; i++) cudaFree(pool->blocks[i].address);
  free(pool->blocks);
  free(pool);
}

// Gives the driver what is kept but not used: it may lie in pieces that do not fit.
static void pool_shrink(Pool *pool) {
  int64_t kept = 0;
  for (int64_t i = 0; i < pool->count; i++) {
    if (pool->blocks[i].is_used) pool->blocks[kept++] = pool->blocks[i];
    else cudaFree(pool->blocks[i].address);
  }
  pool->count = kept;
}

static void *use_block(Pool *pool, Block *block, const char *purpose) {
  block->is_used = true;
  block->purpose = purpose;
  pool->used += block->bytes;
  if (pool->used > pool->peak) pool->peak = pool->used;
  return block->address;
}

void *pool_take(Pool *pool, int64_t bytes, const char *purpose) {
  int64_t wanted = bytes > 0 ? (bytes + POOL_UNIT - 1) / POOL_UNIT * POOL_UNIT : POOL_UNIT;
  Block *best = NULL;
  for (int64_t i = 0; i < pool->count; i++) {
    Block *block = &pool->blocks[i];
    if (block->is_used || block->bytes < wanted || block->bytes > wanted + wanted / POOL_SLACK) continue;
    if (!best || block->bytes < best->bytes) best = block;
  }
  if (best) return use_block(pool, best, purpose);
  void *address = NULL;
  pool->error = cudaMalloc(&address, static_cast<size_t>(wanted));
  if (pool->error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // the caller tells of it
    pool_shrink(pool);
    pool->error = cudaMalloc(&address, static_cast<size_t>(wanted));
  }
  if (pool->error != cudaSuccess) {
    (void)cudaGetLastError();
    return NULL;
  }
  if (pool->count == pool->capacity) {
    pool->capacity = pool->capacity ? 2 * pool->capacity : 64;
    pool->blocks = static_cast<Block *>(memory_grow(pool->blocks, static_cast<size_t>(pool->capacity), sizeof(Block)));
  }
  pool->blocks[pool->count] = Block{address, wanted, false, purpose};
  return use_block(pool, &pool->blocks[pool->count++], purpose);
}

void pool_give(Pool *pool, void *address) {
  for (int64_t i = 0; address && i < pool->count; i++) {
    Block *block = &pool->blocks[i];
    if (block->address != address || !block->is_used) continue;
    block->is_used = false;
    pool->used -= block->bytes;
    return;
  }
}

int64_t pool_available(Pool *pool) {
  size_t available = 0, total = 0;
  if (cudaMemGetInfo(&available, &total) != cudaSuccess) return 0;
  int64_t bytes = static_cast<int64_t>(available);
  for (int64_t i = 0; i < pool->count; i++)
    if (!pool->blocks[i].is_used) bytes += pool->blocks[i].bytes;
  return bytes;
}

int64_t pool_peak(const Pool *pool) { return pool->peak; }
cudaError_t pool_error(const Pool *pool) { return pool->error; }

void pool_describe(Buffer *text, const Pool *pool) {
  struct Part {
    const char *purpose;
    int64_t bytes;
  };
  Part *parts = static_cast<Part *>(memory_new(static_cast<size_t>(pool->count) + 1, sizeof *parts));
  int64_t count = 0;
  for (int64_t i = 0; i < pool->count; i++) {
    const Block *block = &pool->blocks[i];
    int64_t at = 0;
    if (!block->is_used) continue;
    while (at < count && strcmp(parts[at].purpose, block->purpose) != 0) at++;
    if (at == count) parts[count++].purpose = block->purpose;
    parts[at].bytes += block->bytes;
  }
  for (int64_t i = 0; i < count; i++) {
    int64_t largest = i;
    for (int64_t j = i + 1; j < count; j++)
      if (parts[j].bytes > parts[largest].bytes) largest = j;
    Part part = parts[largest];
    parts[largest] = parts[i];
    parts[i] = part;
    char bytes[32];
    buffer_format(text, "%-36s %12s %5.1f%%\n", part.purpose, format_bytes(bytes, static_cast<double>(part.bytes)),
                  100 * static_cast<double>(part.bytes) / static_cast<double>(pool->used));
  }
  free(parts);
}

enum { RING_PIECES = 4, COPY_KEPT = 8 };
static const int64_t PIECE_BYTES = 4 << 20, COPY_BYTES = 64 << 10;

// One of the small tables that kernels read, with what it held last.
struct Copy {
  void *device;
  char *host;
  int64_t bytes, capacity;
};

struct Staging {
  char *pinned;  // [RING_PIECES][PIECE_BYTES]
  cudaEvent_t copied[RING_PIECES];  // the piece's last copy has run
  int piece;  // being filled
  int64_t filled;
  Copy copies[COPY_KEPT];
  int next_copy;
};

Staging *staging_new(Device *device) {
  Staging *staging = static_cast<Staging *>(memory_new(1, sizeof *staging));
  void *pinned = NULL;
  CHECK(device, cudaMallocHost(&pinned, static_cast<size_t>(RING_PIECES * PIECE_BYTES)));
  staging->pinned = static_cast<char *>(pinned);
  for (int i = 0; i < RING_PIECES; i++) CHECK(device, cudaEventCreateWithFlags(&staging->copied[i], cudaEventDisableTiming));
  return staging;
}

void staging_free(Staging *staging) {
  for (int i = 0; i < RING_PIECES; i++) cudaEventDestroy(staging->copied[i]);
  for (int i = 0; i < COPY_KEPT; i++) free(staging->copies[i].host);
  cudaFreeHost(staging->pinned);
  free(staging);
}

// Room for `bytes` of the ring, at most a piece.
static char *ring_room(Staging *staging, int64_t bytes, Device *device) {
  if (staging->filled + bytes > PIECE_BYTES) {
    CHECK(device, cudaEventRecord(staging->copied[staging->piece], device->stream));
    staging->piece = (staging->piece + 1) % RING_PIECES;
    staging->filled = 0;
    device_wait_event(device, staging->copied[staging->piece]);  // of a fresh event it returns at once
  }
  char *room = staging->pinned + staging->piece * PIECE_BYTES + staging->filled;
  staging->filled += (bytes + 63) / 64 * 64;
  return room;
}

void staging_send(Staging *staging, void *to, const void *host, int64_t bytes, Device *device) {
  for (int64_t done = 0; done < bytes && device->error == cudaSuccess;) {
    int64_t length = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
    char *room = ring_room(staging, length, device);
    memcpy(room, static_cast<const char *>(host) + done, static_cast<size_t>(length));
    CHECK(device, cudaMemcpyAsync(static_cast<char *>(to) + done, room, static_cast<size_t>(length), cudaMemcpyHostToDevice, device->stream));
    done += length;
  }
}

const void *staging_copy(Staging *staging, const void *host, int64_t bytes, Device *device) {
  for (int i = 0; i < COPY_KEPT; i++) {
    const Copy *copy = &staging->copies[i];
    if (copy->bytes == bytes && copy->host && memcmp(copy->host, host, static_cast<size_t>(bytes)) == 0) return copy->device;
  }
  // The oldest is replaced: kernels in the stream that read it come before the copy.
  Copy *copy = &staging->copies[staging->next_copy];
  staging->next_copy = (staging->next_copy + 1) % COPY_KEPT;
  if (bytes > copy->capacity) {
    pool_give(device->pool, copy->device);
    copy->capacity = bytes > COPY_BYTES ? bytes + bytes / 2 : COPY_BYTES;
    copy->device = pool_take(device->pool, copy->capacity, "tables of kernels");
    if (!copy->device) device_check(device, cudaErrorMemoryAllocation, "tables of kernels");
    copy->host = static_cast<char *>(memory_grow(copy->host, static_cast<size_t>(copy->capacity), 1));
  }
  copy->bytes = bytes;
  memcpy(copy->host, host, static_cast<size_t>(bytes));
  staging_send(staging, copy->device, host, bytes, device);
  return copy->device;
}
