// A group of one rank, which every run without a launcher has: everything is there already, and nobody is waited for. (Groups of several are
// tested under mpirun: tests/cli/test_ranks.c; their devices' sums and gathers in tests/kernels/test_cuda.c.)
#include "parallel/group.h"

#include "tests/support/test.h"

static Status count_call(void *context) {
  ++*(int *)context;
  return STATUS_OK;
}

static void alone_everything_is_there_already(void **state) {
  (void)state;
  Group group = group_alone();
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 1));
  assert_ok(group_join_devices(backend, &group));
  assert_null(backend->while_waiting);
  double values[] = {1.5, -2};
  float floats[] = {3, 4, 5}, whole[2] = {0, 0};
  int calls = 0;
  int64_t number = 7;
  void *block = values;
  assert_ok(group_sum(values, 2, "a test", &group));
  assert_ok(group_sum_floats(floats, 3, "a test", &group));
  assert_ok(group_exchange(values, sizeof *values, "a test", &group));
  assert_ok(group_broadcast(values, sizeof values, "a test", &group));
  assert_true(values[0] == 1.5 && values[1] == -2 && floats[0] == 3 && floats[2] == 5);
  assert_ok(group_compare("recipe", "a text", &group));
  assert_ok(group_in_turns(count_call, &calls, "a test", &group));
  assert_int_equal(calls, 1);
  assert_ok(group_gather(&number, whole, floats, sizeof whole, &group));
  assert_ok(group_await_gather(number, "a test", &group));
  assert_true(whole[0] == 3 && whole[1] == 4 && group.gathered_bytes == 0);
  assert_ok(group_shared_block(&block, 100, &group));
  assert_null(block);
  group_abort(&group, STATUS_FAILED);  // there is nobody to end: the caller's own way out does
  group_close(&group);
  backend_free(backend);
}

static void parts_cover_all_and_are_even(void **state) {
  (void)state;
  for (int size = 1; size <= 9; size++)
    for (int64_t count = 0; count < 2000; count += 37) {
      Group group = group_alone();
      group.size = size;
      int64_t part = group_part(count, &group);
      assert_true(part * size >= count && part % 64 == 0);
      assert_true((part - 64) * size < count);  // no unit more than needed
    }
}

static void devices_go_by_the_number_on_the_machine(void **state) {
  (void)state;
  Group group = group_alone();
  char *device;
  assert_ok(group_device(&device, "cuda", &group));
  assert_string_equal(device, "cuda");
  free(device);
  assert_ok(group_device(&device, NULL, &group));
  assert_null(device);
  group.size = group.local_size = 2;
  assert_ok(group_device(&device, "cpu", &group));
  assert_string_equal(device, "cpu");
  free(device);
  assert_fails(STATUS_USAGE, group_device(&device, "cuda:1", &group), "device cuda:1", "2 ranks");
  free(device);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(alone_everything_is_there_already), cmocka_unit_test(parts_cover_all_and_are_even),
                                     cmocka_unit_test(devices_go_by_the_number_on_the_machine)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
