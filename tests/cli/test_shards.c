// A base that several processes hold a part of each (shard_base): the same training as with the whole base, of every kind of base and
// method, and the bytes that the run says it will hold and move. Each process counts as a machine here, or else they would share one copy.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/launch.h"
#include "tests/support/training.h"

static const char apart[] = "-x LORA_MACHINE=each";

// The run of one process, and those of 2 and 3 with a part of the base each.
static void compare_shards(const char *recipe, const char *more) {
  char *one = memory_format("%s --gradient_accumulation_steps 6 --output_dir %s/whole", more, test_folder);
  train_ranks(1, "", recipe, one);
  for (int ranks = 2; ranks <= 3; ranks++) {
    char *parts =
        memory_format("%s --gradient_accumulation_steps %d --shard_base true --output_dir %s/parts", more, 6 / ranks, test_folder);
    train_ranks(ranks, apart, recipe, parts);
    assert_same_losses("whole", "parts");
    double difference = adapter_difference("whole", "parts");
    if (difference > 1e-5) fail_msg("%s: the adapter of %d ranks differs by %g", more, ranks, difference);
    free(parts);
  }
  free(one);
}

// An epoch of 5 micro-batches: one rank or two have nothing to compute at its end, but gather with the others.
static void a_divided_base_trains_as_a_whole_one(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\n");
  compare_shards(recipe, "");
  compare_shards(recipe, "--base_model " TESTS_DIR "/data/tiny-hf");
  compare_shards(recipe, "--base_model " TESTS_DIR "/data/tiny-hf --adapter lora --load_in_4bit false");
  compare_shards(recipe, "--base_model " TESTS_DIR "/data/tiny-hf --adapter lora --load_in_4bit false --load_in_8bit true");
  compare_shards(recipe, "--peft_use_dora true --lora_dropout 0");
  compare_shards(recipe, "--peft_layers_to_transform [2]");
  compare_shards(recipe, "--gradient_checkpointing true --kl_weight 0.1");
  free(recipe);
}

static void blocks_of_files_are_divided_as_they_are(void **state) {
  (void)state;
  need_mpirun();
  static const char *const types[] = {"q8_0", "q4_0"};
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\n");
  for (int i = 0; i < 2; i++) {
    Buffer output = {0};
    assert_int_equal(run_program(&output, "quantize %s %s/base.gguf --type %s", tiny_gguf, test_folder, types[i]), 0);
    char *more = memory_format("--base_model %s/base.gguf", test_folder);
    compare_shards(recipe, more);
    free(more);
    buffer_release(&output);
  }
  free(recipe);
}

static void replies_are_compared_over_a_divided_base(void **state) {
  (void)state;
  need_mpirun();
  char *pairs = write_preference_rows(true), *marks = write_preference_rows(false);
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\nlora_dropout: 0\n");
  char *dpo = memory_format("--rl dpo --datasets.0.path %s", pairs), *kto = memory_format("--rl kto --datasets.0.path %s", marks);
  char *before = memory_format("%s --precompute_ref_log_probs true", dpo);
  compare_shards(recipe, dpo);
  compare_shards(recipe, before);
  compare_shards(recipe, kto);
  free(pairs), free(marks), free(recipe), free(dpo), free(kto), free(before);
}

// Families with what only some have: experts, fused and latent projections, tied heads.
static void every_family_can_be_divided(void **state) {
  (void)state;
  need_mpirun();
  static const char *const families[] = {"mixtral", "deepseek_v3", "phi3", "gemma3", "starcoder2"};
  char *shared = shared_path("golden/families");
  if (!shared) skip_test("golden/families is not there");
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\nsave_steps: 0\n");
  free(write_token_rows(3, 60));
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    char *more = memory_format("--base_model %s/%s --max_steps 3 --lora_dropout 0", shared, families[i]);
    compare_shards(recipe, more);
    free(more);
  }
  free(shared), free(recipe);
}

// A size as the log has it, "90.00 KiB", behind a word; in bytes.
static double size_behind(const char *text, const char *word) {
  const char *found = strstr(text, word);
  if (!found) fail_msg("no \"%s\" in: %s", word, text);
  char unit[8] = "";
  double value = 0;
  assert_int_equal(sscanf(found + strlen(word), " %lf %7s", &value, unit), 2);
  return value * (unit[0] == 'K' ? 1024 : unit[0] == 'M' ? 1 << 20 : 1);
}

