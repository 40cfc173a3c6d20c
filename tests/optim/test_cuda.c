// The methods on the simulated device: those of several kernels go through its products and its memory as on a card.
#include "tests/optim/methods_support.h"

// Steps are float32 there: twenty of them, each rounded by a few units, and Muon's as test_methods.c has it, by other products. With states
// in 8 bits such a unit now and then makes a code its neighbour: that may cost a tenth of what having codes at all does.
static double allowed(json_t *entry) {
  json_t *error = json_object_get(entry, "float32_error"), *codes = json_object_get(entry, "bitsandbytes_to_float32");
  if (codes) return json_number_value(codes) / 10;
  return error ? 4 * json_number_value(error) : METHOD_STEPS * 0x1p-22;
}

static void methods_on_cuda_match_their_libraries(void **state) {
  (void)state;
  Backend *backend;
  size_t index;
  json_t *entry;
  assert_ok(backend_new(&backend, "cuda", 1));
  json_array_foreach(methods_entry("cases"), index, entry) {
    double distance = method_run(entry, backend);
    char text[160];
    method_describe(text, entry);
    print_message("%s: %.3g\n", text, distance);
    if (!(distance <= allowed(entry))) fail_msg("%s: off by %.3g of the way", text, distance);
  }
  backend_free(backend);
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {cmocka_unit_test(methods_on_cuda_match_their_libraries)};
  return cmocka_run_group_tests(tests, methods_open, methods_close);
}
