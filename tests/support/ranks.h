// Tests of several processes that work together. Each is forked before it opens anything, runs the same function with a rank of its own, and
// tells the parent what went wrong; none outlives RANKS_SECONDS. cmocka's assertions belong to the parent: a child uses those below.
#ifndef TESTS_SUPPORT_RANKS_H
#define TESTS_SUPPORT_RANKS_H

#include <stdatomic.h>

#include "tests/support/test.h"

enum { RANKS_MOST = 8, RANKS_STEPS = 8, RANKS_BYTES = 4096, RANKS_SECONDS = 120 };

// Memory that all processes of a test share.
typedef struct RankBoard {
  atomic_int posted[RANKS_STEPS];
  uint8_t bytes[RANKS_BYTES];  // what the test says of it
  char failures[RANKS_MOST][512];
} RankBoard;

typedef struct Rank {
  int rank, size;
  RankBoard *board;
} Rank;
typedef void RankTest(const Rank *rank);

// Fails the test where a process does, with its words. The rest are ended then.
void ranks_run(int size, RankTest *test);
// The first of the board's bytes after one process has run.
int ranks_ask(RankTest *test);
// Every process has to end by itself otherwise than by returning, and say `words` on stderr.
void ranks_run_fatal(int size, RankTest *test, const char *words);

// Of the processes: each post counts, and await waits for `count` of them.
void rank_post(const Rank *rank, int step);
void rank_await(const Rank *rank, int step, int count);
_Noreturn void rank_fail(const Rank *rank, const char *format, ...) PRINTF_LIKE(2, 3);
#define rank_expect(rank, condition)                                                          \
  do {                                                                                        \
    if (!(condition)) rank_fail((rank), "%s:%d: not so: %s", __FILE__, __LINE__, #condition); \
  } while (0)
#define rank_ok(rank, expression)                                                                                         \
  do {                                                                                                                    \
    if ((expression) != STATUS_OK) rank_fail((rank), "%s:%d: %s: %s", __FILE__, __LINE__, #expression, status_message()); \
  } while (0)
// Unless the expression fails with a message that holds these words.
#define rank_refused(rank, expression, words)                                                                                            \
  do {                                                                                                                                   \
    if ((expression) == STATUS_OK) rank_fail((rank), "%s:%d: %s succeeds", __FILE__, __LINE__, #expression);                             \
    if (!strstr(status_message(), (words))) rank_fail((rank), "%s:%d: no \"%s\" in: %s", __FILE__, __LINE__, (words), status_message()); \
  } while (0)

#endif
