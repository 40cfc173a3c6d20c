#include "tests/support/ranks.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void rank_post(const Rank *rank, int step) { atomic_fetch_add(&rank->board->posted[step], 1); }

void rank_await(const Rank *rank, int step, int count) {
  while (atomic_load(&rank->board->posted[step]) < count) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

void rank_fail(const Rank *rank, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(rank->board->failures[rank->rank], sizeof rank->board->failures[rank->rank], format, arguments);
  va_end(arguments);
  _exit(1);
}

static pid_t start(const Rank *rank, RankTest *test, int error_output) {
  fflush(NULL);
  pid_t child = fork();
  if (child != 0) return child;
  if (error_output >= 0) dup2(error_output, STDERR_FILENO);
  alarm(RANKS_SECONDS);
  test(rank);
  fflush(NULL);
  _exit(0);
}

// The number of processes that did not return. When `ends_all`, the first of them ends the rest; where it told nothing, what ended it is noted.
static int run(int size, RankTest *test, bool ends_all, int error_output, RankBoard *board) {
  Rank ranks[RANKS_MOST];
  pid_t children[RANKS_MOST];
  int failed = 0;
  assert_true(size <= RANKS_MOST);
  for (int r = 0; r < size; r++) {
    ranks[r] = (Rank){r, size, board};
    children[r] = start(&ranks[r], test, error_output);
    assert_true(children[r] > 0);
  }
  for (int left = size; left > 0; left--) {
    int status = 0, r = 0;
    pid_t ended;
    while ((ended = waitpid(-1, &status, 0)) < 0 && errno == EINTR) continue;
    while (r < size && children[r] != ended) r++;
    if (r == size) {
      left++;  // no process of this test
      continue;
    }
    children[r] = 0;
    if (status == 0) continue;
    char *words = board->failures[r];
    if (!*words && !failed)
      snprintf(words, sizeof board->failures[r], WIFSIGNALED(status) ? "ended by signal %d" : "ended with %d",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) snprintf(words, sizeof board->failures[r], "it hung for %d s", RANKS_SECONDS);
    failed++;
    for (int other = 0; other < size && ends_all; other++)
      if (children[other]) kill(children[other], SIGKILL);
  }
  return failed;
}

static RankBoard *board_new(void) {
  void *memory = mmap(NULL, sizeof(RankBoard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(memory != MAP_FAILED);
  return memory;
}

static int run_and_tell(int size, RankTest *test) {
  RankBoard *board = board_new();
  int failed = run(size, test, true, -1, board), answer = board->bytes[0];
  for (int r = 0; r < size; r++)
    if (*board->failures[r]) print_error("rank %d of %d: %s\n", r, size, board->failures[r]);
  munmap(board, sizeof *board);
  assert_int_equal(failed, 0);
  return answer;
}

void ranks_run(int size, RankTest *test) { (void)run_and_tell(size, test); }
int ranks_ask(RankTest *test) { return run_and_tell(1, test); }

void ranks_run_fatal(int size, RankTest *test, const char *words) {
  RankBoard *board = board_new();
  FILE *output = tmpfile();
  assert_non_null(output);
  int failed = run(size, test, false, fileno(output), board);
  for (int r = 0; r < size; r++)
    if (strstr(board->failures[r], "hung")) fail_msg("rank %d of %d: %s", r, size, board->failures[r]);
  munmap(board, sizeof *board);
  static char said[1 << 16];
  rewind(output);
  said[fread(said, 1, sizeof said - 1, output)] = 0;
  fclose(output);
  assert_int_equal(failed, size);
  if (!strstr(said, words)) fail_msg("nobody said \"%s\" but: %s", words, said);
}
