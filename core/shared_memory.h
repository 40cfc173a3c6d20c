// Memory that several processes of one machine see.
#ifndef CORE_SHARED_MEMORY_H
#define CORE_SHARED_MEMORY_H

#include <stdint.h>

// A new zeroed block, and the descriptor by which others find it as long as it is open (close it once they have). NULL when there is none.
void *memory_share_new(int *descriptor, int64_t bytes);
// The block of another process of the same user; NULL where it may not be seen, as from another container.
void *memory_share_open(int64_t process, int descriptor, int64_t bytes);
void memory_unshare(void *block, int64_t bytes);  // NULL is nothing

#endif