static void memory_and_bytes_are_what_was_said(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nval_set_size: 0\neval_steps: null\nsample_packing: true\n");
  // A layer of tiny.gguf in NF4: what the whole base has, and what is kept of it by 2 and by 3.
  for (int ranks = 2; ranks <= 3; ranks++) {
    Buffer output = {0}, metrics = {0};
    int code = run_shell(&output, MPIRUN "-n %d %s '%s' train %s --shard_base true --gradient_accumulation_steps 1 --micro_batch_size 1",
                         ranks, apart, LORA_PROGRAM, recipe);
    if (code != 0) fail_msg("exit code %d: %s", code, output.data);
    double kept = size_behind(output.data, "each process keeps"), step = size_behind(output.data, "a micro-batch brings it"),
           forward = size_behind(output.data, "only evaluated");
    // Three layers: a pass forward and back leaves the first two; forward there is one to gather, and back one.
    double part = step / (2 * (ranks - 1));
    assert_true(fabs(forward - 3 * (ranks - 1) * part) < 32);
    assert_true(fabs(kept - (3 * part + 2 * ranks * part)) < 32);
    read_whole(&metrics, "out/metrics.jsonl");
    int count = 0;
    for (char *line = strtok(metrics.data, "\n"); line; line = strtok(NULL, "\n"), count++) {
      json_t *object = json_loads(line, 0, NULL);
      double moved = json_number_value(json_object_get(object, "gathered_bytes"));
      double first = count == 0 ? (ranks - 1) * part : 0;  // the base was opened with its last two layers at hand
      if (fabs(moved - step - first) > 32) fail_msg("step %d moved %g bytes, and %g were foretold", count + 1, moved, step + first);
      json_decref(object);
    }
    assert_int_equal(count, 8);
    buffer_release(&output), buffer_release(&metrics);
  }
  free(recipe);
}

// What was quantised is one block for all ranks of a machine: a process's own memory does not hold it.
static void ranks_of_a_machine_share_one_copy(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", TESTS_DIR "/data/tiny-hf", "out", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\n");
  char *one = memory_format("--gradient_accumulation_steps 2 --output_dir %s/one", test_folder);
  char *two = memory_format("--gradient_accumulation_steps 1 --shard_base true --output_dir %s/two", test_folder);
  train_ranks(1, "", recipe, one);
  train_ranks(2, "", recipe, two);
  assert_same_losses("one", "two");
  assert_true(adapter_difference("one", "two") <= 1e-5);
  Buffer output = {0};
  run_shell(&output,
            MPIRUN
            "-n 2 '%s' train %s --max_steps 1000000 --save_steps 0 --eval_steps 1000000 >/dev/null 2>&1 & mpirun=$!; " UNTIL_IT_RUNS
            "for p in $(pgrep -P $mpirun); do grep memfd:lora /proc/$p/maps | head -1 | sed 's/.*\\(00:[0-9a-f]* [0-9]*\\) .*/\\1/'; "
            "done; kill -KILL $mpirun $(pgrep -P $mpirun)",
            LORA_PROGRAM, recipe, test_folder);
  char first[64] = "", second[64] = "";
  if (!output.data || sscanf(output.data, "%63[^\n]\n%63[^\n]", first, second) != 2 || strcmp(first, second) != 0)
    fail_msg("not the same block: %s", output.data ? output.data : "none");
  buffer_release(&output);
  free(recipe), free(one), free(two);
}

// One machine has two ranks, which share a copy, and the other has one.
static void machines_may_have_different_numbers_of_ranks(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", TESTS_DIR "/data/tiny-hf", "out", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\n");
  char *one = memory_format("--gradient_accumulation_steps 3 --output_dir %s/one", test_folder);
  train_ranks(1, "", recipe, one);
  static const char *const divides[] = {"false", "true"};
  for (int i = 0; i < 2; i++) {
    Buffer output = {0};
    char *rank = memory_format("'%s' train %s --gradient_accumulation_steps 1 --shard_base %s --output_dir %s/three", LORA_PROGRAM, recipe,
                               divides[i], test_folder);
    int code = run_shell(&output, MPIRUN "-n 2 -x LORA_MACHINE=a %s : -n 1 -x LORA_MACHINE=b %s", rank, rank);
    if (code != 0) fail_msg("exit code %d: %s", code, output.data);
    assert_same_losses("one", "three");
    assert_true(adapter_difference("one", "three") <= 1e-5);
    buffer_release(&output);
    free(rank);
  }
  free(recipe), free(one);
}

static void what_cannot_be_divided_is_refused(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", TESTS_DIR "/data/tiny-hf", "out", "shard_base: true\n");
  assert_refused(2, recipe, "--peft_init_lora_weights pissa --adapter lora --load_in_4bit false", "shard_base",
                 "peft_init_lora_weights: true");
  free(recipe);
  recipe = training_recipe("recipe.yml", TESTS_DIR "/data/tiny-hf", "out", "shard_base: true\n");
  assert_runs("train %s %s", recipe, "");  // one process: there is nothing to divide
  free(recipe);
}

int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(a_divided_base_trains_as_a_whole_one),         unit_test_in_folder(blocks_of_files_are_divided_as_they_are),
      unit_test_in_folder(replies_are_compared_over_a_divided_base),     unit_test_in_folder(every_family_can_be_divided),
      unit_test_in_folder(memory_and_bytes_are_what_was_said),           unit_test_in_folder(ranks_of_a_machine_share_one_copy),
      unit_test_in_folder(machines_may_have_different_numbers_of_ranks), unit_test_in_folder(what_cannot_be_divided_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
