// The keys and values of texts that are being read and written, in pages of PAGE_TOKENS tokens (Kwon et al. 2023, "PagedAttention", arXiv
// 2309.06180): a text has a table of pages, which need not lie together, and texts that begin alike share them.
// Of one layer: keys [pages][kv_heads][PAGE_TOKENS][head_size], values [pages][kv_heads][PAGE_TOKENS][value_size]. A slot is page * PAGE_TOKENS
// + place. In PAGES_Q8_0 each page and head has its levels, int8 [PAGE_TOKENS][size], then its scales, float16 [PAGE_TOKENS][size / 32]:
// a scale d = max |x| / 127 of 32 values, rounded to float16 before it is used; level = x / d to the nearest, ties to even, within -127 .. 127
// (0 where d is 0; where a value is not finite d is NaN, and the levels are 0).
#ifndef KERNELS_PAGES_H
#define KERNELS_PAGES_H

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_TOKENS = 32, PAGES_BLOCK = 32 };

typedef enum PagesType { PAGES_F32, PAGES_F16, PAGES_Q8_0 } PagesType;

static inline const char *pages_type_name(PagesType type) { return type == PAGES_F32 ? "f32" : type == PAGES_F16 ? "f16" : "q8_0"; }
static inline bool pages_type_fits(PagesType type, int64_t size) { return type != PAGES_Q8_0 || size % PAGES_BLOCK == 0; }

// Of one page and head.
static inline int64_t page_head_bytes(PagesType type, int64_t size) {
  if (type == PAGES_Q8_0) return PAGE_TOKENS * (size + size / PAGES_BLOCK * 2);
  return PAGE_TOKENS * size * (type == PAGES_F32 ? 4 : 2);
}

typedef struct Pages {
  void *keys, *values;
  PagesType type;
} Pages;

// Some rows of one text: its last ones, whose keys and values are in their pages by now.
typedef struct PagedSpan {
  int64_t query_begin, query_end;  // rows of q and o
  int64_t length;  // tokens of the text up to the last of them: query i sees those before length - (query_end - 1 - i)
  int64_t table;  // token t of the text is in page tables[table + t / PAGE_TOKENS]
  bool is_alone;  // each query by itself, fast for few; else in tiles. A row's bits depend on this, not on the number of rows or of spans.
} PagedSpan;

// Rows begin .. end - 1 of x and y that go by one adapter: y += scale (x a^T) b^T.
typedef struct LowRankRows {
  int64_t begin, end;
  float *y;  // [n, out], rows out apart
  const float *a, *b;  // [rank, in], [out, rank]
  int64_t out, rank;
  float scale;
} LowRankRows;

#endif
