// scripts/demo as on a machine without a network: it says so and goes the whole way on the tiny model.
#include "core/file.h"
#include "tests/support/test.h"

static void without_a_network_the_demo_goes_on_with_the_tiny_model(void **state) {
  (void)state;
  char *folder = temporary_folder(), *output = path_join(folder, "output"), *merged = path_join(folder, "tiny-captain.gguf");
  char *command = memory_format("PIP_NO_INDEX=1 PIP_FIND_LINKS= LORA='%s' DEMO_FOLDER='%s' '%s/scripts/demo' >'%s' 2>&1", LORA_PROGRAM,
                                folder, SOURCE_DIR, output);
  int status = system(command);
  Buffer text = {0};
  assert_ok(file_read(&text, output, 1 << 20));
  if (status != 0) fail_msg("exit status %d: %s", status, text.data);
  const char *words[] = {"There seems to be no network", "== Before and after", "mean KL divergence from base + adapter: 0.0",
                         "0 of 5 before training"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (!strstr(text.data, words[i])) fail_msg("\"%s\" is not in: %s", words[i], text.data);
  assert_true(file_exists(merged));
  buffer_release(&text);
  assert_ok(directory_remove(folder));
  free(command);
  free(merged);
  free(output);
  free(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(without_a_network_the_demo_goes_on_with_the_tiny_model)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
