// Runs of several processes under mpirun as a user meets them, on the tiny model: they train as one process does, whatever the data; they stop
// together when one is gone; and they notice what is not the same on all of them.

#include "core/file.h"
#include "core/log.h"
#include "tests/support/launch.h"
#include "tests/support/training.h"

// 12 rows less 2 for evaluation: 5 micro-batches an epoch, so that each second step is short, and one rank has less to do or nothing.
static const char shared_keys[] = "bf16: false\n";

static void compare_ranks(const char *recipe, const char *more, int accumulation) {
  char *one = memory_format("%s --gradient_accumulation_steps %d --output_dir %s/ranks1", more, accumulation, test_folder);
  train_ranks(1, "", recipe, one);
  for (int ranks = 2; ranks <= 4; ranks *= 2) {
    char *name = memory_format("ranks%d", ranks);
    char *many = memory_format("%s --gradient_accumulation_steps %d --output_dir %s/%s", more, accumulation / ranks, test_folder, name);
    train_ranks(ranks, "", recipe, many);
    assert_same_losses("ranks1", name);
    double difference = adapter_difference("ranks1", name);
    if (difference > 1e-5) fail_msg("%s: the adapter of %d ranks differs by %g", more, ranks, difference);
    free(name), free(many);
  }
  free(one);
}

// Plain gradient descent shows the gradients' own rounding; AdamW would take it times 1 / sqrt(v).
static void ranks_train_as_one_process(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", shared_keys);
  compare_ranks(recipe, "--optimizer sgd --learning_rate 0.1", 4);
  compare_ranks(recipe, "--optimizer sgd --learning_rate 0.1 --sample_packing true --micro_batch_size 1", 4);
  free(recipe);
}

static void ranks_compare_replies_as_one_process(void **state) {
  (void)state;
  need_mpirun();
  char *pairs = write_preference_rows(true), *marks = write_preference_rows(false);
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlora_dropout: 0\n");
  char *dpo = memory_format("--rl dpo --optimizer sgd --learning_rate 0.1 --datasets.0.path %s", pairs);
  char *before = memory_format("%s --precompute_ref_log_probs true --rpo_alpha 0.5", dpo);
  char *kto = memory_format("--rl kto --optimizer sgd --learning_rate 0.1 --datasets.0.path %s", marks);
  compare_ranks(recipe, dpo, 4);
  compare_ranks(recipe, before, 4);
  compare_ranks(recipe, kto, 4);
  free(pairs), free(marks), free(recipe), free(dpo), free(before), free(kto);
}

static void a_checkpoint_goes_on_with_another_number_of_ranks(void **state) {
  (void)state;
  need_mpirun();
  char *recipe =
      training_recipe("recipe.yml", tiny_gguf, "whole", "bf16: false\noptimizer: sgd\nlearning_rate: 0.1\nsave_total_limit: 9\n");
  train_ranks(2, "", recipe, "");
  static const struct {
    int ranks;
    const char *more;
  } others[] = {{1, ""}, {4, ""}, {1, "--gradient_accumulation_steps 4"}, {4, "--gradient_accumulation_steps 1"}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    char *copy = memory_format("rm -rf %s/again; cp -r %s/whole %s/again; rm -rf %s/again/checkpoint-8", test_folder, test_folder,
                               test_folder, test_folder);
    char *more = memory_format("%s --output_dir %s/again --resume %s/again/checkpoint-4", others[i].more, test_folder, test_folder);
    assert_int_equal(run_shell(NULL, "%s", copy), 0);
    train_ranks(others[i].ranks, "", recipe, more);
    assert_same_losses("whole", "again");
    double difference = adapter_difference("whole", "again");
    if (difference > 1e-5) fail_msg("%d ranks %s: the adapter differs by %g", others[i].ranks, others[i].more, difference);
    free(copy), free(more);
  }
  // A step of another size is another recipe.
  assert_refused(3, recipe, "--gradient_accumulation_steps 3 --resume", "another recipe", "checkpoint");
  free(recipe);
}

