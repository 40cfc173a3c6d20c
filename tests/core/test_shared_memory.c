// A block that another process sees, and what it writes there.
#include "core/shared_memory.h"

#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/test.h"

enum { BYTES = 3 << 20 };

static void another_process_sees_the_block(void **state) {
  (void)state;
  int descriptor;
  char *block = memory_share_new(&descriptor, BYTES);
  assert_non_null(block);
  for (int64_t i = 0; i < BYTES; i += 4096) assert_int_equal(block[i], 0);
  memcpy(block + BYTES - 6, "there", 6);
  pid_t parent = getpid(), child = fork();
  if (child == 0) {
    char *seen = memory_share_open(parent, descriptor, BYTES);
    bool is_there = seen && strcmp(seen + BYTES - 6, "there") == 0;
    if (is_there) memcpy(seen, "back", 5);
    _exit(is_there ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_string_equal(block, "back");
  close(descriptor);
  memory_unshare(block, BYTES);
}

static void what_cannot_be_seen_is_no_block(void **state) {
  (void)state;
  assert_null(memory_share_open(getpid(), 9999, BYTES));
  assert_null(memory_share_open(INT64_MAX, 0, BYTES));
  memory_unshare(NULL, BYTES);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(another_process_sees_the_block), cmocka_unit_test(what_cannot_be_seen_is_no_block)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
