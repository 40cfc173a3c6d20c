// Memory by lifetime. Bookkeeping (strings, tables, graphs) comes from these helpers, which never
// return NULL: when even that much is not there the process says so and ends with exit code 4,
// which is safe at any point because every file is written beside its target and renamed. Large
// blocks (weights, activations, caches) use memory_try, and their callers return STATUS_NO_SPACE.
#ifndef CORE_MEMORY_H
#define CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

_Noreturn void memory_exhausted(size_t bytes);  // says so, and ends the process with exit code 4
void *memory_new(size_t count, size_t size);  // zeroed; count * size checked
void *memory_grow(void *old, size_t count, size_t size);  // realloc; count * size checked
char *memory_copy_string(const char *text);  // NULL gives NULL
char *memory_format(const char *format, ...) PRINTF_LIKE(1, 2);  // a new string
void memory_give_back(void);  // to the system, what has been freed
// 64-byte aligned, on large pages from 2 MiB on (what is read in strides misses the TLB far less), not touched: pages nobody uses cost
// nothing. NULL when there is no memory; free() it.
void *memory_pages(size_t bytes);
Status memory_try(void **block, size_t bytes, const char *purpose);  // 64-byte aligned, zeroed; free() it
bool size_multiply(size_t *product, size_t a, size_t b);  // false on overflow
int64_t memory_peak_bytes(void);  // the process's largest resident size so far
int64_t memory_resident_bytes(void);  // resident now
int64_t memory_private_bytes(void);  // resident now, mapped files and shared memory left out
int64_t memory_available_bytes(void);  // what the machine has free (MemAvailable, cgroup limit)

// Grows `array` so that one more element fits: ARRAY_PUSH(items, count, capacity) = value.
#define ARRAY_PUSH(array, count, capacity)                                                                              \
  (*((count) == (capacity) ? ((capacity) = (capacity) ? (capacity)*2 : 8,                                               \
                              (array) = memory_grow((array), (size_t)(capacity), sizeof *(array)), (array) + (count)++) \
                           : (array) + (count)++))

// An arena: everything allocated from it is released at once.
typedef struct Arena {
  struct ArenaChunk *chunks, *spare;
} Arena;

void *arena_new(Arena *arena, size_t count, size_t size);  // zeroed, 64-byte aligned
char *arena_copy_string(Arena *arena, const char *text);
char *arena_copy_bytes(Arena *arena, const char *bytes, size_t length);  // adds a NUL
char *arena_format(Arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);
void arena_reset(Arena *arena);  // everything is given up, but the memory is kept for what comes next
void arena_release(Arena *arena);

// A growing byte string, always NUL-terminated when `data` is not NULL.
typedef struct Buffer {
  char *data;
  size_t length;
  size_t capacity;
} Buffer;

void buffer_reserve(Buffer *buffer, size_t extra);
void buffer_append(Buffer *buffer, const void *bytes, size_t length);
void buffer_append_string(Buffer *buffer, const char *text);
void buffer_format(Buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
void buffer_release(Buffer *buffer);

#endif