// Each rank has the states of a part of the parameters; checkpoints have all of them.
static void a_divided_optimiser_updates_as_a_whole_one(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "whole", "bf16: false\nsave_total_limit: 9\nmax_grad_norm: 0.5\n");
  static const char *const optimizers[] = {"adamw_torch", "lion", "sgd --optim_args momentum=0.9"};
  for (int i = 0; i < 3; i++) {
    char *one = memory_format("--optimizer %s --learning_rate 1e-3 --gradient_accumulation_steps 6", optimizers[i]);
    train_ranks(1, "", recipe, one);
    for (int ranks = 2; ranks <= 3; ranks++) {
      char *many =
          memory_format("--optimizer %s --learning_rate 1e-3 --gradient_accumulation_steps %d --shard_optimizer true --output_dir %s/parts",
                        optimizers[i], 6 / ranks, test_folder);
      train_ranks(ranks, "", recipe, many);
      assert_same_losses("whole", "parts");
      // One rank goes on from what several have left.
      char *resumed = memory_format("%s --resume %s/parts/checkpoint-4 --output_dir %s/parts", one, test_folder, test_folder);
      train_ranks(1, "", recipe, resumed);
      assert_same_losses("whole", "parts");
      // And several from what one has left.
      char *again = memory_format("%s --resume %s/whole/checkpoint-4", many, test_folder);
      train_ranks(ranks, "", recipe, again);
      assert_same_losses("whole", "parts");
      free(many), free(resumed), free(again);
    }
    free(one);
  }
  assert_refused(2, recipe, "--optimizer adafactor --shard_optimizer true", "shard_optimizer", "adafactor");
  free(recipe);
}

// ---- Ends

typedef struct Ended {
  int code;
  double seconds;  // from the signal to the end
  Buffer output;
} Ended;

// Starts a long run of 2 ranks, waits until it has checkpoints, lets `act` do something to it ($mpirun, $first and $second are the processes'
// numbers), and waits for its end.
static Ended end_by(const char *recipe, const char *more, const char *act) {
  Ended ended = {0};
  char *log = path_join(test_folder, "log"), *folder = path_join(test_folder, "out");
  char *command = memory_format(
      MPIRUN
      "-n 2 '%s' train %s --max_steps 1000000 --save_steps 5 --eval_steps 1000000 --logging_steps 1000000 %s >%s 2>&1 & mpirun=$!; "
      "for i in $(seq 600); do ls -d %s/checkpoint-10 >/dev/null 2>&1 && break; sleep 0.1; done; "
      "set -- $(pgrep -P $mpirun | sort -n); first=$1; second=$2; date +%%s.%%N >%s.time; %s; "
      "for i in $(seq 900); do kill -0 $mpirun 2>/dev/null || break; sleep 0.1; done; kill -9 $mpirun 2>/dev/null; wait $mpirun; code=$?; "
      "date +%%s.%%N >>%s.time; exit $code",
      LORA_PROGRAM, recipe, more, log, folder, log, act, log);
  ended.code = run_shell(NULL, "%s", command);
  read_whole(&ended.output, "log");
  Buffer times = {0};
  read_whole(&times, "log.time");
  double begin = 0, end = 0;
  assert_int_equal(sscanf(times.data, "%lf %lf", &begin, &end), 2);
  ended.seconds = end - begin;
  buffer_release(&times);
  free(log), free(folder), free(command);
  return ended;
}

// The newest checkpoint is whole: another run of one process goes on from it.
static void assert_resumes(const char *recipe) {
  Buffer output = {0};
  int64_t newest = -1;
  assert_int_equal(run_shell(&output, "ls %s/out | sed -n 's/^checkpoint-\\([0-9]*\\)$/\\1/p' | sort -n | tail -1", test_folder), 0);
  newest = strtoll(output.data, NULL, 10);
  assert_true(newest >= 10);
  output.length = 0;
  int code =
      run_shell(&output,
                "'%s' train %s --resume --max_steps 1000000 --logging_steps 1 >%s/resumed 2>&1 & pid=$!; "
                "for i in $(seq 600); do grep -q '^step ' %s/resumed && break; sleep 0.1; done; kill -TERM $pid; wait $pid; code=$?; "
                "cat %s/resumed; exit $code",
                LORA_PROGRAM, recipe, test_folder, test_folder, test_folder);
  char *word = memory_format("checkpoint-%lld", (long long)newest);
  if (code != 143 || !strstr(output.data, word)) fail_msg("exit code %d, or %s was not resumed from: %s", code, word, output.data);
  free(word);
  buffer_release(&output);
}

static void a_hung_rank_is_named_and_all_stop(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlr_scheduler: constant\nddp_timeout: 6\n");
  static const char *const acts[] = {"kill -STOP $second", "kill -STOP $first"};
  for (int hung = 0; hung < 2; hung++) {
    Ended ended = end_by(recipe, "", acts[hung]);
    const char *name = hung == 0 ? "rank 1 (" : "rank 0 (", *after = "did not come to";
    const char *found = strstr(ended.output.data, after);
    if (ended.code != 1 || !found || !strstr(ended.output.data, name)) fail_msg("exit code %d: %s", ended.code, ended.output.data);
    while (found > ended.output.data && found[-1] != '\n' && strncmp(found, name, strlen(name)) != 0) found--;
    assert_memory_equal(found, name, strlen(name));
    if (ended.seconds > 6 + 30) fail_msg("it took %g s", ended.seconds);
    buffer_release(&ended.output);
    assert_resumes(recipe);
    assert_int_equal(run_shell(NULL, "rm -rf %s/out", test_folder), 0);
  }
  free(recipe);
}

