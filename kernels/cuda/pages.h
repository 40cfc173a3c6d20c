// Pages of keys and values (kernels/pages.h) as CUDA kernels read them: one head of one page, by the type of its elements, which is int8_t
// for PAGES_Q8_0. Values are as they were stored, in float32.
#ifndef KERNELS_CUDA_PAGES_H
#define KERNELS_CUDA_PAGES_H

#include "kernels/cuda/elements.h"

// use(E()) for the element type of pages.
template <typename Use>
void with_pages(PagesType type, Use use) {
  switch (type) {
    case PAGES_F32: use(float()); break;
    case PAGES_F16: use(fp16()); break;
    case PAGES_Q8_0: use(int8_t()); break;
  }
}

// Keys or values of a layer. Token t of a text whose table begins at `table` is in page tables[table + t / PAGE_TOKENS].
struct PageStore {
  const char *data;
  int64_t head_bytes;  // of one page and head
  int size, kv_heads;
  bool is_packed;  // rows begin at multiples of 16 bytes and have whole packets
};

static inline PageStore page_store(const void *data, PagesType type, int64_t size, int64_t kv_heads) {
  bool is_packed = is_aligned(data) && size % (type == PAGES_F32 ? 4 : 8) == 0;
  return {static_cast<const char *>(data), page_head_bytes(type, size), static_cast<int>(size), static_cast<int>(kv_heads), is_packed};
}

__device__ __forceinline__ const char *page_head(const PageStore &store, int32_t page, int head) {
  return store.data + (static_cast<int64_t>(page) * store.kv_heads + head) * store.head_bytes;
}

// The scale of element (place, column) of such a head.
__device__ __forceinline__ float page_scale(const char *head, int size, int place, int column) {
  return to_float(reinterpret_cast<const fp16 *>(head + PAGE_TOKENS * size)[(place * size + column) / PAGES_BLOCK]);
}

template <typename E>
__device__ __forceinline__ float page_value(const char *head, int size, int place, int column) {
  E element = reinterpret_cast<const E *>(head)[place * size + column];
  if constexpr (sizeof(E) == 1) return page_scale(head, size, place, column) * static_cast<float>(element);
  else return to_float(element);
}

// N values from `column` on, which is a multiple of N; 0 beyond the row.
template <int N, typename E>
__device__ __forceinline__ void load_page(float (&out)[N], const PageStore &store, const char *head, int place, int column) {
  const E *from = reinterpret_cast<const E *>(head) + place * store.size + column;
  if constexpr (sizeof(E) == 1) {
    Elements<E, N> levels;
    if (store.is_packed) levels = load_elements<N>(from);
    else UNROLL for (int i = 0; i < N; i++) levels.at[i] = from[i];
    float scale = page_scale(head, store.size, place, column);
    UNROLL for (int i = 0; i < N; i++) out[i] = scale * static_cast<float>(levels.at[i]);
  } else {
    load_floats<N>(out, from, store.size - column, store.is_packed);
  }
}

// Rows of a span whose queries go by tiles (attention_forward.cu): o and q as in kernels/backend.h.
void attention_forward_pages(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans,
                             int64_t span_count, const AttentionShape &shape, Device *device);

#endif
