#include "core/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { LARGE_PAGE = 2 << 20 };

_Noreturn void memory_exhausted(size_t bytes) {
  fprintf(stderr, "lora: out of memory: %zu bytes for bookkeeping were refused\n", bytes);
  _Exit(STATUS_NO_SPACE);
}

bool size_multiply(size_t *product, size_t a, size_t b) { return !__builtin_mul_overflow(a, b, product); }

void *memory_new(size_t count, size_t size) {
  void *block = calloc(count ? count : 1, size ? size : 1);
  if (!block) memory_exhausted(count * size);
  return block;
}

void *memory_grow(void *old, size_t count, size_t size) {
  size_t bytes;
  if (!size_multiply(&bytes, count, size)) memory_exhausted(SIZE_MAX);
  void *block = realloc(old, bytes ? bytes : 1);
  if (!block) memory_exhausted(bytes);
  return block;
}

char *memory_copy_string(const char *text) {
  if (!text) return NULL;
  size_t length = strlen(text);
  char *copy = memory_new(length + 1, 1);
  memcpy(copy, text, length);
  return copy;
}

static int format_length(const char *format, va_list arguments) {
  va_list copy;
  va_copy(copy, arguments);
  int length = vsnprintf(NULL, 0, format, copy);
  va_end(copy);
  return length < 0 ? 0 : length;
}

char *memory_format(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = format_length(format, arguments);
  char *text = memory_new((size_t)length + 1, 1);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  va_end(arguments);
  return text;
}

void memory_give_back(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

void *memory_pages(size_t bytes) {
  size_t alignment = bytes >= LARGE_PAGE ? LARGE_PAGE : 64, rounded = (bytes + 63) / 64 * 64;
  void *block = NULL;
  if (rounded < bytes || posix_memalign(&block, alignment, rounded ? rounded : 64) != 0) return NULL;
  // Where Linux has no large pages, nothing is lost.
  if (bytes >= LARGE_PAGE) (void)madvise(block, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
  return block;
}

Status memory_try(void **block, size_t bytes, const char *purpose) {
  *block = memory_pages(bytes);
  if (!*block) return status_fail(STATUS_NO_SPACE, "out of memory: %zu bytes for %s", bytes, purpose);
  memset(*block, 0, bytes);
  return STATUS_OK;
}

int64_t memory_peak_bytes(void) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return (int64_t)usage.ru_maxrss * 1024;
}

static int64_t read_number(const char *path, const char *key) {
  FILE *file = fopen(path, "r");
  if (!file) return -1;
  int64_t value = -1;
  char line[256];
  while (value < 0 && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, strlen(key)) == 0) sscanf(line + strlen(key), "%" SCNd64, &value);
  }
  fclose(file);
  return value;
}

int64_t memory_resident_bytes(void) {
  int64_t kibibytes = read_number("/proc/self/status", "VmRSS:");
  return kibibytes < 0 ? memory_peak_bytes() : kibibytes * 1024;
}

int64_t memory_private_bytes(void) {
  int64_t kibibytes = read_number("/proc/self/status", "RssAnon:");
  return kibibytes < 0 ? memory_peak_bytes() : kibibytes * 1024;
}

int64_t memory_available_bytes(void) {
  int64_t available = read_number("/proc/meminfo", "MemAvailable:");
  available = available < 0 ? INT64_MAX : available * 1024;
  int64_t limit = read_number("/sys/fs/cgroup/memory.max", "");
  int64_t used = read_number("/sys/fs/cgroup/memory.current", "");
  // Pages of files are counted as used, and given back when memory is short.
  int64_t inactive = read_number("/sys/fs/cgroup/memory.stat", "inactive_file ");
  int64_t active = read_number("/sys/fs/cgroup/memory.stat", "active_file ");
  if (inactive > 0) used -= inactive;
  if (active > 0) used -= active;
  if (limit > 0 && used >= 0 && limit - used < available) available = limit - used;
  return available;
}

struct ArenaChunk {
  struct ArenaChunk *next;
  size_t used, size;
  _Alignas(64) char data[];
};

enum { ARENA_CHUNK = 1 << 16 };

// A spare chunk that is large enough, or a new one; it becomes the present one.
static struct ArenaChunk *chunk_new(Arena *arena, size_t room) {
  struct ArenaChunk **place = &arena->spare;
  while (*place && (*place)->size < room) place = &(*place)->next;
  struct ArenaChunk *chunk = *place;
  if (chunk) {
    *place = chunk->next;
    room = chunk->size;
  } else {
    chunk = aligned_alloc(64, sizeof *chunk + room);
    if (!chunk) memory_exhausted(room);
  }
  *chunk = (struct ArenaChunk){.next = arena->chunks, .size = room};
  return arena->chunks = chunk;
}

void *arena_new(Arena *arena, size_t count, size_t size) {
  size_t bytes;
  if (!size_multiply(&bytes, count, size) || bytes > SIZE_MAX / 2) memory_exhausted(SIZE_MAX);
  bytes = (bytes + 63) / 64 * 64;
  struct ArenaChunk *chunk = arena->chunks;
  if (!chunk || chunk->size - chunk->used < bytes) chunk = chunk_new(arena, bytes > ARENA_CHUNK ? bytes : ARENA_CHUNK);
  void *block = chunk->data + chunk->used;
  chunk->used += bytes;
  return memset(block, 0, bytes);
}

char *arena_copy_bytes(Arena *arena, const char *bytes, size_t length) {
  char *copy = arena_new(arena, length + 1, 1);
  if (length) memcpy(copy, bytes, length);
  return copy;
}

char *arena_copy_string(Arena *arena, const char *text) { return text ? arena_copy_bytes(arena, text, strlen(text)) : NULL; }

char *arena_format(Arena *arena, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = format_length(format, arguments);
  char *text = arena_new(arena, (size_t)length + 1, 1);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  va_end(arguments);
  return text;
}

void arena_reset(Arena *arena) {
  while (arena->chunks) {
    struct ArenaChunk *chunk = arena->chunks;
    arena->chunks = chunk->next;
    chunk->next = arena->spare;
    arena->spare = chunk;
  }
}

void arena_release(Arena *arena) {
  arena_reset(arena);
  arena->chunks = arena->spare;
  arena->spare = NULL;
  while (arena->chunks) {
    struct ArenaChunk *next = arena->chunks->next;
    free(arena->chunks);
    arena->chunks = next;
  }
}

void buffer_reserve(Buffer *buffer, size_t extra) {
  if (extra > SIZE_MAX / 4 - buffer->length) memory_exhausted(extra);
  size_t needed = buffer->length + extra + 1;
  if (needed <= buffer->capacity) return;
  size_t capacity = buffer->capacity ? buffer->capacity : 64;
  while (capacity < needed) capacity *= 2;
  buffer->data = memory_grow(buffer->data, capacity, 1);
  buffer->capacity = capacity;
}

void buffer_append(Buffer *buffer, const void *bytes, size_t length) {
  buffer_reserve(buffer, length);
  if (length) memcpy(buffer->data + buffer->length, bytes, length);
  buffer->length += length;
  buffer->data[buffer->length] = 0;
}

void buffer_append_string(Buffer *buffer, const char *text) { buffer_append(buffer, text, strlen(text)); }

void buffer_format(Buffer *buffer, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = format_length(format, arguments);
  buffer_reserve(buffer, (size_t)length);
  vsnprintf(buffer->data + buffer->length, (size_t)length + 1, format, arguments);
  va_end(arguments);
  buffer->length += (size_t)length;
}

void buffer_release(Buffer *buffer) {
  free(buffer->data);
  *buffer = (Buffer){0};
}