static void a_dead_rank_is_named_and_all_stop(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlr_scheduler: constant\nddp_timeout: 6\n");
  Ended ended = end_by(recipe, "", "kill -KILL $second");
  if (ended.code == 0 || !strstr(ended.output.data, "rank 1")) fail_msg("exit code %d: %s", ended.code, ended.output.data);
  if (ended.seconds > 6 + 30) fail_msg("it took %g s", ended.seconds);
  buffer_release(&ended.output);
  assert_resumes(recipe);
  free(recipe);
}

static void a_signal_to_mpirun_checkpoints_and_stops(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\nlr_scheduler: constant\n");
  Ended ended = end_by(recipe, "", "kill -USR1 $mpirun");
  if (ended.code != 143 || !strstr(ended.output.data, "stopped by a signal after step"))
    fail_msg("exit code %d: %s", ended.code, ended.output.data);
  const char *told = strstr(ended.output.data, "stopped by a signal after step");
  assert_null(strstr(told + 1, "stopped by a signal"));  // one rank tells
  int64_t step = strtoll(told + strlen("stopped by a signal after step"), NULL, 10);
  char *folder = memory_format("out/checkpoint-%lld/manifest.json", (long long)step), *path = path_join(test_folder, folder);
  assert_true(file_exists(path));
  buffer_release(&ended.output);
  assert_resumes(recipe);
  // SIGTERM mpirun passes on once it has waited, and it waits again before it kills.
  assert_int_equal(run_shell(NULL, "rm -rf %s/out", test_folder), 0);
  setenv("OMPI_MCA_odls_base_sigkill_timeout", "3", 1);
  ended = end_by(recipe, "", "kill -TERM $mpirun");
  unsetenv("OMPI_MCA_odls_base_sigkill_timeout");
  if (ended.code == 0 || !strstr(ended.output.data, "stopped by a signal after step"))
    fail_msg("exit code %d: %s", ended.code, ended.output.data);
  buffer_release(&ended.output);
  assert_resumes(recipe);
  free(folder), free(path), free(recipe);
}

// ---- What is not the same

