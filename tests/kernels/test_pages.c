// What generation rests on in every table of the CPU, beyond what test_backends.c tries: bits of a row are its own, whatever else is in a
// batch and however a prompt is cut, and pages are stored as kernels/pages.h says to the last bit. test_cuda.c does the same.
#include "tests/support/pages.h"
#include "tests/support/test.h"

static void for_tables(void (*check)(Backend *backend)) {
  for (int t = 0; backend_cpu_kernels(t); t++) {
    Backend *backend;
    assert_ok(backend_new(&backend, "cpu", 2));
    backend->kernels = backend_cpu_kernels(t);
    check(backend);
    backend_free(backend);
  }
}

static void check_stored(Backend *backend) {
  Backend *reference;
  assert_ok(backend_new(&reference, "cpu", 1));
  reference->kernels = &kernels_scalar;
  pages_are_stored_exactly(backend, reference);
  backend_free(reference);
}

static void check_alone(Backend *backend) { pages_rows_are_alone(backend, false); }
static void check_prompts(Backend *backend) { pages_prompts_may_be_cut(backend, false); }

static void bits_of_a_row_do_not_depend_on_others(void **state) {
  (void)state;
  for_tables(check_alone);
}

static void bits_of_a_prompt_do_not_depend_on_how_it_is_cut(void **state) {
  (void)state;
  for_tables(check_prompts);
}

static void pages_are_stored_to_the_last_bit(void **state) {
  (void)state;
  for_tables(check_stored);
}

static void bits_of_a_row_of_an_adapter_are_its_own(void **state) {
  (void)state;
  for_tables(low_rank_rows_are_alone);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_of_a_row_do_not_depend_on_others),
      cmocka_unit_test(bits_of_a_prompt_do_not_depend_on_how_it_is_cut),
      cmocka_unit_test(pages_are_stored_to_the_last_bit),
      cmocka_unit_test(bits_of_a_row_of_an_adapter_are_its_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
