// Several processes with a device each, on the simulated one: NCCL's sums and gathers, or the host's memory in their place.
#include "tests/support/launch.h"
#include "tests/support/training.h"

#define DEVICES "-x LORA_SIMULATED_DEVICES=2 -x LORA_CUDA_LIBRARY=" LORA_CUDA_SIMULATED
static const char keys[] = "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\nmax_steps: 4\nsave_steps: 2\ndevice: cuda\n";

// Two ranks beside one, by a way of joining them.
static void compare_devices(const char *recipe, const char *environment, const char *more) {
  char *one = memory_format("%s --gradient_accumulation_steps 2 --output_dir %s/one", more, test_folder);
  char *two = memory_format("%s --gradient_accumulation_steps 1 --output_dir %s/two", more, test_folder);
  char *parts = memory_format("%s --shard_base true", two);
  train_ranks(1, "", recipe, one);
  const char *const both[] = {two, parts};
  for (int i = 0; i < 2; i++) {
    train_ranks(2, environment, recipe, both[i]);
    assert_same_losses("one", "two");
    double difference = adapter_difference("one", "two");
    if (difference > 1e-5) fail_msg("%s: the adapter differs by %g", both[i], difference);
  }
  free(one), free(two), free(parts);
}

static void devices_train_as_one(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", keys);
  compare_devices(recipe, DEVICES, "");
  compare_devices(recipe, DEVICES " -x LORA_CUDA_NCCL=off", "--max_steps 2");
  free(recipe);
}

static void devices_compare_replies_as_one(void **state) {
  (void)state;
  need_mpirun();
  char *pairs = write_preference_rows(true), *more = memory_format("--rl dpo --datasets.0.path %s --lora_dropout 0", pairs);
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", keys);
  compare_devices(recipe, DEVICES, more);
  free(pairs), free(more), free(recipe);
}

// Of a divided model whose head is its own the embedding stays with the host, unless something of it is trained.
static void an_embedding_may_stay_with_the_host(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", keys);
  Buffer output = {0};
  // A base with a head of its own: the tiny model with both trained a little.
  assert_int_equal(
      run_program(&output,
                  "train %s --base_model " TESTS_DIR "/data/tiny-hf --device cpu --lora_modules_to_save [embed_tokens,lm_head] "
                  "--load_in_4bit false --adapter lora --max_steps 1 --output_dir %s/first",
                  recipe, test_folder),
      0);
  assert_int_equal(
      run_program(&output, "merge --model " TESTS_DIR "/data/tiny-hf --adapter %s/first --output %s/untied", test_folder, test_folder), 0);
  char *more = memory_format("--base_model %s/untied --max_steps 2", test_folder);
  compare_devices(recipe, DEVICES, more);
  const char *const also[] = {"", "--neftune_noise_alpha 5"};
  for (int i = 0; i < 2; i++) {
    output.length = 0;
    int code = run_shell(&output, MPIRUN "-n 2 " DEVICES " '%s' train %s %s --shard_base true %s", LORA_PROGRAM, recipe, more, also[i]);
    bool stays = output.data && strstr(output.data, "the embedding stays in the host's memory");
    if (code != 0 || stays != (i == 0)) fail_msg("exit code %d, %s: %s", code, also[i], output.data);
  }
  buffer_release(&output);
  free(recipe), free(more);
}

static void a_checkpoint_goes_from_devices_to_one(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", keys);
  train_ranks(2, DEVICES, recipe, "--shard_base true");
  assert_int_equal(run_shell(NULL, "cp -r %s/out %s/whole", test_folder, test_folder), 0);
  char *more = memory_format("--resume %s/out/checkpoint-2", test_folder);
  train_ranks(1, "", recipe, more);
  assert_same_losses("whole", "out");
  assert_true(adapter_difference("whole", "out") <= 1e-5);
  free(recipe), free(more);
}

// The device waits in a sum that never ends; the host is called back, and asks who is there.
static void a_hung_rank_is_named_while_devices_wait(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", keys);
  for (int is_sharded = 0; is_sharded < 2; is_sharded++) {
    Buffer output = {0};
    int code = run_shell(
        &output,
        MPIRUN "-n 2 " DEVICES
               " '%s' train %s --max_steps 1000000 --save_steps 1000000 --eval_steps 1000000 --ddp_timeout 6 "
               "--shard_base %s >%s/log 2>&1 & mpirun=$!; for i in $(seq 300); do [ $(cat %s/out/metrics.jsonl 2>/dev/null | wc -l) "
               "-gt 2 ] && break; sleep 0.1; done; kill -STOP $(pgrep -P $mpirun | sort -n | tail -1); "
               "for i in $(seq 400); do kill -0 $mpirun 2>/dev/null || break; sleep 0.1; done; kill -9 $mpirun 2>/dev/null; "
               "wait $mpirun; code=$?; cat %s/log; rm -rf %s/out; exit $code",
        LORA_PROGRAM, recipe, is_sharded ? "true" : "false", test_folder, test_folder, test_folder, test_folder);
    if (code != 1 || !strstr(output.data, "rank 1 (") || !strstr(output.data, "did not come to"))
      fail_msg("exit code %d: %s", code, output.data);
    buffer_release(&output);
  }
  free(recipe);
}

static void a_device_for_all_is_refused(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", keys);
  Buffer output = {0};
  int code = run_shell(&output, MPIRUN "-n 2 " DEVICES " '%s' train %s --device cuda:0", LORA_PROGRAM, recipe);
  if (code != 2 || !strstr(output.data, "device: cuda")) fail_msg("exit code %d: %s", code, output.data);
  buffer_release(&output);
  free(recipe);
}

int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 1);
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(devices_train_as_one),
      unit_test_in_folder(devices_compare_replies_as_one),
      unit_test_in_folder(an_embedding_may_stay_with_the_host),
      unit_test_in_folder(a_checkpoint_goes_from_devices_to_one),
      unit_test_in_folder(a_hung_rank_is_named_while_devices_wait),
      unit_test_in_folder(a_device_for_all_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
