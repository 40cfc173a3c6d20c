// Prompt lookup (Saxena 2023; Leviathan et al. 2023 for what is done with drafts): what followed the last time the text's end was met is proposed
// as what follows now.
#ifndef RUNTIME_DRAFT_H
#define RUNTIME_DRAFT_H

#include <stdint.h>

// Up to `most` tokens to follow ids[count]; returns how many. Needs an earlier place that agrees in the last DRAFT_LEAST tokens at least.
enum { DRAFT_LEAST = 2, DRAFT_MOST = 4 };
int64_t draft_lookup(int32_t *out, const int32_t *ids, int64_t count, int64_t most);

#endif