static void assert_ranks_refused(int code, const char *word, const char *word2, const char *format, ...) PRINTF_LIKE(4, 5);
static void assert_ranks_refused(int code, const char *word, const char *word2, const char *format, ...) {
  char ranks[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(ranks, sizeof ranks, format, arguments);
  va_end(arguments);
  Buffer output = {0};
  double start = time_seconds();
  int got = run_shell(&output, MPIRUN "%s", ranks);
  if (got != code || !strstr(output.data, word) || !strstr(output.data, word2))
    fail_msg("exit code %d where %d was expected, or no \"%s\" or \"%s\" in: %s", got, code, word, word2, output.data);
  assert_true(time_seconds() - start < 30);
  buffer_release(&output);
}

static void ranks_that_differ_are_found_at_the_start(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  const char *lora = LORA_PROGRAM;
  assert_ranks_refused(2, "rank 1", "another recipe than rank 0's", "-n 1 '%s' train %s : -n 1 '%s' train %s --learning_rate 3e-2", lora,
                       recipe, lora, recipe);
  assert_ranks_refused(2, "\"learning_rate: 0.03", "rank 2", "-n 2 '%s' train %s : -n 1 '%s' train %s --learning_rate 0.03", lora, recipe,
                       lora, recipe);
  assert_ranks_refused(2, "rank 1", "instruction set", "-n 1 '%s' train %s : -n 1 -x LORA_CPU=scalar '%s' train %s", lora, recipe, lora,
                       recipe);
  // The same recipe in two folders with files of their own.
  static const char prepare[] =
      "for d in a b; do mkdir -p %s/$d; cp %s %s/$d/model.gguf; cp %s/rows.jsonl %s/$d/rows.jsonl; sed 's,%s/*,,; "
      "s,base_model:.*,base_model: "
      "model.gguf,' %s > %s/$d/recipe.yml; done; sed -i '2s/, 3/, 4/' %s/b/rows.jsonl";
  const char *f = test_folder;
  assert_int_equal(run_shell(NULL, prepare, f, tiny_gguf, f, f, f, f, recipe, f, f), 0);
  char *apart = memory_format("-n 1 sh -c 'cd %s/a && exec %s train recipe.yml' : -n 1 sh -c 'cd %s/b && exec %s train recipe.yml'", f,
                              lora, f, lora);
  assert_ranks_refused(2, "rank 1", "training rows", "%s", apart);
  assert_int_equal(run_shell(NULL, "cp %s/a/rows.jsonl %s/b/; '%s' quantize %s %s/b/model.gguf --type q4_0", test_folder, test_folder, lora,
                             tiny_gguf, test_folder),
                   0);
  assert_ranks_refused(2, "rank 1", "base model", "%s", apart);
  // One bit, far behind what a model is told by.
  assert_int_equal(
      run_shell(NULL,
                "cp %s %s/b/model.gguf; at=$(($(wc -c <%s/b/model.gguf) - 5)); "
                "printf '\\001' | dd of=%s/b/model.gguf bs=1 seek=$at conv=notrunc 2>/dev/null; ! cmp -s %s/a/model.gguf %s/b/model.gguf",
                tiny_gguf, f, f, f, f, f),
      0);
  assert_ranks_refused(2, "rank 1", "something else in model.gguf", "%s", apart);
  free(apart), free(recipe);
}

static void what_one_rank_cannot_do_ends_all(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  const char *lora = LORA_PROGRAM;
  assert_ranks_refused(2, "rank 1", "LORA_CPU=none", "-n 1 '%s' train %s : -n 1 -x LORA_CPU=none '%s' train %s", lora, recipe, lora,
                       recipe);
  assert_ranks_refused(3, "/nowhere", "no such file", "-n 2 '%s' train %s --base_model /nowhere", lora, recipe);
  assert_ranks_refused(2, "learning_rte", "learning_rate", "-n 2 '%s' train %s --learning_rte 1", lora, recipe);
  assert_ranks_refused(4, "rank 0", "File too large", "-n 1 sh -c 'ulimit -f 20; trap \"\" XFSZ; exec %s train %s' : -n 1 '%s' train %s",
                       lora, recipe, lora, recipe);
  free(recipe);
}

// Each on processors of its own, though mpirun itself would put both on one core each of a larger machine.
static void ranks_share_the_processors(void **state) {
  (void)state;
  need_mpirun();
  Buffer output = {0}, doctor = {0};
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  run_shell(&output,
            MPIRUN "-n 2 '%s' train %s --max_steps 1000000 --save_steps 0 --eval_steps 1000000 >/dev/null 2>&1 & mpirun=$!; " UNTIL_IT_RUNS
                   "for p in $(pgrep -P $mpirun | sort -n); do sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/$p/status; done; nproc; "
                   "kill -KILL $mpirun $(pgrep -P $mpirun)",
            LORA_PROGRAM, recipe, test_folder);
  char first[256] = "", second[256] = "";
  int processors = 0;
  if (!output.data || sscanf(output.data, "%255s %255s %d", first, second, &processors) != 3) fail_msg("no lists: %s", output.data);
  if (processors > 1 && strcmp(first, second) == 0) fail_msg("both ranks run on the processors %s", first);
  assert_int_equal(run_program(&doctor, "doctor --device cpu"), 0);
  assert_non_null(strstr(doctor.data, "processes: many, by Open MPI"));
  buffer_release(&output), buffer_release(&doctor);
  free(recipe);
}

static void without_a_launcher_no_mpi_is_opened(void **state) {
  (void)state;
  need_mpirun();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "bf16: false\n");
  assert_int_equal(run_shell(NULL, "LORA_MPI_LIBRARY=/nowhere '%s' train %s", LORA_PROGRAM, recipe), 0);
  assert_ranks_refused(2, "/nowhere", "Open MPI", "-n 2 -x LORA_MPI_LIBRARY=/nowhere '%s' train %s", LORA_PROGRAM, recipe);
  Buffer output = {0};
  assert_int_equal(run_shell(&output, "SLURM_STEP_NUM_TASKS=4 '%s' train %s", LORA_PROGRAM, recipe), 2);
  assert_non_null(strstr(output.data, "srun --mpi=pmix"));
  buffer_release(&output);
  free(recipe);
}

int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(ranks_train_as_one_process),
      unit_test_in_folder(ranks_compare_replies_as_one_process),
      unit_test_in_folder(a_checkpoint_goes_on_with_another_number_of_ranks),
      unit_test_in_folder(a_divided_optimiser_updates_as_a_whole_one),
      unit_test_in_folder(a_hung_rank_is_named_and_all_stop),
      unit_test_in_folder(a_dead_rank_is_named_and_all_stop),
      unit_test_in_folder(a_signal_to_mpirun_checkpoints_and_stops),
      unit_test_in_folder(ranks_that_differ_are_found_at_the_start),
      unit_test_in_folder(what_one_rank_cannot_do_ends_all),
      unit_test_in_folder(ranks_share_the_processors),
      unit_test_in_folder(without_a_launcher_no_mpi_is_opened),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
