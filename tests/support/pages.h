// Pages of kernels/pages.h in the host's memory, written down once more; and what holds of attention over them in every table.
#ifndef TESTS_SUPPORT_PAGES_H
#define TESTS_SUPPORT_PAGES_H

#include "kernels/backend.h"
#include "kernels/pages.h"

// `heads` are those of all pages, one after another: elements [heads][PAGE_TOKENS][size] (levels of PAGES_Q8_0), scales [heads][PAGE_TOKENS]
// [size / 32] of PAGES_Q8_0 alone.
void pages_encode(void *pages, PagesType type, const float *values, int64_t heads, int64_t size);
void pages_elements(float *elements, float *scales, const void *pages, PagesType type, int64_t heads, int64_t size);
void pages_values(float *values, const void *pages, PagesType type, int64_t heads, int64_t size);

// Fail the test where a row's bits depend on other rows of a call, or on how a prompt is cut into calls. is_brief: with a third of all shapes
// and types.
void pages_rows_are_alone(Backend *backend, bool is_brief);
void pages_prompts_may_be_cut(Backend *backend, bool is_brief);
// And where stored pages are not those that `reference` stores, byte for byte: zeros, values that are tiny, huge or not finite among them.
void pages_are_stored_exactly(Backend *backend, Backend *reference);
// Each row of low_rank_rows has the bits that it has in a call of its own.
void low_rank_rows_are_alone(Backend *backend);

#endif
